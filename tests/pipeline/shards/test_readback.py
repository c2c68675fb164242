"""Other people's tools read our datasets with the lines that docs/preprocess.md shows, and find what was written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from molstream.pipeline.shards.codec import SCHEMA, decode
from molstream.pipeline.shards.containers import CONTAINERS
from molstream.pipeline.shards.manifest import read_manifest
from tests.support.datasets import REPOSITORY, molecules, molstream, write_csv

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

READERS = {
    "webdataset": ("mine",),
    "pyarrow.dataset": ("table", "table", "table"),
    "datasets": ("table", "mine"),
}
"""Import by which a block of the page is known, and the datasets that it prints, in its order."""

PRINT = '''
import builtins
import json

def print(first, *rest):
    """Key and positions of a molecule, or all rows of a table, as one line of JSON."""
    table = first.fetchall if hasattr(first, "fetchall") else lambda: first.itertuples(index=False)
    for key, positions in [(first, *rest)] if rest else table():
        line = json.dumps([key, [[float(x) for x in atom] for atom in positions]])
        builtins.print(line)
'''
"""Stands before a block: what the block prints can be read again, in full."""


def block(reader: str) -> str:
    """The program for a reader in the documentation of datasets."""
    programs = BLOCK.findall((REPOSITORY / "docs" / "preprocess.md").read_text())
    found = [p for p in programs if re.search(rf"^(import|from) {re.escape(reader)}\b", p, re.MULTILINE)]
    assert len(found) == 1, f"expected one block of docs/preprocess.md with {reader}, found {len(found)}"
    return found[0]


@pytest.fixture(scope="module")
def folder(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README leaves it: datasets/mine in tar shards, datasets/table in Arrow shards."""
    folder = tmp_path_factory.mktemp("readback")
    (folder / "datasets").mkdir()
    (folder / "datasets" / "mine").symlink_to(dataset)
    source, table = write_csv(folder / "molecules.csv", molecules()), folder / "datasets" / "table"
    settings = ("container=arrow", "rows_per_shard=30", "block_rows=8", "featurize.conformers.num_conformers=2")
    molstream("preprocess", f"input={source}", f"output={table}", "limit=70", *settings)
    return folder


def written(dataset: Path) -> list[list[object]]:
    """Key and positions of every molecule, by the block index."""
    manifest, found = read_manifest(dataset), []
    for shard in manifest.shards:
        data = (dataset / shard.name).read_bytes()
        for place in shard.blocks:
            part = data[place.offset : place.offset + place.bytes]
            samples = decode(CONTAINERS[manifest.container].decode(part, SCHEMA, SCHEMA.names))
            found += [[sample.key, sample.positions.reshape(-1, 3).tolist()] for sample in samples]
    return found


@pytest.mark.parametrize("reader", READERS)
def test_the_lines_of_the_readme_read_what_was_written(folder, reader):
    environment = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", PRINT + block(reader)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    expected = {name: written(folder / "datasets" / name) for name in READERS[reader]}
    assert len(expected[READERS[reader][0]]) > 50
    assert all(len(positions) for rows in expected.values() for _, positions in rows)
    assert found == [row for name in READERS[reader] for row in expected[name]]

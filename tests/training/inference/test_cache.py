"""Vectors on disk: the same ones the next time, other ones for whatever they depend on, and no wrong one ever."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molstream.errors import ConfigError, DataError
from molstream.training.inference.cache import FILE
from molstream.training.inference.embedder import MoleculeEmbedder
from tests.support.datasets import REPOSITORY
from tests.support.exports import write_export

SMILES = ["CCO", "c1ccccc1O", "junk", "C[C@H](N)C(=O)O", "CCO", "*C"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("export") / "both")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def embedder(export: Path, folder: Path, **options: object) -> MoleculeEmbedder:
    return MoleculeEmbedder(export, **{"representation": "2d", "cache": folder, **options})


def computed(found: MoleculeEmbedder, molecules: list) -> tuple[np.ndarray, int]:
    """Vectors of molecules, and how many of their records had to be computed."""
    count = 0
    plain = found.embed_records

    def counting(raws, *arguments):
        nonlocal count
        count += len(raws)
        return plain(raws, *arguments)

    found.embed_records = counting
    return found.transform(molecules), count


def rows(folder: Path) -> int:
    with sqlite3.connect(folder / FILE) as connection:
        return connection.execute("select count(*) from vectors").fetchone()[0]


def test_vectors_and_failures_are_computed_once(both, folder):
    expected = MoleculeEmbedder(both, representation="2d").transform(SMILES)
    first, count = computed(embedder(both, folder), SMILES)
    assert count == 6
    np.testing.assert_array_equal(first, expected)
    # Another order, another batch and another molecule: only that one is new.
    again = embedder(both, folder, batch_size=2)
    vectors, count = computed(again, [*SMILES[::-1], "CCN"])
    assert count == 1
    np.testing.assert_array_equal(vectors[:6], expected[::-1])
    assert list(again.failures_) == [0, 3]
    assert "unparsable" in again.failures_[3]
    with pytest.raises(DataError, match="row 2, 'junk': parse: unparsable"):
        embedder(both, folder, on_error="raise").transform(SMILES)
    assert rows(folder) == 6


def test_whatever_a_vector_depends_on_tells_it_apart(both, folder, tmp_path):
    other_weights = write_export(tmp_path / "other", seed=1)
    mol = Chem.AddHs(Chem.MolFromSmiles("OCCN(C)C"))
    rdDistGeom.EmbedMultipleConfs(mol, 2, randomSeed=1)
    molecules = [mol, Chem.Mol(mol, confId=1), "OCCN(C)C"]
    variants = [
        (both, {}),
        (other_weights, {}),
        (both, {"readout": "mean"}),
        (both, {"readout": "max"}),
        (both, {"num_layers": 1}),
        (both, {"representation": "3d"}),
        (both, {"representation": "both"}),
        (both, {"representation": "3d", "num_conformers": 1}),
        (both, {"representation": "3d", "num_conformers": 2}),
    ]
    for _ in range(2):
        for export, options in variants:
            plain = MoleculeEmbedder(export, **{"representation": "2d", **options}).transform(molecules)
            found = embedder(export, folder, **options).transform(molecules)
            np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)
    assert rows(folder) == 3 * len(variants)
    untrained = embedder(both, folder).untrained(3)
    assert np.abs(untrained.transform(molecules) - embedder(both, folder).transform(molecules)).max() > 0.01


def test_what_a_limit_cuts_off_is_tried_again(both, folder):
    slow = "C" * 250
    bounded = {"representation": "3d", "n_jobs": 1, "deadline_s": 0.5}
    first = embedder(both, folder, **bounded)
    first.transform([slow, "CCO"])
    assert "deadline" in first.failures_[0]
    assert rows(folder) == 1


SCRIPT = """
import sys
from molstream.training.inference.embedder import MoleculeEmbedder
found = MoleculeEmbedder(sys.argv[1], representation="2d", cache=sys.argv[2])
for start in range(0, 60, 5):
    found.transform(["C" * (k + 1) + sys.argv[3] for k in range(start, start + 5)])
"""


@pytest.mark.slow
def test_several_processes_write_at_once(both, folder):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(both), str(folder)]
    running = [subprocess.Popen([*command, end], env=environment) for end in ("O", "O", "N")]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert rows(folder) == 120


@pytest.mark.parametrize("damage", ["header", "vector", "cut", "text"])
def test_a_damaged_file_is_an_error_and_no_vector(both, folder, damage):
    expected = embedder(both, folder).transform(SMILES)
    file = folder / FILE
    content = bytearray(file.read_bytes())
    if damage == "header":
        content[0] ^= 1
    elif damage == "vector":
        content[content.index(expected[0].astype("<f4").tobytes()[:64]) + 5] ^= 4
    elif damage == "cut":
        del content[4096:]
    else:
        content = bytearray(b"not a database, but long enough to be looked at " * 40)
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"cache .*vectors.sqlite is damaged: .*Remove the file"):
        embedder(both, folder).transform(SMILES)
    file.unlink()
    np.testing.assert_array_equal(embedder(both, folder).transform(SMILES), expected)


def test_files_of_other_programs_and_users_are_refused(both, folder, tmp_path):
    embedder(both, folder).transform(SMILES)
    for each in (folder / FILE, folder):
        each.chmod(each.stat().st_mode | 0o020)
        with pytest.raises(DataError, match=rf"cache: {each} belongs to user .* run `chmod go-w"):
            embedder(both, folder).transform(SMILES)
        each.chmod(each.stat().st_mode & ~0o020)
    other = tmp_path / "other"
    other.mkdir()
    with sqlite3.connect(other / FILE) as connection:
        connection.execute("create table vectors (mine)")
    with pytest.raises(DataError, match="is no cache of this molstream"):
        embedder(both, other).transform(SMILES)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be used: .*Give a folder that you can write to"):
        embedder(both, tmp_path / "file").transform(SMILES)


def test_molecules_that_are_no_records_are_not_kept(both, folder):
    found = embedder(both, folder)
    vectors = found.transform([Chem.MolFromSmarts("[C,N]C"), None, "C"])
    assert sorted(found.failures_) == [0, 1]
    assert not np.isnan(vectors[2]).any()
    assert rows(folder) == 2


def test_nothing_is_written_without_a_cache(both, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MoleculeEmbedder(both, representation="2d").transform(["C"])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="cache=3"):
        MoleculeEmbedder(both, cache=3).fit(["C"])  # pyright: ignore[reportArgumentType]

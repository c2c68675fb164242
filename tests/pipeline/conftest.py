"""Datasets that are shared by tests of what people see of one."""

import csv
from pathlib import Path

import pytest

from tests.support.datasets import molecules, molstream

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "junk & more", "C\x1b[31mred\u202egnitset")
"""Unparsable, and harmful where they are shown as they are."""
REJECTED = {
    "CN(C)(C)(C)C": "unsanitizable",
    "": "empty_input",
    "*CC": "dummy_atom",
    "C" * 300: "too_many_atoms",
    "C" * 2001: "too_long",
}
SALTS = ("[Na+].CCCCCCCCCCCCC(=O)[O-]", "Cl.CCCCCCCCCCCCCN")


@pytest.fixture(scope="session")
def nasty_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of ordinary and of nasty rows: one target, one column of text, one with a bad number far behind."""
    file = tmp_path_factory.mktemp("nasty") / "<b>nasty & co.csv"
    cells = [*REJECTED, *molecules()[:60], *HOSTILE, "OCC", "C(C)O", *SALTS]
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["smiles", "value", "name", "logp"])
        writer.writerows([cell, k / 10, f"molecule {k}", -k] for k, cell in enumerate(cells))
    return file


@pytest.fixture(scope="session")
def nasty_dataset(nasty_source: Path) -> Path:
    """The dataset of it: rejections of many reasons, duplicates, decontaminated rows, changes by standardization."""
    benchmark = nasty_source.parent / "set&1.smi"
    benchmark.write_text("\n".join(molecules()[5:8]))
    output = nasty_source.parent / "dataset"
    arguments = ("target_columns=[value]", "rows_per_shard=20", "block_rows=6", "max_rejected_fraction=0.3")
    files = (f"input={nasty_source}", f"decontaminate={benchmark}")
    done = molstream("preprocess", *files, f"output={output}", *arguments)
    assert f"card: {output / 'card.html'}" in done.stdout.splitlines()
    return output


@pytest.fixture(scope="session")
def bare_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset without conformers, descriptors, targets or rejections, of fewer molecules than a card draws."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "bare.smi").write_text("\n".join(molecules()[:7]) + "\n")
    arguments = (f"input={folder / 'bare.smi'}", f"output={folder / 'dataset'}", "container=arrow")
    molstream("preprocess", *arguments, "featurize.conformers.num_conformers=0", "featurize.descriptors=none")
    return folder / "dataset"

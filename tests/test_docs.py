"""The programs of docs/python.md run, in their order, in one folder, against the wheel that users install."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import molstream
from tests.support.datasets import REPOSITORY, molecules, write_csv
from tests.support.wheel import unpacked_wheel

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

PAGE = (REPOSITORY / "docs" / "python.md").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def folder(dataset: Path, small_run: Path, export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with what the page builds upon."""
    folder = tmp_path_factory.mktemp("python")
    write_csv(folder / "molecules.csv", molecules())
    (folder / "datasets").mkdir()
    (folder / "datasets" / "mine").symlink_to(dataset)
    (folder / "runs" / "mine").mkdir(parents=True)
    for path in small_run.iterdir():
        (folder / "runs" / "mine" / path.name).symlink_to(path)
    (folder / "runs" / "mine" / "export").symlink_to(export)
    return folder


def python(file: Path, wheel: Path) -> str:
    """What a program prints that has the wheel, and nothing of the clone."""
    result = subprocess.run(
        [sys.executable, file],
        cwd=file.parent,
        env={**os.environ, "PYTHONPATH": str(wheel), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, f"{file.read_text(encoding='utf-8')}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.mark.slow
def test_every_program_of_the_page_runs_from_a_wheel(folder, wheel):
    blocks = BLOCK.findall(PAGE)
    for number, text in enumerate(blocks):
        file = folder / f"block_{number}.py"
        file.write_text(f"{text}\nimport molstream\nprint('from', molstream.__file__)\n")
        assert f"from {wheel / 'molstream'}" in python(file, wheel)
    assert len(blocks) >= 6


def test_every_public_name_comes_from_a_wheel(folder, wheel):
    file = folder / "names.py"
    file.write_text("from molstream import *\nimport molstream\nprint(*molstream.__all__)\n")
    assert python(file, wheel).split() == molstream.__all__


def test_fine_tuning_takes_ten_lines():
    [text] = [block for block in BLOCK.findall(PAGE) if "optimizer" in block and "load_pretrained" in block]
    lines = [line for line in text.splitlines() if line and not line.startswith(("import", "from", "torch.save"))]
    assert len(lines) == 10


def test_the_page_shows_every_function_and_class_that_does_something():
    for name in (
        "MoleculeEmbedder",
        "load_pretrained",
        "MoleculeDataset",
        "featurize",
        "collate_samples",
        "generate",
        "preprocess",
        "pretrain",
    ):
        assert any(re.search(rf"\b{name}\(|\b{name}\.", block) for block in BLOCK.findall(PAGE)), name

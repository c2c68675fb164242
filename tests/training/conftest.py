"""Artefacts of one small run, made by the real commands and shared by the tests of everything behind training."""

from pathlib import Path

import pytest

from tests.datasets import molstream


@pytest.fixture(scope="session")
def small_run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pretraining run of a few steps."""
    run_dir = tmp_path_factory.mktemp("small") / "run"
    molstream(
        "pretrain",
        f"data.path={dataset}",
        f"run_dir={run_dir}",
        "model=tiny",
        "data.lanes=2",
        "data.micro_batch=8",
        "steps=6",
        "save_every=3",
        "log_every=2",
    )
    return run_dir


@pytest.fixture(scope="session")
def export(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of that run."""
    output = tmp_path_factory.mktemp("export") / "encoder"
    molstream("export", f"run_dir={small_run}", f"output={output}", "purpose=test")
    return output

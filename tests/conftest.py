"""Fixtures shared by all rooms' tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported. Tensors of tests are small: beside anything else that runs, threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.support.datasets import REPOSITORY, molecules, molstream, write_csv
from tests.support.disk import Disk, mounted

LONGEST = (
    "test_round_trips",
    "test_readme",
    "test_pretrain",
    "test_elastic",
    "test_append",
    "test_chaos",
    "test_one_spelling",
    "test_submit",
    "test_engine",
    "test_preprocess",
    "test_extensions",
    "test_golden_road",
)
"""Modules that take longest. A worker takes a whole module at a time: one of these at the end would run alone."""


# A shell that starts the tests in the background has them ignore Ctrl-C, and so every process that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest modules first."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real molecules beside the repository; tests that need it skip where it is absent."""
    path = REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"real data not present at {path}")
    return path


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed dataset of about 80 small molecules with conformers and one target, in several shards and blocks."""
    folder = tmp_path_factory.mktemp("dataset")
    source = write_csv(folder / "molecules.csv", molecules())
    molstream(
        "preprocess",
        f"input={source}",
        f"output={folder / 'shards'}",
        "target_columns=[value]",
        "rows_per_shard=30",
        "block_rows=8",
    )
    return folder / "shards"


@pytest.fixture(scope="session")
def small_run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pretraining run of our form, of a few steps."""
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


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 64 MiB that can be filled up."""
    with mounted(tmp_path / "disk") as disk:
        yield disk

"""Fixtures shared by all rooms' tests."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


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
    from tests.datasets import molecules, molstream, write_csv

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

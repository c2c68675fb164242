"""A disk that fills up during a job is told in a sentence, costs no work and changes no byte. On a real full disk."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.datasets import REPOSITORY, molecules, molstream, write_csv
from tests.support.outcome import assert_same_outcome

SETTINGS = ("target_columns=[value]", "rows_per_shard=2", "ray.num_cpus=2")
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 molecules, twice."""
    return write_csv(tmp_path_factory.mktemp("source") / "molecules.csv", molecules() * 2)


@pytest.fixture(scope="module")
def undisturbed(source: Path) -> Path:
    output = source.parent / "undisturbed"
    molstream("preprocess", f"input={source}", f"output={output}", *SETTINGS)
    return output


@contextmanager
def started(source: Path, output: Path) -> Iterator[subprocess.Popen[str]]:
    """The command, under way."""
    arguments = ("preprocess", f"input={source}", f"output={output}", *SETTINGS)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "molstream.cli.main", *arguments]
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True) as job:
        try:
            yield job
        finally:
            job.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "pattern"),
    [("describe", "*.keys.npy"), ("conformers", "*.commit.json")],
)
def test_a_full_disk_is_told_and_the_same_command_continues(source, undisturbed, disk, stage, pattern):
    output = disk.folder / "dataset"
    with started(source, output) as job:
        end = time.monotonic() + PATIENCE_S
        while not list((output / "work").glob(pattern)) and time.monotonic() < end:
            time.sleep(0.005)
        disk.fill()
        _, told = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 1, told
    last = told.rstrip().rsplit("\n", 1)[-1]
    expected = rf"error: {re.escape(str(output))}.*no space left on device.*run the same command again"
    assert re.match(expected, last), told
    assert "Traceback" not in told
    done = re.findall(r"^(\w+)  splits (\d+)/(\d+)", told, re.MULTILINE)
    assert done[-1][0] == stage
    assert int(done[-1][1]) < int(done[-1][2])

    disk.enlarge()
    molstream("preprocess", f"input={source}", f"output={output}", *SETTINGS)
    assert_same_outcome(output, undisturbed)

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

from tests.datasets import REPOSITORY, molecules, molstream, write_csv
from tests.pipeline.outcome import assert_same_outcome

SETTINGS = ("target_columns=[value]", "rows_per_shard=2", "ray.num_cpus=2")
ROOMY = 64 << 20
PATIENCE_S = 120.0


class Disk:
    """A file system in memory, of a size that can be changed while it is in use."""

    def __init__(self, folder: Path):
        self.folder = folder

    def fill(self) -> None:
        """Leave no free page."""
        while True:
            state = os.statvfs(self.folder)
            used = (state.f_blocks - state.f_bfree) * state.f_frsize
            # Refused if it has grown meanwhile.
            if self._resize(used) == 0:
                return

    def enlarge(self) -> None:
        """Make room again."""
        assert self._resize(ROOMY) == 0

    def _resize(self, size: int) -> int:
        command = ["mount", "-o", f"remount,size={size}", str(self.folder)]
        return subprocess.run(command, capture_output=True).returncode


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOMY}", "molstream-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root, and not in every container, may mount the disk that this test fills")
    yield Disk(folder)
    # Lazily: a worker that has not ended yet must not keep it.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


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
    command = [sys.executable, "-m", "training.cli", *arguments]
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True) as job:
        try:
            yield job
        finally:
            job.kill()


@pytest.mark.parametrize(
    ("stage", "pattern"),
    [pytest.param("describe", "*.keys.npy", marks=pytest.mark.slow), ("conformers", "*.commit.json")],
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
    assert re.match(rf"error: .*No space left on device.*{re.escape(str(output))}.*same command continues", last), told
    assert "Traceback" not in told
    done = re.findall(r"^(\w+)  splits (\d+)/(\d+)", told, re.MULTILINE)
    assert done[-1][0] == stage
    assert int(done[-1][1]) < int(done[-1][2])

    disk.enlarge()
    molstream("preprocess", f"input={source}", f"output={output}", *SETTINGS)
    assert_same_outcome(output, undisturbed)

"""A disk that can be filled up: a file system in memory, made by a test that runs as root."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOMY = 64 << 20


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

    def protect(self) -> None:
        """Make it read-only."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True, capture_output=True)

    def _resize(self, size: int) -> int:
        command = ["mount", "-o", f"remount,size={size}", str(self.folder)]
        return subprocess.run(command, capture_output=True).returncode


@contextmanager
def mounted(folder: Path) -> Iterator[Disk]:
    """A disk at ``folder``; skips the test where none can be made."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOMY}", "molstream-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root, and not in every container, may mount the disk that this test fills")
    try:
        yield Disk(folder)
    finally:
        # Lazily: a process that has not ended yet must not keep it.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)

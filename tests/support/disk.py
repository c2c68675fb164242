"""A disk that tests can fill: a file system in memory, which needs root to mount."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOMY = 64 << 20


class Disk:
    """A file system in memory whose size can be changed while it is in use."""

    def __init__(self, folder: Path):
        self.folder = folder

    def fill(self) -> None:
        """Shrink the disk so that no free page is left."""
        self.leave(0)

    def leave(self, room: int) -> None:
        """Shrink the disk so that it has room for that many bytes, a multiple of the page size."""
        while True:
            state = os.statvfs(self.folder)
            used = (state.f_blocks - state.f_bfree) * state.f_frsize
            # Fails if the used space has grown meanwhile.
            if self._resize(used + room) == 0:
                return

    def enlarge(self) -> None:
        """Enlarge the disk to its initial size."""
        assert self._resize(ROOMY) == 0

    def protect(self) -> None:
        """Make it read-only."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True, capture_output=True)

    def _resize(self, size: int) -> int:
        command = ["mount", "-o", f"remount,size={size}", str(self.folder)]
        return subprocess.run(command, capture_output=True).returncode


@contextmanager
def mounted(folder: Path) -> Iterator[Disk]:
    """Mount a disk at ``folder``; skips the test if this is not possible."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOMY}", "molstream-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root, and not in every container, may mount the disk that this test fills")
    try:
        yield Disk(folder)
    finally:
        # Lazily, since a process that still runs may have files open.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)

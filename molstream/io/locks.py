"""Locks on what is being written: a second process that would write the same is refused.

Locks are those of ``flock``: they end with their process, whatever ends it, and a restart never meets its own. Where a
file system has none, as some network folders, a warning says so and the work goes on.
"""

import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from molstream.errors import DataError
from molstream.io.files import UNFINISHED_NAME, naming, temporaries

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""``errno`` of ``flock`` on a file system that has no locks."""


class _Lock(NamedTuple):
    descriptor: int
    """The open file; the lock ends when it is closed."""
    is_certain: bool
    """False where the file system has no locks."""


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; the lock is released when the process ends, for whatever reason.

    A folder that does not exist is created, and removed at the end if nothing was put there.

    Raises:
        DataError: another process has the lock.
        OSError: the folder cannot be created, or is a file.
    """

    def opened() -> int:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder, os.O_RDONLY)

    with _removing_unused(folder):
        lock = _lock(folder, opened)
        if lock is None:
            raise DataError(f"{folder} is locked by another process. Wait for it or stop it, then try again.")
        try:
            yield
        finally:
            os.close(lock.descriptor)


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Reserve a file or folder that a command will write, before the work begins.

    The lock is that of an empty file beside ``output``, which is removed at the end. What a process that was killed has
    left there is removed, too. Parents of ``output`` are created, and removed at the end if they are empty.

    Raises:
        DataError: another process writes ``output``.
        OSError: nothing can be written there; the error names ``output``.
    """
    output = Path(os.path.realpath(output))
    file = output.with_name(f"{UNFINISHED_NAME}{output.name}.lock")

    def opened() -> int:
        # One that is a file gives the error of the file in it, which names the output.
        if not file.parent.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o666)

    with _removing_unused(file.parent):
        with naming(output):
            lock = _lock(file, opened)
        if lock is None:
            raise DataError(f"{output} is being written by another process. Wait for it, or give another output.")
        try:
            if lock.is_certain:
                _remove_leftovers(output)
            yield
        finally:
            file.unlink(missing_ok=True)
            os.close(lock.descriptor)


def _lock(path: Path, opened: Callable[[], int]) -> _Lock | None:
    """Lock a file or folder, which ``opened`` creates and opens; None if another process has the lock."""
    while True:
        descriptor, is_certain = opened(), True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                os.close(descriptor)
                raise
            is_certain = False
            print(f"warning: {path.parent} has no file locks: do not start this twice", file=sys.stderr)
        # The process that had the lock may have removed the file since it was opened.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return _Lock(descriptor, is_certain)
        os.close(descriptor)


def _remove_leftovers(output: Path) -> None:
    for leftover in temporaries(output):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


@contextmanager
def _removing_unused(folder: Path) -> Iterator[None]:
    """Remove the folder and its parents afterwards if they are new and empty."""
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    finally:
        for each in new:
            with suppress(OSError):
                each.rmdir()

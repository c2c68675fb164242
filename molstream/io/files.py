"""Atomic file writes: after a crash at any time, a file has its old or its new content, never a part of it."""

import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from molstream.errors import DataError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""``errno`` of an :class:`OSError` where a disk, or the user's share of it, has no room."""
UNFINISHED_NAME = ".writing-"
"""How temporary names begin."""
UNFINISHED = f"{UNFINISHED_NAME}*"
"""Pattern of temporary names: what a process that was killed leaves behind."""


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's list of names, to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Has an :class:`OSError` name the file: one that fails while it is written (a full disk) does not say which.

    An error without a number is one of a file's content, not of the system, and stays as it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and (not error.filename or UNFINISHED_NAME in str(error.filename)):
            error.filename = str(path)
        raise


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; afterwards sync it and rename it to ``path``, or remove it after an error.

    No two writers share a temporary name, not even of the same file: a task that outlived its driver does no harm.

    Raises:
        OSError: ``path`` is a folder, or the system fails; the error names ``path``, not the temporary one.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f"{UNFINISHED_NAME}{uuid.uuid4().hex[:12]}-{path.name}")
    with naming(path):
        try:
            yield temporary
            if temporary.exists():
                sync(temporary)
                temporary.rename(path)
                sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock ``folder`` for this process; the lock is released when the process ends, for whatever reason.

    Raises:
        DataError: another process has the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{folder} is locked by another process. Wait for it or stop it, then try again.") from None
        yield
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to a file atomically: after a crash the file is complete or unchanged."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content)

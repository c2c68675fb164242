"""Atomic writes: after a crash at any time, a file or folder has its old or its new content, never a part of it.

Every file that molstream writes is written this way, but for logs and metrics, which grow by whole lines.
"""

import ctypes
import errno
import os
import shutil
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
OWN_DIGITS = 12
"""Hexadecimal digits of a temporary name that belong to one writer."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Constants of ``renameat2(2)``."""


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
        DataError: ``path`` is a device or pipe, which a file would replace.
        OSError: ``path`` is a folder, or the system fails; the error names ``path``, not the temporary one.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is a device or pipe: expected the path of a file, which is written whole.")
    temporary = _temporary(path)
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
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder to write files to; afterwards it takes the place of ``path``, or is removed.

    A folder that is there already keeps its content until the new one is complete. Folders in it are not synced.

    Raises:
        OSError: ``path`` is a file, or the system fails; the error names ``path``, not the temporary folder.
    """
    # A link stays, and what it points to is written.
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    temporary = _temporary(path)
    with naming(path):
        try:
            temporary.mkdir()
            yield temporary
            for file in (*temporary.iterdir(), temporary):
                sync(file)
            if path.exists():
                _exchange(temporary, path)
            else:
                temporary.rename(path)
            sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to a file atomically: after a crash the file is complete or unchanged."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def temporaries(path: Path) -> list[Path]:
    """The temporary files and folders of writers of ``path``, of killed ones and of those that still write."""
    length = len(_temporary(path).name)
    found = path.parent.glob(f"{UNFINISHED_NAME}{'[0-9a-f]' * OWN_DIGITS}-*")
    return [each for each in found if len(each.name) == length and each.name.endswith(f"-{path.name}")]


def _temporary(path: Path) -> Path:
    return path.with_name(f"{UNFINISHED_NAME}{uuid.uuid4().hex[:OWN_DIGITS]}-{path.name}")


def _exchange(new: Path, old: Path) -> None:
    """Exchange two folders at once; where the system cannot, by renames, between which ``old`` has another name."""
    library = ctypes.CDLL(None)
    if hasattr(library, "renameat2"):
        names = os.fsencode(new), os.fsencode(old)
        if library.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0:
            return
    # A name that no clean-up removes: a kill between the renames loses nothing.
    aside = old.with_name(f".replaced-{uuid.uuid4().hex[:OWN_DIGITS]}-{old.name}")
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    aside.rename(new)

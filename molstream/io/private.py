"""Folders that only this user can enter, in places that all users share, as the one for temporary files."""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from molstream.errors import DataError


def private_folder(name: str) -> Path:
    """This user's folder in the system's folder for temporary files, with mode 0700; created if it does not exist.

    Its name can be guessed. So one that another user has put there, a link, or one that others can enter is refused:
    they could read, change or redirect what is kept in it.

    Args:
        name: of the folder; ``molstream-``, the user's number and it are its whole name.

    Raises:
        DataError: something else has the name.
    """
    path = Path(tempfile.gettempdir()) / f"molstream-{os.getuid()}-{name}"
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    if problem := _problem(path.lstat()):
        raise DataError(
            f"{path} {problem}: expected a folder of this user alone, for temporary files. Remove it, or set TMPDIR to "
            "a folder of your own."
        )
    return path


def _problem(found: os.stat_result) -> str | None:
    """Why something at a private folder's path is not one; None if it is."""
    if stat.S_ISLNK(found.st_mode):
        return "is a link"
    if not stat.S_ISDIR(found.st_mode):
        return "is no folder"
    if found.st_uid != os.getuid():
        return f"belongs to the user {found.st_uid}"
    mode = stat.S_IMODE(found.st_mode)
    return f"has the mode {mode:04o}" if mode & 0o077 else None

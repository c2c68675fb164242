"""Cache of exports that a URL or a registry gave: a folder for each address, in it one for each content.

A content is named by the checksum of its small files, among them config.json, which has the checksums of the large
ones. So a copy is never an old one: the small files are asked for every time, and the weights once.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from molstream.errors import CheckpointError, ConfigError, RemoteError
from molstream.pipeline.config import CACHE_FOLDER
from molstream.training.checkpoint.exported import FILES, SEALED_FILES, WEIGHTS_FILE, read_config
from molstream.training.hubs.base import RETRIES, SMALL_FILES, naming, require_export

Copy = Callable[[str, Path], None]
"""Downloads a file of an export to a local path; an optional one may be missing."""


class _UnlikeError(RemoteError):
    """The weights are not those that config.json describes; in a moment they may be."""


def cached_export(address: str, files: Sequence[str], copy: Copy) -> Path:
    """Return a folder with the files of an export, of which the large ones are downloaded once.

    Other processes of this machine wait while one downloads the same address.

    Args:
        address: of the export, for its place in the cache and for messages.
        files: which ones.
        copy: downloads one.

    Raises:
        CheckpointError: there is no export at the address, or a damaged one.
        RemoteError: its server does not answer.
        ConfigError: the cache cannot be written to.
    """
    place = Path(CACHE_FOLDER).expanduser() / "exports" / hashlib.sha256(address.encode()).hexdigest()[:32]
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = os.open(place, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"{place}: {error.strerror}. Exports are kept there: make it a folder of yours.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return RETRIES.call(lambda: _fetched(place, address, files, copy))
    except RemoteError as error:
        if isinstance(error.__cause__, _UnlikeError):
            raise CheckpointError(f"{error.__cause__} If a push there broke off, run it again.") from error
        raise
    finally:
        os.close(lock)


def _fetched(place: Path, address: str, files: Sequence[str], copy: Copy) -> Path:
    arriving = place / "arriving"
    shutil.rmtree(arriving, ignore_errors=True)
    arriving.mkdir()
    for name in files:
        if name in SMALL_FILES:
            copy(name, arriving / name)
    with naming(arriving, address):
        config = read_config(arriving)
    large = [name for name in SEALED_FILES if name in files and name in config.get(FILES, (WEIGHTS_FILE,))]
    target = place / "-".join([_content(arriving), *(name.partition(".")[0] for name in large)])
    # Of the formats without checksums a copy could be an old one.
    if FILES in config and _is_intact(target, files):
        return target
    for name in large:
        copy(name, arriving / name)
    if large:
        try:
            require_export(arriving, address, files)
        except CheckpointError as error:
            raise _UnlikeError(f"{error} It may be being replaced at this moment.") from error
    shutil.rmtree(target, ignore_errors=True)
    arriving.rename(target)
    return target


def _is_intact(folder: Path, files: Sequence[str]) -> bool:
    try:
        require_export(folder, str(folder), files)
    except CheckpointError:
        return False
    return True


def _content(folder: Path) -> str:
    """The name of a content: a checksum of the names and bytes of its files."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        digest.update(f"{file.name}\n{file.stat().st_size}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:32]

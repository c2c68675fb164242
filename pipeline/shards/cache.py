"""Copies of remote shards in a folder of this machine, up to a size; processes share the folder.

A copy is named by its sha256, so that datasets share what they have in common and a dataset that changed under its URL
never meets an old copy. While it arrives it has a temporary name that says how large it will be. Locks (``flock``,
which go with the process that holds them, however it ends) say the rest:

- exclusive on a temporary file: someone is fetching it, others wait; without a lock it was left behind by a crash;
- shared on a copy: someone reads it, and it is not evicted;
- exclusive on the folder: someone makes room.
"""

import fcntl
import hashlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from molstream.errors import ConfigError, DataError, RemoteError
from molstream.io.remote import Retries, copy, shown
from molstream.pipeline.config import CACHE_FOLDER, CACHE_GIB
from molstream.pipeline.shards.manifest import Shard

NAME = re.compile(r"[0-9a-f]{64}(?:\.(?P<bytes>\d+)\.part)?")
"""Copies and, with their future size, those that are still arriving; nothing else in the folder is ever touched."""
POLL_S = 0.05
DOWNLOADS = 8
"""At a time, of one process."""


class _Part(NamedTuple):
    """A copy that arrives."""

    path: Path
    descriptor: int


class ShardCache:
    """The folder.

    Args:
        folder: made if it is not there; best on a local disk.
        max_bytes: above it, the copies that were used longest ago are removed. Copies that are being read stay, even
            above the bound: one or two for every lane of this machine.
        retries: of downloads.
    """

    def __init__(
        self,
        folder: str | Path = CACHE_FOLDER,
        max_bytes: int = int(CACHE_GIB * 2**30),
        retries: Retries | None = None,
    ):
        self.folder = Path(folder).expanduser()
        self.max_bytes, self.retries = max_bytes, retries or Retries()
        self._checked: set[str] = set()
        self._downloads = threading.BoundedSemaphore(DOWNLOADS)
        self._told = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"data.cache_dir={folder}: {error}. Give a folder that can be written to.") from error

    def open(self, url: str, shard: Shard, required: bool = True) -> int | None:
        """A file descriptor of a copy of ``shard``; until it is closed, the copy stays.

        The bytes are those that the manifest promises: checked when they arrive, and once by every process.

        Args:
            url: where the shard is.
            required: False to fetch it only if there is room, beside what is being read, within the bound.

        Returns:
            None only if it is not there, not required, and there is no room.

        Raises:
            RemoteError: it cannot be fetched, or what arrives has another checksum, after all attempts.
            DataError: there is no such object, or no space on the disk.
        """
        path = self.folder / shard.sha256
        while True:
            if (descriptor := self._open_copy(path, shard)) is not None:
                return descriptor
            with self._arriving(path, shard) as part:
                if part is None:  # Another process or thread fetches, checks or evicts it at this moment.
                    time.sleep(POLL_S)
                elif self._make_room(part.path) or required:
                    with self._downloads:
                        self.retries.call(lambda part=part: self._fetch(url, part, shard))
                    self._checked.add(shard.sha256)
                    part.path.rename(path)
                    # The duplicate keeps the lock when the original is closed.
                    return self._shared(os.dup(part.descriptor))
                else:
                    return None

    def _open_copy(self, path: Path, shard: Shard) -> int | None:
        """A copy that is there and whole, with a shared lock; one that is damaged is removed."""
        try:
            descriptor = self._shared(os.open(path, os.O_RDONLY))
        except (FileNotFoundError, BlockingIOError):
            return None
        if shard.sha256 not in self._checked:
            if problem := difference(descriptor, shard):
                print(f"{path}: {problem}. Fetching it again.", file=sys.stderr)
                path.unlink(missing_ok=True)
                os.close(descriptor)
                return None
            self._checked.add(shard.sha256)
        os.utime(descriptor)
        return descriptor

    @staticmethod
    def _shared(descriptor: int) -> int:
        """The descriptor with a shared lock; closed when another holds an exclusive one."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
        return descriptor

    @contextmanager
    def _arriving(self, path: Path, shard: Shard) -> Iterator[_Part | None]:
        """The temporary file of a copy, locked for us alone; None if another has it, or the copy is there by now."""
        part = path.with_name(f"{shard.sha256}.{shard.bytes}.part")
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = _is_at(descriptor, part) and not path.exists()
        except BlockingIOError:
            os.close(descriptor)
            yield None
            return
        try:
            yield _Part(part, descriptor) if ours else None
        finally:
            if _is_at(descriptor, part):
                part.unlink()
            os.close(descriptor)

    def _fetch(self, url: str, part: _Part, shard: Shard) -> None:
        try:
            copy(url, part.path)
        except OSError as error:
            raise DataError(
                f"{shown(url)} cannot be kept in data.cache_dir={self.folder}: {error}. Free some space, or lower "
                f"data.cache_gib (now {self.max_bytes / 2**30:.3g})."
            ) from error
        if problem := difference(part.descriptor, shard):
            raise RemoteError(
                f"{shown(url)} is not what the manifest says: {problem}. If this does not pass, upload the shard "
                "again, or preprocess again."
            )

    def _make_room(self, arriving: Path) -> bool:
        """Remove what was used longest ago until everything fits, ``arriving`` included; whether it does."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            files = self._files()
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if total <= self.max_bytes:
                    break
                if path != arriving and _evicted(path):
                    total -= size
        finally:
            os.close(folder)
        if total > self.max_bytes and not self._told:
            self._told = True
            print(
                f"data.cache_dir={self.folder}: the shards that are being read take more than the bound of "
                f"{self.max_bytes / 2**30:.3g} GiB: they stay, and little is fetched ahead. Raise data.cache_gib above "
                f"{total / 2**30:.3g}.",
                file=sys.stderr,
            )
        return total <= self.max_bytes

    def _files(self) -> list[tuple[int, int, Path]]:
        """When it was last used, size and path of every copy, those that are arriving with their future size."""
        found = []
        for entry in os.scandir(self.folder):
            if match := NAME.fullmatch(entry.name):
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                found.append((status.st_mtime_ns, int(match["bytes"] or status.st_size), Path(entry.path)))
        return found


def difference(descriptor: int, shard: Shard) -> str | None:
    """What is wrong with an open file that should be ``shard``; reads all of it."""
    size = os.fstat(descriptor).st_size
    if size != shard.bytes:
        return f"{size} bytes, expected {shard.bytes}"
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return None if found == shard.sha256 else f"its sha256 is {found[:12]}..., expected {shard.sha256[:12]}..."


def _evicted(path: Path) -> bool:
    """Remove a file, unless someone reads or fetches it; whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(descriptor, path):
            path.unlink()
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False

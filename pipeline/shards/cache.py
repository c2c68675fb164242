"""Cache of remote shards: copies in a local folder of bounded size, which processes share.

A copy is named by its sha256, so that datasets share equal shards and a dataset that changed under its URL never gets
an old copy. While it is fetched it has a temporary name that holds its final size. Locks (``flock``, released when the
process that holds them ends, however it ends) coordinate the processes:

- exclusive on a temporary file: a process fetches it, and others wait; without a lock it was left behind by a crash;
- shared on a copy: a process reads it, and it is not evicted;
- exclusive on the folder: a process evicts copies.
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
"""Names of copies and, with their final size, of those being fetched; no other file of the folder is ever touched."""
POLL_S = 0.05
DOWNLOADS = 8
"""Most downloads of a process at a time."""


class _Part(NamedTuple):
    """The temporary file of a copy that is being fetched."""

    path: Path
    descriptor: int


class ShardCache:
    """A folder of copies of remote shards, bounded in size.

    Args:
        folder: created if it does not exist; best on a local disk.
        max_bytes: above it, the copies that were used longest ago are evicted. Copies that are being read stay, even
            above the bound: one or two for every lane of this machine.
        retries: how failed downloads are repeated.
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
        self._warned = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"data.cache_dir={folder}: {error}. Give a folder that can be written to.") from error

    def open(self, url: str, shard: Shard, required: bool = True) -> int | None:
        """A file descriptor of a copy of ``shard``; until it is closed, the copy is not evicted.

        Size and sha256 are compared with the manifest's after the download, and once by every process.

        Args:
            url: of the shard.
            required: False to fetch it only if it fits within the bound, beside the copies that are being read.

        Returns:
            None only if there is no copy, the shard is not required, and there is no room.

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
        """Open a copy with a shared lock; None if there is no copy, or a damaged one, which is removed."""
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
        """The descriptor with a shared lock.

        Raises:
            BlockingIOError: another process or thread holds an exclusive lock; the descriptor is closed then.
        """
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
        return descriptor

    @contextmanager
    def _arriving(self, path: Path, shard: Shard) -> Iterator[_Part | None]:
        """The temporary file of a copy, locked exclusively; None if another one holds it, or the copy exists by now."""
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
        """Evict the copies used longest ago until all fit, ``arriving`` included; returns whether they do."""
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
        if total > self.max_bytes and not self._warned:
            self._warned = True
            print(
                f"data.cache_dir={self.folder}: the shards that are being read take more than the bound of "
                f"{self.max_bytes / 2**30:.3g} GiB: they stay, and little is fetched ahead. Raise data.cache_gib above "
                f"{total / 2**30:.3g}.",
                file=sys.stderr,
            )
        return total <= self.max_bytes

    def _files(self) -> list[tuple[int, int, Path]]:
        """Time of last use (ns), size in bytes and path of every copy; of one being fetched, its final size."""
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
    """How an open file differs from ``shard``, in size or sha256; None if it does not. Reads the whole file."""
    size = os.fstat(descriptor).st_size
    if size != shard.bytes:
        return f"{size} bytes, expected {shard.bytes}"
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return None if found == shard.sha256 else f"its sha256 is {found[:12]}..., expected {shard.sha256[:12]}..."


def _evicted(path: Path) -> bool:
    """Remove a file unless a process reads or fetches it; returns whether it is gone."""
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

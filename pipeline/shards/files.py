"""The files of a dataset: in a folder, read in place, or at a URL, read through a cache."""

import os
from abc import ABC, abstractmethod
from pathlib import Path

from molstream.errors import DataError
from molstream.io.remote import is_url, read, shown
from molstream.pipeline.shards.cache import ShardCache, difference
from molstream.pipeline.shards.manifest import NAME, Manifest, Shard, parse_manifest, read_manifest


class ShardFiles(ABC):
    """The files of a committed dataset."""

    where: str
    """Folder or URL, for messages."""

    @abstractmethod
    def manifest(self) -> Manifest:
        """The dataset's manifest. No shard is read; a local dataset checks that all have the right size.

        Raises:
            DataError: there is no manifest, it is damaged, or a local shard is missing or has another size.
        """

    @abstractmethod
    def open(self, shard: Shard, required: bool = True) -> int | None:
        """A file descriptor of a shard with the size and sha256 of the manifest.

        Args:
            required: False for a shard that is opened ahead: None if there is no room for it yet.

        Raises:
            DataError: the file or object does not exist, or is not the shard of the manifest.
        """


class LocalFiles(ShardFiles):
    """The files of a dataset in a folder. Every process computes the checksum of a shard before it first reads from it.

    That costs a third of a microsecond per molecule, once, and serves as read-ahead. Arrow's compression has no
    checksums, so that a flipped bit would otherwise be a wrong molecule that nobody notices.
    """

    def __init__(self, folder: Path):
        self.where, self._folder = str(folder), folder
        self._checked: set[str] = set()

    def manifest(self) -> Manifest:
        manifest = read_manifest(self._folder)
        for shard in manifest.shards:
            file = self._folder / shard.name
            size = file.stat().st_size if file.is_file() else None
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size} bytes, expected {shard.bytes}"
                raise DataError(f"{file} {found}. {self._advice}")
        return manifest

    def open(self, shard: Shard, required: bool = True) -> int | None:
        try:
            descriptor = os.open(self._folder / shard.name, os.O_RDONLY)
            if shard.name not in self._checked:
                if problem := difference(descriptor, shard):
                    os.close(descriptor)
                    raise DataError(f"{self._folder / shard.name}: {problem}. {self._advice}")
                self._checked.add(shard.name)
        except OSError as error:
            raise DataError(f"{self._folder / shard.name} cannot be read: {error}. {self._advice}") from error
        return descriptor

    @property
    def _advice(self) -> str:
        return f"Run `molstream verify {self._folder}`, then preprocess again."


class RemoteFiles(ShardFiles):
    """The files of a dataset at a URL of fsspec: the manifest is fetched each time, shards are copied to a cache."""

    def __init__(self, url: str, cache: ShardCache):
        self.where, self._url, self._cache = shown(url), url.rstrip("/"), cache

    def manifest(self) -> Manifest:
        return parse_manifest(self._cache.retries.call(lambda: read(f"{self._url}/{NAME}")), self.where)

    def open(self, shard: Shard, required: bool = True) -> int | None:
        return self._cache.open(f"{self._url}/{shard.name}", shard, required)


def files_at(path: str | Path, cache: ShardCache | None) -> ShardFiles:
    """The files of the dataset at a folder or URL; without a ``cache`` the default one."""
    if is_url(str(path)):
        return RemoteFiles(str(path), cache or ShardCache())
    return LocalFiles(Path(path))

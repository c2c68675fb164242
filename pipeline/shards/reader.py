"""Reader of a committed dataset: any block by its byte range, only the fields that are asked for."""

import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from molstream.errors import DataError
from molstream.pipeline.shards.cache import ShardCache
from molstream.pipeline.shards.codec import SCHEMA
from molstream.pipeline.shards.columns import Columns
from molstream.pipeline.shards.containers import CONTAINERS
from molstream.pipeline.shards.files import files_at


class ShardDataset:
    """A committed dataset in a folder or at a URL.

    Args:
        path: the folder, or a URL of fsspec.
        cache: for copies of the shards at a URL; by default the one in the user's home.

    Raises:
        DataError: there is no committed dataset of this schema version, or a shard is missing or cut short.
    """

    def __init__(self, path: str | Path, cache: ShardCache | None = None):
        self._files = files_at(path, cache)
        self.path = self._files.where
        """Folder or URL, for messages."""
        self.manifest = self._files.manifest()
        self._first = np.cumsum([0, *(shard.rows for shard in self.manifest.shards)])

    @property
    def num_rows(self) -> int:
        """Molecules in the dataset."""
        return self.manifest.num_rows

    @property
    def block_rows(self) -> list[np.ndarray]:
        """For every shard, the rows of its blocks."""
        return [shard.blocks.rows for shard in self.manifest.shards]

    def open_shard(self, shard: int, required: bool = True) -> "ShardFile | None":
        """Open a shard to read blocks from; at a URL, its copy stays in the cache until it is closed.

        Args:
            required: False for a shard that is opened ahead: None if there is no room for it yet.

        Raises:
            DataError: the shard is gone or damaged.
        """
        descriptor = self._files.open(self.manifest.shards[shard], required)
        return None if descriptor is None else ShardFile(self, shard, descriptor)

    def read_block(self, shard: int, block: int, names: Sequence[str]) -> Columns:
        """The named fields of one block.

        Raises:
            DataError: the shard is gone or damaged.
        """
        file = self.open_shard(shard)
        assert file is not None
        with file:
            return file.read_block(block, names)

    def read_rows(self, index: np.ndarray, names: Sequence[str]) -> Columns:
        """The named fields of the molecules at these positions, in manifest order counted over all shards.

        Every block that holds one is read once.

        Raises:
            DataError: a shard is gone or damaged.
        """
        index = np.asarray(index, np.int64)
        sorting = np.argsort(index, kind="stable")
        ordered, parts = index[sorting], []
        begin = 0
        while begin < len(ordered):
            shard = int(np.searchsorted(self._first, ordered[begin], side="right")) - 1
            end = int(np.searchsorted(ordered, self._first[shard + 1]))
            parts += self._read_from(shard, ordered[begin:end] - self._first[shard], names)
            begin = end
        inverse = np.empty_like(sorting)
        inverse[sorting] = np.arange(len(sorting))
        return Columns.concat(parts).take(inverse)

    def _read_from(self, shard: int, rows: np.ndarray, names: Sequence[str]) -> list[Columns]:
        """The rows, ascending, of one shard."""
        ends = np.cumsum(self.manifest.shards[shard].blocks.rows)
        blocks = np.searchsorted(ends, rows, side="right")
        file = self.open_shard(shard)
        assert file is not None
        with file:
            return [
                file.read_block(int(block), names).take(rows[blocks == block] - (ends[block - 1] if block else 0))
                for block in np.unique(blocks)
            ]


class ShardFile:
    """An open shard of a dataset: a context manager, also closed when it is garbage-collected."""

    def __init__(self, dataset: ShardDataset, shard: int, descriptor: int):
        self._where = dataset.path
        self._shard, self._descriptor = dataset.manifest.shards[shard], descriptor
        self._container = CONTAINERS[dataset.manifest.container]
        self._close = weakref.finalize(self, os.close, descriptor)

    def __enter__(self) -> "ShardFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a copy in the cache may then be evicted."""
        self._close()

    def read_block(self, block: int, names: Sequence[str]) -> Columns:
        """The named fields of one block, by reading nothing but its bytes.

        Raises:
            DataError: the bytes of the block are damaged.
        """
        where = self._shard.blocks[block]
        try:
            data = os.pread(self._descriptor, where.bytes, where.offset)
            return Columns.from_batch(self._container.decode(data, SCHEMA, names), names)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self._where}/{self._shard.name}, block {block} ({where.bytes} bytes from {where.offset}) cannot be "
                f"read: {error}. Run `molstream verify` on the dataset, then preprocess again."
            ) from error

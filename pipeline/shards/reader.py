"""Reading a committed dataset: any block by its byte range, only the fields that are asked for."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.shards.codec import SCHEMA
from pipeline.shards.columns import Columns
from pipeline.shards.containers import CONTAINERS
from pipeline.shards.manifest import read_manifest
from preprocessing.errors import DataError


class ShardDataset:
    """A committed dataset folder.

    Raises:
        DataError: the folder is no committed dataset of this schema version, or a shard is missing or cut short.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        self._container = CONTAINERS[self.manifest.container]
        self._first = np.cumsum([0, *(shard.rows for shard in self.manifest.shards)])
        for shard in self.manifest.shards:
            file = self.path / shard.name
            size = file.stat().st_size if file.is_file() else None
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size} bytes, expected {shard.bytes}"
                raise DataError(f"{file} {found}. Run `molstream verify {self.path}`, then preprocess again.")

    @property
    def num_rows(self) -> int:
        """Molecules in the dataset."""
        return self.manifest.num_rows

    @property
    def block_rows(self) -> list[np.ndarray]:
        """For every shard, the rows of its blocks."""
        return [np.array([block.rows for block in shard.blocks], np.int64) for shard in self.manifest.shards]

    def read_block(self, shard: int, block: int, names: Sequence[str]) -> Columns:
        """The named fields of one block, by reading nothing but its bytes.

        Raises:
            DataError: the shard is gone or its bytes are damaged.
        """
        record = self.manifest.shards[shard]
        where = record.blocks[block]
        path = self.path / record.name
        try:
            with path.open("rb") as file:
                data = os.pread(file.fileno(), where.bytes, where.offset)
            return Columns.from_batch(self._container.decode(data, SCHEMA, names), names)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}, block {block} ({where.bytes} bytes from {where.offset}) cannot be read: {error}. "
                f"Run `molstream verify {self.path}`, then preprocess again."
            ) from error

    def read_rows(self, index: np.ndarray, names: Sequence[str]) -> Columns:
        """The named fields of the molecules at these positions, in manifest order counted over all shards."""
        parts = []
        for position in np.asarray(index):
            shard = int(np.searchsorted(self._first, position, side="right")) - 1
            ends = np.cumsum(self.block_rows[shard])
            row = int(position - self._first[shard])
            block = int(np.searchsorted(ends, row, side="right"))
            start = row - int(ends[block] - self.block_rows[shard][block])
            parts.append(self.read_block(shard, block, names).slice(start, start + 1))
        return Columns.concat(parts)

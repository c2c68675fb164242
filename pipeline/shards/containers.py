"""The two shard containers: blocks of molecules one after the other in a POSIX tar or an Arrow IPC file.

A block is one Arrow record batch, compressed with zstd. In ``webdataset`` shards it is the tar member ``NNNNNN.arrow``,
an Arrow stream of its own; in ``arrow`` shards it is a message of one Arrow file. Either way a block is a range of
bytes that can be read without the bytes before it, and equal molecules give equal bytes.
"""

import io
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa

# A shard is written once and read in every epoch: the 10 microseconds per molecule that level 9 costs more in writing
# are little beside the chemistry, and its blocks are smaller and faster to read than those of the lower levels.
ZSTD_LEVEL = 9


@dataclass(frozen=True, slots=True)
class Block:
    """Where a block lies in its shard."""

    offset: int
    """Position of its first byte in the shard's file."""
    bytes: int
    """Length in bytes."""
    rows: int
    """Number of molecules."""


class Blocks:
    """The blocks of a shard as one array, since a large dataset has millions.

    Args:
        table: int64 [blocks, 3], of each the fields of :class:`Block`.
    """

    def __init__(self, table: np.ndarray):
        self.table = table

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> "Blocks":
        """The table of a sequence of blocks."""
        return cls(np.array([(block.offset, block.bytes, block.rows) for block in blocks], np.int64).reshape(-1, 3))

    @property
    def rows(self) -> np.ndarray:
        """int64 [blocks]: molecules of every block."""
        return self.table[:, 2]

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, number: int) -> Block:
        return Block(*self.table[number].tolist())

    def __iter__(self) -> Iterator[Block]:
        return (Block(*row) for row in self.table.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blocks) and np.array_equal(self.table, other.table)

    def __hash__(self) -> int:
        return hash(self.table.tobytes())


class Container(ABC):
    """A shard being written, block by block, into an open file."""

    extension: str

    @abstractmethod
    def __init__(self, file: BinaryIO, schema: pa.Schema): ...

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> Block:
        """Append a block; returns where it lies."""

    @abstractmethod
    def close(self) -> None:
        """Write what comes after the last block; the file stays open."""

    @staticmethod
    @abstractmethod
    def decode(data: bytes, schema: pa.Schema, names: Sequence[str]) -> pa.RecordBatch:
        """The record batch in a block's bytes; only the named columns are decompressed, the others are left out."""


class TarContainer(Container):
    """A POSIX tar, as ``webdataset.WebDataset`` iterates it: members ``000000.arrow``, ``000001.arrow``, ..."""

    extension = "tar"

    def __init__(self, file: BinaryIO, schema: pa.Schema):
        self._file, self._schema, self._count = file, schema, 0
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def write(self, batch: pa.RecordBatch) -> Block:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, self._schema, options=_write_options()) as writer:
            writer.write_batch(batch)
        data = sink.getvalue()
        # TarInfo's defaults (mode 0644, owner 0, time 0) name no machine and no moment.
        member = tarfile.TarInfo(f"{self._count:06d}.arrow")
        member.size = len(data)
        offset = self._file.tell() + tarfile.BLOCKSIZE
        self._tar.addfile(member, io.BytesIO(data))
        self._count += 1
        return Block(offset, len(data), batch.num_rows)

    def close(self) -> None:
        self._tar.close()

    @staticmethod
    def decode(data: bytes, schema: pa.Schema, names: Sequence[str]) -> pa.RecordBatch:
        return _read_stream(data, schema, names)


class ArrowContainer(Container):
    """An Arrow IPC file, as ``pyarrow.ipc.open_file`` reads it."""

    extension = "arrow"

    def __init__(self, file: BinaryIO, schema: pa.Schema):
        self._sink = pa.PythonFile(file, mode="w")
        self._writer = pa.ipc.new_file(self._sink, schema, options=_write_options())
        # The magic bytes and the schema are written together with the first batch.
        self._end = len(b"ARROW1\0\0") + schema.serialize().size

    def write(self, batch: pa.RecordBatch) -> Block:
        offset = self._end
        self._writer.write_batch(batch)
        self._end = self._sink.tell()
        return Block(offset, self._end - offset, batch.num_rows)

    def close(self) -> None:
        self._writer.close()

    @staticmethod
    def decode(data: bytes, schema: pa.Schema, names: Sequence[str]) -> pa.RecordBatch:
        # A message alone cannot be read in part; behind a schema message it is an Arrow stream, which can.
        return _read_stream(schema.serialize().to_pybytes() + data, schema, names)


CONTAINERS: dict[str, type[Container]] = {"webdataset": TarContainer, "arrow": ArrowContainer}


def _read_stream(data: bytes, schema: pa.Schema, names: Sequence[str]) -> pa.RecordBatch:
    # A block is too small to be shared among threads: handing it out takes as long as decompressing it.
    options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in names], use_threads=False)
    batch = next(iter(pa.ipc.open_stream(pa.py_buffer(data), options=options)), None)
    if batch is None:
        raise ValueError("the bytes hold no record batch")
    return batch


def _write_options() -> pa.ipc.IpcWriteOptions:
    return pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=ZSTD_LEVEL))

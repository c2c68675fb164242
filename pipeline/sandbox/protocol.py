"""The messages between the sandbox and its child: frames of bytes, each behind its length, over two pipes.

The parent sends :class:`Settings` once, and the child answers with an empty frame when it works. Then every
:class:`Request` has one :class:`Answer`, each in two frames: JSON, and an Arrow stream, empty if there is no batch.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa

from molstream.preprocessing.config import ConformerConfig, FeaturizeConfig, StandardizeConfig

_LENGTH = struct.Struct("<Q")
_IMAGES_SCHEMA = pa.schema([("image", pa.binary())])


def write_frame(pipe: IO[bytes], data: bytes) -> None:
    """Send one message of any length."""
    pipe.write(_LENGTH.pack(len(data)))
    pipe.write(data)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> bytes:
    """The next message.

    Raises:
        EOFError: the other side has gone.
    """
    header = pipe.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(header)
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data


@dataclass(frozen=True)
class Settings:
    """How the child treats molecules; sent to it when it starts."""

    featurize: FeaturizeConfig
    scaffolds: bool
    """Whether descriptions carry the Murcko scaffold."""
    keys: bool = True
    """Whether featurized molecules have a key where no conformer depends on it."""

    def to_json(self) -> bytes:
        """The settings as the bytes of a frame."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Settings":
        """The inverse of :meth:`to_json`."""
        record = json.loads(data)
        return cls(_featurize_config(record["featurize"]), record["scaffolds"], record["keys"])


@dataclass(frozen=True)
class Request:
    """A frame of molecules for one stage: JSON records, or rows of a record batch."""

    stage: str
    records: list[Any]
    batch: pa.RecordBatch | None = None


@dataclass(frozen=True)
class Frame:
    """Molecules that are sent together, and the origin of each, for the rejection of one that kills the child."""

    request: Request
    places: tuple[tuple[str, int, str], ...]
    """Source, row and text of every molecule."""

    def part(self, start: int, stop: int) -> "Frame":
        """Molecules ``start`` to ``stop`` (excluded)."""
        request, batch = self.request, self.request.batch
        part = None if batch is None else batch.slice(start, stop - start)
        return Frame(Request(request.stage, request.records[start:stop], part), self.places[start:stop])


@dataclass(frozen=True)
class Answer:
    """The results of a frame: rows of a record batch for what succeeded, rejections, plain values (drawings)."""

    rejections: list[dict[str, Any]]
    batch: pa.RecordBatch | None = None
    values: tuple[Any, ...] = ()


def write_request(pipe: IO[bytes], request: Request) -> None:
    """Send a frame of molecules."""
    write_frame(pipe, json.dumps([request.stage, request.records]).encode())
    write_frame(pipe, _to_bytes(request.batch))


def read_request(pipe: IO[bytes]) -> Request:
    """The next request.

    Raises:
        EOFError: the other side has gone.
    """
    stage, records = json.loads(read_frame(pipe))
    return Request(stage, records, _from_bytes(read_frame(pipe)))


def write_answer(pipe: IO[bytes], answer: Answer) -> None:
    """Send the results of a frame."""
    write_frame(pipe, json.dumps([answer.rejections, answer.values]).encode())
    write_frame(pipe, _to_bytes(answer.batch))


def read_answer(pipe: IO[bytes]) -> Answer:
    """The answer to the last request.

    Raises:
        EOFError: the other side has gone.
    """
    rejections, values = json.loads(read_frame(pipe))
    return Answer(rejections, _from_bytes(read_frame(pipe)), tuple(values))


def batch_of_images(images: Sequence[np.ndarray | None]) -> pa.RecordBatch:
    """Images, uint8 each, as the batch of an answer; None, where a molecule cannot be drawn, is null."""
    column = pa.array([None if image is None else image.tobytes() for image in images], pa.binary())
    return pa.record_batch([column], schema=_IMAGES_SCHEMA)


def images_in(batch: pa.RecordBatch, size: int) -> list[np.ndarray | None]:
    """The inverse of :func:`batch_of_images`, for images uint8 [3, size, size], which share the batch's memory."""
    found = (image.as_buffer() for image in batch.column("image"))
    return [None if each is None else np.frombuffer(each, np.uint8).reshape(3, size, size) for each in found]


def _to_bytes(batch: pa.RecordBatch | None) -> bytes:
    if batch is None:
        return b""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _from_bytes(data: bytes) -> pa.RecordBatch | None:
    return pa.ipc.open_stream(pa.py_buffer(data)).read_next_batch() if data else None


def _featurize_config(record: dict[str, Any]) -> FeaturizeConfig:
    """The configuration from its ``asdict``."""
    nested = {
        "standardize": StandardizeConfig(**record["standardize"]),
        "conformers": ConformerConfig(**record["conformers"]),
    }
    return FeaturizeConfig(**{**record, **nested})

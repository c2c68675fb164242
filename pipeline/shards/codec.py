"""Samples to Arrow record batches and back; the schema follows from the table of fields."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from molstream.pipeline.shards.columns import Columns
from molstream.preprocessing.fields import FIELDS, SCHEMA_VERSION, Field, MoleculeSample


def _type(field: Field) -> pa.DataType:
    """A symbolic dimension is a list, the fixed dimensions inside it a fixed-size list; nothing is ever null."""
    element = pa.string() if field.dtype == "string" else pa.from_numpy_dtype(np.dtype(field.dtype))
    if not field.is_ragged:
        return element
    inner = element if field.width == 1 else pa.list_(pa.field("item", element, nullable=False), field.width)
    return pa.list_(pa.field("item", inner, nullable=False))


SCHEMA = pa.schema(
    [pa.field(field.name, _type(field), nullable=False) for field in FIELDS],
    metadata={b"molstream_schema_version": str(SCHEMA_VERSION).encode()},
)
"""The Arrow schema of every shard."""


def encode(samples: Sequence[MoleculeSample]) -> pa.RecordBatch:
    """One record batch of the samples."""
    arrays = [_array(field, [getattr(sample, field.name) for sample in samples]) for field in FIELDS]
    return pa.record_batch(arrays, schema=SCHEMA)


def decode(batch: pa.RecordBatch) -> list[MoleculeSample]:
    """The samples of a record batch, bit for bit as they were encoded."""
    return samples(Columns.from_batch(batch, SCHEMA.names))


def samples(columns: Columns) -> list[MoleculeSample]:
    """The samples of columns that hold every field."""
    return [_sample(columns, row) for row in range(columns.num_rows)]


def _array(field: Field, items: Sequence[Any]) -> pa.Array:
    kind = _type(field)
    if not field.is_ragged:
        return pa.array(items, kind)
    stored = [field.to_stored(item) for item in items]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in stored])]).astype(np.int32)
    flat = np.concatenate(stored) if stored else np.zeros((0, field.width), field.dtype)
    values = pa.array(flat.reshape(-1))
    if field.width != 1:
        values = pa.FixedSizeListArray.from_arrays(values, type=kind.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=kind)


def _sample(columns: Columns, row: int) -> MoleculeSample:
    one = columns.slice(row, row + 1)
    num_atoms = len(one.values["atom_features"])
    values: dict[str, Any] = {
        f.name: f.from_stored(one.values[f.name], num_atoms) if f.is_ragged else one.values[f.name][0] for f in FIELDS
    }
    values |= {name: int(values[name]) for name in ("row", "conformer_status")}
    return MoleculeSample(**values)

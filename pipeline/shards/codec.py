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
    num_atoms = np.diff(columns.offsets["atom_features"]).tolist()
    items = [_items(columns, field, num_atoms) for field in FIELDS]
    names = [field.name for field in FIELDS]
    return [MoleculeSample(**dict(zip(names, values))) for values in zip(*items, strict=True)]


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


def _items(columns: Columns, field: Field, num_atoms: Sequence[int]) -> list[Any]:
    """A field of every sample: numbers and strings of Python, and views of the column's array."""
    values = columns.values[field.name]
    if not field.is_ragged:
        return values.tolist()
    offsets = columns.offsets[field.name].tolist()
    return [field.from_stored(values[a:b], n) for a, b, n in zip(offsets, offsets[1:], num_atoms, strict=False)]

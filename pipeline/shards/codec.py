"""Samples to Arrow record batches and back; the schema follows from the table of fields."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from pipeline.shards.columns import Columns
from preprocessing.fields import FIELDS, SCHEMA_VERSION, Field, MoleculeSample

METADATA = {b"molstream_schema_version": str(SCHEMA_VERSION).encode()}


def schema(num_targets: int) -> pa.Schema:
    """The Arrow schema of a dataset: a symbolic dimension is a list, inner fixed dimensions a fixed-size list."""
    return pa.schema([pa.field(f.name, _type(f, num_targets), nullable=False) for f in FIELDS], metadata=METADATA)


def encode(samples: Sequence[MoleculeSample]) -> pa.RecordBatch:
    """One record batch of the samples, which share their number of targets."""
    num_targets = len(samples[0].targets) if samples else 0
    table = schema(num_targets)
    arrays = [
        _array(field, [getattr(s, field.name) for s in samples], table.field(field.name).type) for field in FIELDS
    ]
    return pa.record_batch(arrays, schema=table)


def decode(batch: pa.RecordBatch) -> list[MoleculeSample]:
    """The samples of a record batch, bit for bit as they were encoded."""
    columns = Columns.from_batch(batch, [field.name for field in FIELDS])
    return [_sample(columns, row) for row in range(columns.num_rows)]


def _type(field: Field, num_targets: int) -> pa.DataType:
    element = pa.string() if field.dtype == "string" else pa.from_numpy_dtype(np.dtype(field.dtype))
    if field.shape == ("t",):
        return pa.list_(element, num_targets)
    if not field.is_ragged:
        return element
    inner = element if field.width == 1 else pa.list_(pa.field("item", element, nullable=False), field.width)
    return pa.list_(pa.field("item", inner, nullable=False))


def _array(field: Field, items: Iterable, kind: pa.DataType) -> pa.Array:
    if field.is_ragged:
        stored = [field.to_stored(item) for item in items]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in stored])]).astype(np.int32)
        flat = np.concatenate(stored) if stored else np.zeros((0, field.width), field.dtype)
        values = pa.array(flat.reshape(-1))
        if field.width != 1:
            values = pa.FixedSizeListArray.from_arrays(values, type=kind.value_type)
        return pa.ListArray.from_arrays(pa.array(offsets), values, type=kind)
    if field.shape:
        items = list(items)
        flat = np.concatenate(items) if items else np.zeros(0, field.dtype)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.astype(field.dtype)), type=kind)
    return pa.array(list(items), kind)


def _sample(columns: Columns, row: int) -> MoleculeSample:
    one = columns.slice(row, row + 1)
    num_atoms = len(one.values["atom_features"])
    values = {
        f.name: f.from_stored(one.values[f.name], num_atoms) if f.is_ragged else one.values[f.name][0] for f in FIELDS
    }
    values |= {name: int(values[name]) for name in ("row", "conformer_status")}
    return MoleculeSample(**values)

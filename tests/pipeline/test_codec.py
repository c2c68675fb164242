"""Codec and columns: what was encoded comes back bit for bit, by any route of slices, gathers and joins."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.codec import SCHEMA, decode, encode
from pipeline.shards.columns import Columns
from preprocessing.fields import FIELDS, SCHEMA_VERSION, MoleculeSample
from tests.pipeline.samples import assert_same, random_samples, sample_lists

NAMES = [field.name for field in FIELDS]


def rows_of(columns: Columns) -> list[dict[str, np.ndarray]]:
    """Every molecule on its own, cut out with plain Python slices: the reference that gathers are compared with."""
    return [
        {
            name: value[columns.offsets[name][row] : columns.offsets[name][row + 1]]
            if name in columns.offsets
            else value[row : row + 1]
            for name, value in columns.values.items()
        }
        for row in range(columns.num_rows)
    ]


def assert_rows(columns: Columns, expected: list[dict[str, np.ndarray]]) -> None:
    assert columns.num_rows == len(expected)
    for found, wanted in zip(rows_of(columns), expected, strict=True):
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    for name, offset in columns.offsets.items():
        assert offset.dtype == np.int64
        assert offset[0] == 0
        assert offset[-1] == len(columns.values[name])


@settings(max_examples=50, deadline=None)
@given(sample_lists)
def test_samples_come_back_bit_for_bit(samples: list[MoleculeSample]):
    for found, expected in zip(decode(encode(samples)), samples, strict=True):
        assert_same(found, expected)


@settings(max_examples=50, deadline=None)
@given(sample_lists, st.data())
def test_take_slice_and_concat_agree_with_molecule_by_molecule(samples: list[MoleculeSample], data: st.DataObject):
    columns = Columns.from_batch(encode(samples), NAMES)
    reference = rows_of(columns)
    rows = data.draw(st.lists(st.integers(0, len(samples) - 1), max_size=30))
    assert_rows(columns.take(np.array(rows, np.int64)), [reference[row] for row in rows])
    start, stop = sorted(data.draw(st.tuples(st.integers(0, len(samples)), st.integers(0, len(samples)))))
    assert_rows(columns.slice(start, stop), reference[start:stop])
    joined = Columns.concat([columns.slice(start, stop), columns, columns.slice(0, start)])
    assert_rows(joined, reference[start:stop] + reference + reference[:start])


def test_a_slice_of_an_arrow_batch_is_read_like_a_batch_of_its_own():
    samples = random_samples(3, 10)
    part = Columns.from_batch(encode(samples).slice(4, 3), NAMES)
    assert_rows(part, rows_of(Columns.from_batch(encode(samples[4:7]), NAMES)))


def test_numbers_are_views_of_the_arrow_memory():
    batch = encode(random_samples(0, 5))
    columns = Columns.from_batch(batch, ["atom_features", "positions"])
    assert not columns.values["atom_features"].flags.owndata
    assert not columns.values["positions"].flags.owndata


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_the_schema_says_what_the_table_of_fields_says(field):
    kind = SCHEMA.field(field.name).type
    assert not SCHEMA.field(field.name).nullable
    if field.is_ragged:
        assert pa.types.is_list(kind)
        kind = kind.value_type
        if field.width > 1:
            assert kind.list_size == field.width
            kind = kind.value_type
    assert str(kind) == {"float32": "float"}.get(field.dtype, field.dtype)


def test_the_schema_names_its_version():
    assert SCHEMA.metadata == {b"molstream_schema_version": str(SCHEMA_VERSION).encode()}

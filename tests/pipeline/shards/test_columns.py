"""take, slice and concat of columns against doing it row by row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.pipeline.shards.codec import encode
from molstream.pipeline.shards.columns import Columns
from molstream.preprocessing.fields import FIELDS
from tests.support.samples import per_row, varied

NAMES = [field.name for field in FIELDS]


@pytest.fixture(scope="module")
def columns() -> Columns:
    return Columns.from_batch(encode(varied(17)), NAMES)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.integers(0, 16), max_size=30))
def test_take(columns, rows):
    expected = per_row(columns, NAMES)
    assert per_row(columns.take(np.array(rows, np.int64)), NAMES) == [expected[k] for k in rows]


@settings(max_examples=40, deadline=None)
@given(bounds=st.tuples(st.integers(0, 17), st.integers(0, 17)).map(sorted))
def test_slice_and_concat(columns, bounds):
    start, stop = bounds
    expected = per_row(columns, NAMES)
    assert per_row(columns.slice(start, stop), NAMES) == expected[start:stop]
    parts = [columns.slice(0, start), columns.slice(start, stop), columns.slice(stop, 17)]
    assert per_row(Columns.concat(parts), NAMES) == expected


@pytest.mark.parametrize("operation", [lambda c: c, lambda c: c.take(np.arange(4, 9)), lambda c: c.slice(4, 9)])
def test_offsets_count_from_zero_to_all_entries(columns, operation):
    result = operation(columns)
    for name, offset in result.offsets.items():
        assert offset.dtype == np.int64
        assert offset[0] == 0
        assert offset[-1] == len(result.values[name])


def test_a_slice_of_an_arrow_batch_is_like_a_slice_of_columns(columns):
    sliced = Columns.from_batch(encode(varied(17)).slice(5, 7), NAMES)
    assert per_row(sliced, NAMES) == per_row(columns.slice(5, 12), NAMES)


def test_only_the_named_fields_are_read():
    columns = Columns.from_batch(encode(varied(3)), ["row", "positions"])
    assert set(columns.values) == {"row", "positions"}

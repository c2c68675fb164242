"""Codec: samples come back bit for bit, and the schema is what the table of fields says."""

import pyarrow as pa
import pytest
from hypothesis import given, settings

from molstream.pipeline.shards.codec import SCHEMA, decode, encode
from molstream.pipeline.shards.columns import Columns
from molstream.preprocessing.fields import FIELDS, SCHEMA_VERSION
from tests.support.samples import assert_all_same, sample_lists, varied


@settings(max_examples=50, deadline=None)
@given(sample_lists)
def test_samples_come_back_bit_for_bit(samples):
    assert_all_same(decode(encode(samples)), samples)


def test_numbers_are_views_of_the_arrow_memory():
    columns = Columns.from_batch(encode(varied(5)), ["atom_features", "positions"])
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

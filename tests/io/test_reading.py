"""JSON and YAML that were damaged or forged: refused by bounds and types, with what was found and expected."""

import math
import os
from dataclasses import dataclass
from typing import Annotated

import pytest
from pydantic import Field

from molstream.config import configuration, read_yaml, to_yaml
from molstream.errors import ConfigError, DataError
from molstream.io.reading import MAX_DEPTH, AnyNumber, Natural, mismatch, parse_json, parse_yaml, read_json


@pytest.mark.parametrize(
    ("value", "shape", "found"),
    [
        (True, int, "expected a whole number, got true or false"),
        (True, float, "expected a number, got true or false"),
        (1.0, int, "expected a whole number, got a number"),
        ("5", int, "expected a whole number, got a text"),
        ("5", float, "expected a number, got a text"),
        (1, bool, "expected true or false, got a whole number"),
        (1, str, "expected a text, got a whole number"),
        (None, int, "expected a whole number, got null"),
        (math.nan, float, "expected a finite number, got nan"),
        (math.inf, float, "expected a finite number, got inf"),
        (-1, Natural, "expected a number at least 0, got -1"),
        (2**63, int, f"expected a number below {2**63}, got {2**63}"),
        (10**400, int, f"expected a number below {2**63}, got a huge number"),
        (0.0, Annotated[float, Field(gt=0)], "expected a number above 0.0, got 0.0"),
        (math.nan, float | None, "expected a finite number, got nan"),
        ({"a": -1}, dict[str, Natural], "a: expected a number at least 0, got -1"),
        ({"a": {"b": True}}, dict[str, dict[str, int]], "a.b: expected a whole number, got true or false"),
        ([], dict[str, int], "expected a mapping, got a list"),
    ],
)
def test_a_value_of_another_type_or_out_of_range_is_described(value, shape, found):
    assert mismatch({"x": value}, {"x": shape}) == f"x{'.' if found[1:2] in '.:' else ': '}{found}"


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (1, float),
        (1.5, float),
        (-(2**63), int),
        (2**63 - 1, int),
        (None, float | None),
        (1.0, float | None),
        (math.nan, AnyNumber),
        (-math.inf, AnyNumber),
        (3, AnyNumber),
        ({}, dict[str, int]),
        ("", str),
        (False, bool),
    ],
)
def test_values_of_the_type_are_right(value, shape):
    assert mismatch(value, shape) is None


@dataclass
class Entry:
    step: Natural
    loss: float | None = None


def test_the_fields_of_a_dataclass_are_checked_those_with_a_default_where_they_are_given():
    assert mismatch([{"step": 1}, {"step": 1, "loss": None, "more": 1}], [Entry]) is None
    assert mismatch([{"loss": 1.0}], [Entry]) == "the key '[0].step' is missing"
    assert mismatch([{"step": 1, "loss": "0.5"}], [Entry]) == "[0].loss: expected a number, got a text"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "a key occurs twice among 'c', 'c'"),
        (b'{"a": ' + b"9" * 5000 + b"}", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b'{"a": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", f"more than {MAX_DEPTH} lists and mappings"),
        (b'{"a": "\xff"}', "it is not JSON"),
        (b'{"a": 1} x', "line 1, column 10"),
    ],
)
def test_json_that_is_none_or_has_no_bounds_is_refused(content, message):
    with pytest.raises(DataError, match=f"^file cannot be (read|used): .*{message}.* Do something.$"):
        parse_json(content, "file", {"a": object}, "Do something.")
    assert parse_json(b'{"a": ' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}", "file", {"a": list}, "")


def test_a_file_that_is_too_large_or_no_file_is_not_read(tmp_path):
    (tmp_path / "large").write_bytes(b"[" + b" " * 100 + b"]")
    assert read_json(tmp_path / "large", list, "", most=102) == []
    with pytest.raises(DataError, match="large cannot be read: it has more than 101 bytes"):
        read_json(tmp_path / "large", list, "", most=101)
    (tmp_path / "endless").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    for name in ("endless", "pipe"):
        with pytest.raises(DataError, match=f"{name} cannot be read: it is a device or pipe. Do."):
            read_json(tmp_path / name, list, "Do.")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "anchors and aliases are not allowed"),
        ("a: !!python/object/apply:os.system [ls]", "the tag .* is not allowed"),
        ("a: !!timestamp x", "the tag .* is not allowed"),
        ("a: 1\nb: 2\na: 3", "a key must be a text that occurs once"),
        ("? [1, 2]\n: 3", "a key must be a text that occurs once"),
        ("a: " + "9" * 5000, "a number or date in it has no value"),
        ("a: 2024-99-99", "a number or date in it has no value"),
        ("a: " + "[" * 10_000, "nested too deeply"),
        ("a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH, f"more than {MAX_DEPTH} lists and mappings"),
        ("a: [", "while parsing"),
    ],
)
@pytest.mark.parametrize("texts", [True, False])
def test_yaml_that_is_none_or_has_no_bounds_is_refused(text, message, texts):
    if texts and "9" in text:
        assert parse_yaml(text, "file", ConfigError, texts=texts) == {"a": text[3:]}
        return
    with pytest.raises(ConfigError, match=f"(?s)^file cannot be .*{message}"):
        parse_yaml(text, "file", ConfigError, texts=texts)


def test_a_configuration_with_one_list_in_two_places_is_read_back(tmp_path):
    @configuration
    class Twice:
        first: dict[str, list[str]]
        second: dict[str, list[str]]

    shared = {"names": ["x"]}
    text = to_yaml(Twice(first=shared, second=shared))
    (tmp_path / "config.yaml").write_text(text)
    assert read_yaml(tmp_path / "config.yaml") == {"first": shared, "second": shared}

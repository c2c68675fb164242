"""Reading JSON and YAML that people can damage or forge: bounded, typed, and with one message that names the file.

Bounded: a file has a largest size, its content a largest depth. A key occurs once; YAML has no tags, anchors or
aliases. Typed: ``true`` is no number, ``1.0`` is no whole number, and NaN and infinities are no numbers unless a shape
says so.
"""

import dataclasses
import functools
import json
import math
import stat
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from yaml.composer import Composer, ComposerError

from molstream.errors import DataError, MolstreamError, in_words

MAX_BYTES = 64 << 20
"""Largest size of a file, unless a caller allows more."""
MAX_DEPTH = 64
"""Most lists and mappings inside each other."""

Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""A whole number that fits into int64, as every ``int`` of a shape must."""
Natural = Annotated[int, Field(ge=0, lt=2**63)]
"""0, 1, 2, ..."""
Moment = Annotated[float, Field(ge=0, lt=253402300800)]
"""Seconds since 1970, up to the year 9999."""


class AnyNumber(float):
    """In a shape: a number that may also be NaN or infinite."""


Shape = Any
"""What a value has to be: a type, which may be ``Annotated`` with a range, or a union of such; a dict of the shapes of
the keys that it must have; a list of the shape of all items; ``dict[str, X]`` for any keys; or a dataclass, of which it
must have the fields without a default."""

NAMES = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false", int: "a whole number"}
NAMES |= {float: "a number", type(None): "null"}


# --- JSON -----------------------------------------------------------------------------------------------------------


def read_json(
    path: Path, shape: Shape, advice: str, error: type[MolstreamError] = DataError, most: int = MAX_BYTES
) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        shape: what the content has to be; further keys are allowed.
        advice: what to do about a file that is missing or damaged, a sentence.
        error: the class of the error.
        most: largest size in bytes.

    Raises:
        MolstreamError: of the class ``error``; the file cannot be read, is not JSON, or is something else.
    """
    return parse_json(read_bounded(path, advice, error, most), str(path), shape, advice, error)


def read_bounded(path: Path, advice: str, error: type[MolstreamError] = DataError, most: int = MAX_BYTES) -> bytes:
    """The bytes of a file that must not be large; the arguments and errors are those of :func:`read_json`."""
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise error(f"{path} cannot be read: it is a device or pipe. {advice}")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except (OSError, ValueError) as problem:
        raise error(f"{path} cannot be read: {in_words(getattr(problem, 'strerror', problem))}. {advice}") from problem
    if len(content) > most:
        raise error(f"{path} cannot be read: it has more than {most:,} bytes. {advice}")
    return content


def parse_json(
    content: bytes | str,
    where: str,
    shape: Shape,
    advice: str,
    error: type[MolstreamError] = DataError,
    hook: Callable[[dict[str, Any]], Any] | None = None,
) -> Any:
    """The value that JSON stands for; the arguments and errors are those of :func:`read_json`.

    Args:
        where: names the JSON in messages.
        hook: makes another value of every mapping, the inner ones first.
    """

    def mapping(pairs: list[tuple[str, Any]]) -> Any:
        value = dict(pairs)
        if len(value) < len(pairs):
            raise error(f"{where} cannot be used: a key occurs twice among {_some(pairs)}. {advice}")
        return hook(value) if hook else value

    try:
        value = json.loads(content, object_pairs_hook=mapping)
    except json.JSONDecodeError as problem:
        place = f"line {problem.lineno}, column {problem.colno}"
        found = f"it is not JSON ({place}: {in_words(problem.msg)})" if content.strip() else "it is empty"
        raise error(f"{where} cannot be read: {found}. {advice}") from problem
    except MolstreamError:
        raise
    except (ValueError, RecursionError) as problem:
        # Not Unicode, a number of thousands of digits, or thousands of brackets.
        raise error(f"{where} cannot be read: it is not JSON. {advice}") from problem
    if unlike := too_deep(value) or mismatch(value, shape):
        raise error(f"{where} cannot be used: {unlike}. {advice}")
    return value


def _some(pairs: list[tuple[str, Any]]) -> str:
    keys = [repr(key[:40]) for key, _ in pairs]
    return ", ".join(keys[:6]) + (", ..." if len(keys) > 6 else "")


def too_deep(value: Any) -> str | None:
    """That lists and mappings are nested too deeply, a clause; None where they are not."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return None
    return f"more than {MAX_DEPTH} lists and mappings are inside each other"


# --- YAML -----------------------------------------------------------------------------------------------------------


class _PlainNodes(Composer):
    """Refuses what can make much of few bytes, or something else than plain values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise ComposerError(None, None, "anchors and aliases are not allowed", event.start_mark)
        if getattr(event, "tag", None) not in (None, "!"):
            raise ComposerError(None, None, f"the tag {event.tag} is not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen if isinstance(key, yaml.ScalarNode) else True:
                raise ComposerError(None, None, "a key must be a text that occurs once", key.start_mark)
            seen.add(key.value)
        return node


class PlainLoader(_PlainNodes, yaml.SafeLoader):
    """Values by their look: numbers, true and false, null, texts."""


class TextLoader(_PlainNodes, yaml.BaseLoader):
    """Texts alone."""


def parse_yaml(content: bytes | str, where: str, error: type[MolstreamError], *, texts: bool = False) -> Any:
    """The value that YAML stands for.

    Args:
        where: names the YAML in messages.
        error: the class of the error.
        texts: whether numbers, dates, true, false and null are texts, too.

    Raises:
        MolstreamError: of the class ``error``; it is not YAML, is nested too deeply, has a key twice, or a tag, an
            anchor or an alias.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = yaml.load(text, TextLoader if texts else PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise error(f"{where} cannot be read as YAML: {in_words(problem)}.") from problem
    except ValueError as problem:
        raise error(f"{where} cannot be read as YAML: a number or date in it has no value.") from problem
    except RecursionError as problem:
        raise error(f"{where} cannot be read as YAML: it is nested too deeply.") from problem
    if deep := too_deep(value):
        raise error(f"{where} cannot be used: {deep}.")
    return value


# --- shapes ---------------------------------------------------------------------------------------------------------


def mismatch(value: Any, shape: Shape, key: str = "") -> str | None:
    """In what a value differs from a shape, a clause; None where it does not.

    Args:
        key: where the value is, dotted; empty for the whole.
    """
    if isinstance(shape, type) and dataclasses.is_dataclass(shape):
        return _mismatch_of_fields(value, shape, key)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return _unlike(value, dict, key)
        return next((found for name in shape if (found := _at(value, name, shape[name], key))), None)
    if typing.get_origin(shape) is dict:
        inner = typing.get_args(shape)[1]
        if not isinstance(value, dict):
            return _unlike(value, dict, key)
        return next((found for name in value if (found := _at(value, name, inner, key))), None)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _unlike(value, list, key)
        problems = (mismatch(item, shape[0], f"{key}[{number}]") for number, item in enumerate(value))
        return next((problem for problem in problems if problem), None)
    return _mismatch_of_leaf(value, shape, key)


def _at(value: dict[str, Any], name: str, shape: Shape, key: str) -> str | None:
    path = f"{key}.{name}" if key else name
    return mismatch(value[name], shape, path) if name in value else f"the key '{path}' is missing"


def _mismatch_of_fields(value: Any, shape: type, key: str) -> str | None:
    if not isinstance(value, dict):
        return _unlike(value, dict, key)
    hints = typing.get_type_hints(shape, include_extras=True)
    for each in dataclasses.fields(shape):
        required = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        if (required or each.name in value) and (found := _at(value, each.name, _of(hints[each.name]), key)):
            return found
    return None


def _mismatch_of_leaf(value: Any, shape: Any, key: str) -> str | None:
    if shape is object:
        return None
    if shape in (dict, list):
        return None if isinstance(value, shape) else _unlike(value, shape, key)
    if shape is AnyNumber and isinstance(value, float):
        return None
    found = _checked(Whole if shape is int else float if shape is AnyNumber else shape, value)
    if found is None:
        return None
    kinds = _kinds(shape)
    if type(value) in kinds or (float in kinds and type(value) is int):
        at = f"{key}: " if key else ""
        return f"{at}{found}, got {value if isinstance(value, float) or abs(value) < 10**20 else 'a huge number'}"
    return _unlike(value, kinds[0], key)


def _checked(kind: Any, value: Any) -> str | None:
    """What pydantic says of a value of another type or out of range, a clause; None if it has the type."""
    try:
        _adapter(kind).validate_python(value)
    except ValidationError as error:
        context = error.errors(include_url=False)[0].get("ctx", {})
        for bound, words in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
            if bound in context:
                return f"expected a number {words} {context[bound]}"
        return "expected a finite number"
    except OverflowError:
        return "expected a finite number"
    return None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))


def _kinds(shape: Any) -> tuple[type, ...]:
    """The plain types of a leaf, without ranges."""
    if typing.get_origin(shape) is Annotated:
        return _kinds(typing.get_args(shape)[0])
    if typing.get_origin(shape) in (typing.Union, types.UnionType):
        return tuple(kind for each in typing.get_args(shape) for kind in _kinds(each))
    return (float,) if shape is AnyNumber else (shape,)


def _unlike(value: Any, kind: type, key: str) -> str:
    at = f"{key}: " if key else ""
    strange = isinstance(value, float) and not math.isfinite(value)
    got = str(value) if strange else NAMES.get(type(value), type(value).__name__)
    return f"{at}expected {NAMES[kind]}, got {got}"


def _of(hint: Any) -> Shape:
    """The shape of a field's type, without what is inside of lists and mappings; anything for other types."""
    kind = typing.get_origin(hint) or hint
    if kind in (dict, list, tuple):
        return list if kind is tuple else kind
    return hint if all(each in NAMES for each in _kinds(hint)) else object

"""Reading files that people can damage: a message names the file, what was found and expected, and what to do."""

import dataclasses
import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from molstream.errors import DataError, MolstreamError, in_words

Shape = Any
"""What JSON has to be: a type; a dict of the shapes of the keys that it must have; a list of the shape of all items; or
a dataclass, of which it must have the fields without a default."""

NAMES = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false", int: "a whole number"}
NAMES |= {float: "a number", type(None): "null"}


def read_json(path: Path, shape: Shape, advice: str, error: type[MolstreamError] = DataError) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        shape: what the content has to be; further keys are allowed.
        advice: what to do about a file that is missing or damaged, a sentence.
        error: the class of the error.

    Raises:
        MolstreamError: of the class ``error``; the file cannot be read, is not JSON, or is something else.
    """
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise error(f"{path} cannot be read: {in_words(problem.strerror or problem)}. {advice}") from problem
    return parse_json(content, str(path), shape, advice, error)


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
    try:
        value = json.loads(content, object_hook=hook)
    except json.JSONDecodeError as problem:
        place = f"line {problem.lineno}, column {problem.colno}"
        found = f"it is not JSON ({place}: {in_words(problem.msg)})" if content.strip() else "it is empty"
        raise error(f"{where} cannot be read: {found}. {advice}") from problem
    except (UnicodeDecodeError, RecursionError) as problem:
        raise error(f"{where} cannot be read: it is not JSON. {advice}") from problem
    if unlike := mismatch(value, shape):
        raise error(f"{where} cannot be used: {unlike}. {advice}")
    return value


def mismatch(value: Any, shape: Shape, key: str = "") -> str | None:
    """In what a value of JSON differs from a shape, a clause; None where it does not.

    Args:
        key: where the value is, dotted; empty for the whole.
    """
    if isinstance(shape, type) and dataclasses.is_dataclass(shape):
        hints = typing.get_type_hints(shape)
        shape = {each.name: _of(hints[each.name]) for each in dataclasses.fields(shape) if _is_required(each)}
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return _unlike(value, dict, key)
        for name, inner in shape.items():
            path = f"{key}.{name}" if key else name
            if name not in value:
                return f"the key '{path}' is missing"
            if found := mismatch(value[name], inner, path):
                return found
        return None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _unlike(value, list, key)
        problems = (mismatch(item, shape[0], f"{key}[{number}]") for number, item in enumerate(value))
        return next((problem for problem in problems if problem), None)
    kind: Any = shape
    return None if isinstance(value, (int, float) if kind is float else kind) else _unlike(value, kind, key)


def _unlike(value: Any, kind: type, key: str) -> str:
    at = f"{key}: " if key else ""
    return f"{at}expected {NAMES[kind]}, got {NAMES.get(type(value), type(value).__name__)}"


def _of(hint: Any) -> Shape:
    """The shape of a field's type, without what is inside of lists and mappings; anything for a union."""
    kind = typing.get_origin(hint) or hint
    return {tuple: list}.get(kind, kind) if kind in (*NAMES, tuple) else object


def _is_required(each: dataclasses.Field[Any]) -> bool:
    return each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING

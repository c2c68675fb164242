"""Typed configuration: a dataclass owns every key with its type, range, default and docstring, which is its help.

A configuration is made in three layers. The dataclasses hold the defaults. The YAML of ``configs/`` holds what presets
change, and the command line comes last (:mod:`molstream.compose`). Pydantic checks types and ranges; this module words
what it finds.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_origin

import pydantic
import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from molstream.errors import ConfigError
from molstream.io.reading import parse_yaml, read_bounded

PACKAGE = Path(__file__).parent
"""Folder of the installed package; in a clone it leads to the rooms by links, which must not be resolved."""
CONFIG_DIR = PACKAGE / "configs"

PositiveInt = Annotated[int, Field(ge=1)]
"""1, 2, 3, ..."""
Fraction = Annotated[float, Field(ge=0, le=1)]
"""From 0 to 1."""
Decay = Annotated[float, Field(ge=0, lt=1)]
"""From 0 to 1, not 1 itself."""

NEAR = 0.5
"""How similar a word must be to be what was meant; 1 is equal."""

T = TypeVar("T")
Tree = dict[str, Any]
"""A configuration as nested dictionaries of plain values."""


# --- dataclasses ----------------------------------------------------------------------------------------------------


def free(*, default: Any = dataclasses.MISSING, default_factory: Any = dataclasses.MISSING) -> Any:
    """A field that may differ when a run is continued, because it does not change what is computed."""
    return dataclasses.field(default=default, default_factory=default_factory, metadata={"free": True})  # pyright: ignore[reportCallIssue]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field, free, Field))
def configuration(cls: type[T]) -> type[T]:
    """A frozen dataclass with keyword arguments, whose values are checked wherever they come from.

    Unknown keys, wrong types, values out of range, NaN and infinities raise :class:`ConfigError`. The docstring below
    a field is its help.
    """
    rules = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, coerce_numbers_to_str=True)
    made = pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=rules)
    checked = made.__init__

    def initialize(self: Any, *arguments: Any, **values: Any) -> None:
        try:
            checked(self, *arguments, **values)
        except ValidationError as error:
            raise ConfigError(_explained(cls, error)) from error

    made.__init__ = initialize  # pyright: ignore[reportAttributeAccessIssue]
    return made  # pyright: ignore[reportReturnType]


def with_sections(cls: type[T], added: Mapping[str, tuple[type, Mapping[str, Any]]]) -> type[T]:
    """A configuration with further sections that are None by default: those of what other packages add.

    Args:
        added: the dataclass and the field's metadata of every section, by name.
    """
    if not added:
        return cls
    namespace: dict[str, Any] = {"__doc__": cls.__doc__, "__module__": cls.__module__}
    namespace["__annotations__"] = {name: kind | None for name, (kind, _) in added.items()}
    for name, (_, metadata) in added.items():
        namespace[name] = dataclasses.field(default=None, metadata=dict(metadata))
    return configuration(type(cls.__name__, (cls,), namespace))  # pyright: ignore[reportReturnType]


def is_configuration(kind: Any) -> bool:
    """Whether a type is a dataclass, and so a section of a configuration."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def field_types(schema: type) -> dict[str, Any]:
    """The type of every field, without the ranges of ``Annotated``."""
    return typing.get_type_hints(schema)


def section(kind: Any) -> type | None:
    """The dataclass of a field's type, ``X`` or ``X | None``; None for a plain value."""
    return next((each for each in (kind, *union_of(kind)) if is_configuration(each)), None)


def union_of(kind: Any) -> tuple[Any, ...]:
    """The members of a union; none of another type."""
    return get_args(kind) if get_origin(kind) in (typing.Union, types.UnionType) else ()


def known_keys(schema: type, prefix: str = "") -> list[str]:
    """Every dotted key of a configuration."""
    keys: list[str] = []
    for name, kind in field_types(schema).items():
        keys.append(prefix + name)
        if inner := section(kind):
            keys += known_keys(inner, f"{prefix}{name}.")
    return keys


def type_of(schema: type, key: str) -> Any:
    """The type of the field with a dotted key.

    Raises:
        ConfigError: there is no such key; the nearest ones are named.
    """
    kind: Any = schema
    for name in key.split("."):
        inner = section(kind)
        if inner is None or name not in (found := field_types(inner)):
            raise ConfigError(unknown_key(schema, key))
        kind = found[name]
    return kind


def unknown_key(schema: type, key: str) -> str:
    """What to say of a key that a configuration lacks: the nearest ones, else those of its section."""
    parent, _, last = re.sub(r"\[\d+\]", "", key).rpartition(".")
    inner = _section_at(schema, parent)
    siblings = list(field_types(inner)) if inner else []
    prefix = key.rpartition(".")[0]
    near = [f"{prefix}.{name}" if prefix else name for name in difflib.get_close_matches(last, siblings, 3, NEAR)]
    everywhere = known_keys(schema)
    near = near or [known for known in everywhere if known.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(key, everywhere, n=3)
    if near:
        return f"unknown key '{key}'. Did you mean {' or '.join(repr(k) for k in near[:3])}?"
    return f"unknown key '{key}'. Known keys: {', '.join(siblings or field_types(schema))}."


def _section_at(schema: type, key: str) -> type | None:
    """The section with a dotted key, or the one that a list of sections with that key holds."""
    kind: Any = schema
    for name in key.split(".") if key else ():
        inner = section(kind)
        kind = field_types(inner).get(name) if inner else None
        kind = next(iter(get_args(kind)), kind) if get_origin(kind) is list else kind
    return section(kind)


# --- trees ----------------------------------------------------------------------------------------------------------


def load(schema: type[T], tree: Mapping[str, Any], where: str = "") -> T:
    """The dataclass ``schema`` from nested dictionaries of plain values.

    Args:
        where: names the source of the values in messages; empty for a command line.

    Raises:
        ConfigError: unknown key, wrong type, a value out of range, or a missing value.
    """
    try:
        return TypeAdapter(schema).validate_python(_completed(schema, tree))
    except ValidationError as error:
        text = _explained(schema, error, is_line=not where)
        raise ConfigError(f"{where}: {text}" if where else text) from error


def _completed(schema: type, tree: Mapping[str, Any]) -> Tree:
    """The tree with what it leaves out of a section whose field has a default of its own."""
    whole: Tree = {}
    defaults = {field.name: field for field in dataclasses.fields(schema)}
    hints = field_types(schema)
    for name, value in tree.items():
        inner = section(hints[name]) if name in hints else None
        if inner and isinstance(value, Mapping):
            default = defaults[name].default
            whole[name] = _completed(inner, {**(tree_of(default) if is_configuration(type(default)) else {}), **value})
        else:
            whole[name] = value
    return whole


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; nothing in it is resolved or executed.

    Raises:
        ConfigError: it cannot be read.
    """
    content = read_bounded(path, "Restore it from a copy.", ConfigError)
    return parse_yaml(content, str(path), ConfigError)


def read_tree(path: Path) -> Tree:
    """The nested dictionaries in a YAML file.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else "a list" if isinstance(tree, list) else f"'{tree}'"
        raise ConfigError(f"{path} cannot be used: expected keys with values, as `key: value`, got {found}.")
    return tree


def tree_of(config: Any) -> Tree:
    """A configuration as nested dictionaries; sections that are not chosen (None) are absent."""
    tree: Tree = {}
    for name, kind in field_types(type(config)).items():
        value = getattr(config, name)
        if section(kind) is None:
            tree[name] = _plain(value)
        elif value is not None:
            tree[name] = tree_of(value)
    return tree


def _plain(value: Any) -> Any:
    if is_configuration(type(value)):
        return tree_of(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def to_yaml(config: Any) -> str:
    """A configuration as YAML, from which :func:`load` gives the same one."""
    return yaml.dump(tree_of(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Writes a value that occurs twice twice: aliases are not read back."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dictionaries by dotted key."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def free_keys(schema: type, prefix: str = "") -> frozenset[str]:
    """The dotted keys of fields that :func:`free` made."""
    hints = field_types(schema)
    keys = {prefix + field.name for field in dataclasses.fields(schema) if field.metadata.get("free")}
    for name, kind in hints.items():
        if inner := section(kind):
            keys |= free_keys(inner, f"{prefix}{name}.")
    return frozenset(keys)


# --- messages -------------------------------------------------------------------------------------------------------


def _explained(schema: type, error: ValidationError, *, is_line: bool = True) -> str:
    """What pydantic found, as sentences about keys.

    Args:
        is_line: whether the values were given on a command line.
    """
    return " ".join(_sentence(schema, found, is_line) for found in error.errors(include_url=False)[:3])


def _sentence(schema: type, found: Mapping[str, Any], is_line: bool) -> str:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in found["loc"]).removeprefix(".")
    kind, given = found["type"], found["input"]
    if kind == "missing":
        return f"{key} is missing: give {key}=VALUE." if is_line else f"the key '{key}' is missing."
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return unknown_key(schema, key)
    context = found.get("ctx", {})
    if isinstance(inner := context.get("error"), ConfigError):
        return f"{key}: {inner}" if key and not str(inner).startswith(key.split(".")[0]) else str(inner)
    shown = "null" if given is None else given if isinstance(given, str | int | float) else repr(given)
    return f"{key}={shown}: {_expected(kind, context, found['msg'])}."


_EXPECTED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda c: f"expected a number above {c['gt']:g}",
    "greater_than_equal": lambda c: f"expected at least {c['ge']:g}",
    "less_than": lambda c: f"expected a number below {c['lt']:g}",
    "less_than_equal": lambda c: f"expected at most {c['le']:g}",
    "literal_error": lambda c: f"expected one of {c['expected'].replace(' or ', ', ').replace(chr(39), '')}",
    "finite_number": lambda c: "expected a finite number",
    "int_from_float": lambda c: "expected a whole number",
    "list_type": lambda c: "expected a list, as [a,b]",
    "dataclass_type": lambda c: "expected a mapping, as {key: value}",
    "string_type": lambda c: "expected a text",
}


def _expected(kind: str, context: Mapping[str, Any], message: str) -> str:
    if kind in _EXPECTED:
        return _EXPECTED[kind](context)
    for beginning, expected in (("int", "a whole number"), ("float", "a number"), ("bool", "true or false")):
        if kind.startswith(beginning):
            return f"expected {expected}"
    return message[0].lower() + message[1:]

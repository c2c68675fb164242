"""The help of commands, from the dataclasses of their configurations: every key with type, default and docstring."""

import dataclasses
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from molstream.compose import Group, config_groups
from molstream.config import CONFIG_DIR, field_types, is_configuration, section, type_of

WIDTH = 110
"""Columns at most."""
INDENT = 26
"""Column in which the text of a key begins."""

OPTIONS = {
    "-h, --help [SECTION]": "Print this help, or that of a section or config group.",
    "--cfg": "Print the configuration as YAML instead of running.",
    "--version": "Print the version.",
}


def command_help(
    name: str,
    file: str,
    schema: type,
    examples: Sequence[str],
    positional: str | None,
    flags: Mapping[str, str],
    about: str | None,
) -> str:
    """The help of a command, or of one of its sections or config groups.

    Args:
        file: name of its file in ``configs/``.
        about: a section or group; None for the whole command.

    Raises:
        ConfigError: there is no such section.
    """
    groups = config_groups(file)
    if about is not None:
        is_key = about not in groups or about in field_types(schema)
        kind = section(type_of(schema, about)) if is_key else None
        parts = [_group(groups[about])] if about in groups else []
        if kind is not None:
            parts += [_text(kind.__doc__), *_keys(kind, f"{about}.", defaults=_default_at(schema, about))]
        elif about not in groups:
            parts += _keys(schema, "", only=about)
        return "\n\n".join(part for part in parts if part)
    required = [f.name for f in dataclasses.fields(schema) if _is_required(f) and f.name != positional]
    place = [positional.upper()] if positional else []
    usage = " ".join(["usage: molstream", name, *place, *(f"{key}=..." for key in required), "[key=value ...]"])
    parts = [usage, _text(schema.__doc__)]
    parts += [_group(group) for group in groups.values()]
    parts += _keys(schema, "", hidden={group.partition("/")[0] for group in groups})
    parts.append("options\n" + _table({**flags, **OPTIONS}))
    if examples:
        parts.append("examples\n" + "\n".join(f"  {example}" for example in examples))
    return "\n\n".join(part for part in parts if part)


class Key(NamedTuple):
    """A key as the help shows it."""

    name: str
    kind: str
    default: str
    text: str


def keys_of(schema: type, prefix: str = "", defaults: object = None) -> list[Key]:
    """The keys of a configuration that are no sections; their defaults are those of ``defaults``, if it is given."""
    rules = TypeAdapter(schema).json_schema()["properties"]
    types, texts = field_types(schema), _descriptions(schema)
    found = []
    for each in dataclasses.fields(schema):
        if section(types[each.name]) is None:
            rule = rules[each.name]
            found.append(Key(prefix + each.name, _kind(rule), _default(each, defaults), _text(texts.get(each.name))))
    return found


def _descriptions(schema: type) -> dict[str, str]:
    """The docstrings of the fields; pydantic finds those of a dataclass's own alone, not of the ones it extends."""
    bases = [base for base in reversed(schema.__mro__) if is_configuration(base)]
    rules = [rule for base in bases for rule in TypeAdapter(base).json_schema()["properties"].items()]
    return {name: rule["description"] for name, rule in rules if "description" in rule}


def _keys(
    schema: type,
    prefix: str,
    *,
    defaults: object = None,
    only: str | None = None,
    hidden: set[str] | None = None,
) -> list[str]:
    """Paragraphs: the keys of a configuration, then those of its sections."""
    own = [key for key in keys_of(schema, prefix, defaults) if only in (None, key.name)]
    parts = [("keys\n" if not prefix else "") + "\n".join(map(_row, own))] if own else []
    if only is not None:
        return parts
    types = field_types(schema)
    for each in dataclasses.fields(schema):
        name = each.name
        if (inner := section(types[name])) is None:
            continue
        path = f"{prefix}{name}"
        title = f"{path}: {_first_line(inner)}"
        if name in (hidden or ()):
            parts.append(_wrapped(f"{title} Its keys: --help {path}", 4))
        else:
            keys = _keys(inner, f"{path}.", defaults=_default_of(each, defaults))
            parts.append("\n".join([_wrapped(title, 4), *keys]))
    return parts


def _row(key: Key) -> str:
    head = f"  {key.name}"
    facts = ", ".join(filter(None, [key.kind, key.default]))
    lines = textwrap.wrap(f"{key.text} [{facts}]", _width() - INDENT, break_on_hyphens=False)
    if len(head) < INDENT - 1:
        first, *rest = lines
        return "\n".join([head.ljust(INDENT) + first, *(" " * INDENT + line for line in rest)])
    return "\n".join([head, *(" " * INDENT + line for line in lines)])


def _group(group: Group) -> str:
    default = ", ".join(group.default) if isinstance(group.default, list) else group.default
    several = "=NAME or [NAME,...]" if group.several else "=NAME"
    title = f"config group {group.name}{several} (default: {default or 'none'})"
    return title + "\n" + _table({option: option_summary(group, option) for option in group.options})


def option_summary(group: Group, option: str) -> str:
    """What the first comment of an option's file says of it; of one that another package adds, that it does."""
    if option not in group.files:
        return "added by another package"
    lines = (CONFIG_DIR / group.name / f"{option}.yaml").read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("#").strip() for line in lines if line.startswith("#") and "@package" not in line]
    return comments[0] if comments else ""


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(_pair(name, text) for name, text in rows.items())


def _pair(name: str, text: str) -> str:
    lines = textwrap.wrap(text, _width() - INDENT, break_on_hyphens=False) or [""]
    return "\n".join([f"  {name}".ljust(INDENT) + lines[0], *(" " * INDENT + line for line in lines[1:])])


def _kind(rule: Mapping[str, Any]) -> str:
    """The type and range of a key, from its JSON schema."""
    if "anyOf" in rule:
        return " or ".join(map(_kind, rule["anyOf"]))
    if "enum" in rule:
        return " | ".join(map(str, rule["enum"]))
    if "const" in rule:
        return str(rule["const"])
    if "type" not in rule:  # a key of type Any, which its command reads itself
        return "text, list or mapping"
    kind = str(rule["type"])
    names = {"string": "text", "boolean": "true | false", "array": "list", "object": "mapping"}
    return " ".join([names.get(kind, kind), *_range(rule)])


def _range(rule: Mapping[str, Any]) -> Iterator[str]:
    for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<")):
        if key in rule:
            yield f"{sign} {rule[key]:g}"


def _default(each: dataclasses.Field[Any], defaults: object) -> str:
    value = _default_of(each, defaults)
    if value is dataclasses.MISSING:
        return "required"
    if value is None:
        return "default null"
    shown = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
    return f"default {shown if not isinstance(shown, list) else '[' + ', '.join(map(str, shown)) + ']'}"


def _default_of(each: dataclasses.Field[Any], defaults: object) -> Any:
    """A field's value in ``defaults``, which is None or the default of the whole section; else the field's own."""
    if defaults is not None and defaults is not dataclasses.MISSING:
        return getattr(defaults, each.name)
    return each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default


def _default_at(schema: type, path: str) -> Any:
    """The default of the section at a dotted path."""
    value: Any = None
    for name in path.split("."):
        value = _default_of(next(each for each in dataclasses.fields(schema) if each.name == name), value)
        schema = section(field_types(schema)[name]) or schema
    return value


def _is_required(each: dataclasses.Field[Any]) -> bool:
    return each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING


def _text(docstring: str | None) -> str:
    """A docstring as running text; paragraphs are kept apart."""
    paragraphs = [" ".join(part.split()) for part in (docstring or "").split("\n\n")]
    return "\n".join(_wrapped(part, 0) for part in paragraphs if part)


def _first_line(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _wrapped(text: str, indent: int) -> str:
    return textwrap.fill(text, _width(), subsequent_indent=" " * indent, break_on_hyphens=False)


def _width() -> int:
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)

"""Composing a configuration: Hydra composes config groups, and the words of a command line come last.

A word is ``key=value``, where the value is read by the type of its key, or ``group=option``. A path is taken as it is,
whatever characters it has, and nothing in a value is ever resolved or executed.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from molstream.config import (
    CONFIG_DIR,
    NEAR,
    Tree,
    field_types,
    is_configuration,
    known_keys,
    load,
    read_yaml,
    section,
    type_of,
    union_of,
    unknown_key,
)
from molstream.errors import ConfigError
from molstream.extensions import extensions
from molstream.io.credentials import credentials_in, without_credentials
from molstream.io.reading import parse_yaml

T = TypeVar("T")

INPUTS = ("input", "decontaminate", "tasks")
"""Keys that name molecule files, which are read once: their addresses may be signed."""


@dataclasses.dataclass(frozen=True)
class Group:
    """A config group of a command: a choice among files of ``configs/``."""

    name: str
    default: str | list[str] | None
    """The option, or options, taken where nothing is said; None for no option."""

    @property
    def files(self) -> list[str]:
        """Names of the options that molstream has itself."""
        return sorted(path.stem for path in (CONFIG_DIR / self.name).glob("*.yaml"))

    @property
    def added(self) -> dict[str, Tree]:
        """What the options that other packages add put into a configuration."""
        if self.name == "objective":
            return {name: {"objective": {name: {}}} for name in extensions("objectives")}
        if self.name.startswith("model/encoder_"):
            modality = self.name.removeprefix("model/encoder_")
            names = [name for name, encoder in extensions("encoders").items() if encoder.modality == modality]
            # The option `none` is no encoder.
            others = dict.fromkeys(name for name in [*self.files, *names] if name != "none")
            return {name: {"model": {**others, name: {}}} for name in names}
        return {}

    @property
    def options(self) -> list[str]:
        """Names that can be chosen."""
        return [*self.files, *self.added]

    @property
    def several(self) -> bool:
        """Whether several options can be chosen together."""
        return isinstance(self.default, list)


def config_groups(name: str) -> dict[str, Group]:
    """The groups of ``configs/<name>.yaml``, by name; none where there is no such file."""
    path = CONFIG_DIR / f"{name}.yaml"
    if not path.is_file():
        return {}
    found: dict[str, Group] = {}
    for entry in read_yaml(path).get("defaults", []):
        if isinstance(entry, dict):
            (group, default) = next(iter(entry.items()))
            found[group.split()[-1]] = Group(group.split()[-1], default)
    return found


def _chosen(group: Group, value: Any) -> list[str]:
    """The options of a group that are chosen.

    Raises:
        ConfigError: no such option, or several where one is expected.
    """
    names = [str(name) for name in value] if isinstance(value, list) else _listed(str(value))
    if len(names) > 1 and not group.several:
        raise ConfigError(f"{group.name}={value}: expected one of {', '.join(group.options)}, got {len(names)} names.")
    for option in names:
        if option not in group.options:
            near = difflib.get_close_matches(option, group.options, 1, NEAR)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise ConfigError(f"{group.name}={option}: no such option. {hint}Choose {_either(group.options)}.")
    if len(set(names)) < len(names):
        raise ConfigError(f"{group.name}={value}: an option is named twice.")
    return names


def _listed(text: str) -> list[str]:
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return [name.strip() for name in inner.split(",")]


def _composed(name: str, choices: Mapping[str, Any]) -> Tree:
    """What Hydra makes of ``configs/<name>.yaml`` and the chosen options: values that differ from the defaults."""
    if not (CONFIG_DIR / f"{name}.yaml").is_file():
        return {}
    groups = config_groups(name)
    overrides: list[str] = []
    added: list[Tree] = []
    for key, value in choices.items():
        group, names = groups[key], _chosen(groups[key], value)
        own = [option for option in names if option in group.files]
        added += [group.added[option] for option in names if option not in own]
        if group.several:
            overrides.append(f"{key}=[{','.join(own)}]")
        elif own:
            overrides.append(f"{key}={own[0]}")
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.initialize import get_gh_backup, restore_gh_from_backup
    from omegaconf import OmegaConf

    # A program that uses Hydra itself keeps its own state.
    backup = get_gh_backup()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR.absolute())):
            tree = OmegaConf.to_container(compose(name, overrides=overrides), resolve=True)
    finally:
        restore_gh_from_backup(backup)
    assert isinstance(tree, dict)
    composed: Tree = {str(key): value for key, value in tree.items()}
    for fragment in added:
        for key, values in fragment.items():
            composed[key] = {**composed.get(key, {}), **values}
    return composed


# --- command lines --------------------------------------------------------------------------------------------------


def compose(name: str, schema: type[T], words: Sequence[str]) -> T:
    """The dataclass ``schema`` from ``configs/<name>.yaml`` and the words of a command line.

    Args:
        name: of the command.
        words: ``key=value`` or ``group=option``; the last one of a key counts.

    Raises:
        ConfigError: a word that is neither, an unknown key or option (with the nearest ones), a wrong type, a value out
            of range or a missing value.
    """
    groups = config_groups(name)
    choices: dict[str, str] = {}
    values: list[tuple[str, Any]] = []
    for word in words:
        key, given = _split(word)
        if key in groups and not given.startswith("{"):
            choices[key] = given
        else:
            known = [*known_keys(schema), *groups]
            if key not in known:
                near = difflib.get_close_matches(key, groups, 1)
                raise ConfigError(
                    f"unknown key '{key}'. Did you mean '{near[0]}'?" if near else unknown_key(schema, key)
                )
            values.append((key, parse(type_of(schema, key), key, given)))
    return _built(name, schema, choices, values)


def configure(name: str, schema: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass ``schema`` from ``configs/<name>.yaml`` and values given in Python.

    Args:
        name: of the command.
        values: by key; a section takes a mapping, a config group the name of an option.

    Raises:
        ConfigError: as :func:`compose`.
    """
    groups = config_groups(name)
    choices = {key: value for key, value in values.items() if key in groups and not isinstance(value, Mapping)}
    rest = {key: value for key, value in values.items() if key not in choices}
    return _built(name, schema, choices, list(_assignments(schema, rest)))


def _assignments(schema: type, values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    hints = field_types(schema)
    for name, value in values.items():
        inner = section(hints[name]) if name in hints else None
        if inner and isinstance(value, Mapping):
            yield from _assignments(inner, value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _built(name: str, schema: type[T], choices: Mapping[str, Any], values: Sequence[tuple[str, Any]]) -> T:
    tree = _composed(name, choices)
    for key, value in values:
        _assign(tree, schema, key, value)
    for key, text in _texts(tree):
        _require_no_credentials(key, text)
    return load(schema, tree)


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The texts in nested mappings and lists, by dotted key."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, key)
    elif isinstance(value, str):
        yield key, value


def _require_no_credentials(key: str, text: str) -> None:
    """Check that a configuration, which is stored, has no credentials in its URLs.

    Raises:
        ConfigError: a URL with a password, or with a signature where it is not an input.
    """
    found = credentials_in(text)
    # Of an input no more than its name is stored.
    if found is None or (found == "signature" and key.partition(".")[0] in INPUTS):
        return
    what = {"password": "a user's password or key", "signature": "a signature or token in its query"}[found]
    raise ConfigError(
        f"{key}={without_credentials(text)}: this address was given with {what}, which would be stored with what is "
        "made from it. Give the address without it, and the credentials by the environment, as fsspec's backend reads "
        "them (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, FSSPEC_..., ~/.config/fsspec); only an input may be a "
        "signed address."
    )


def _split(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if word.startswith("-"):
        raise ConfigError(f"unknown option '{word}'. Settings are given as key=value; --help lists them.")
    if not equals:
        raise ConfigError(f"unexpected argument '{word}': expected key=value; --help lists the keys.")
    if not re.fullmatch(r"[A-Za-z_][\w./]*", key):
        raise ConfigError(f"'{word}': expected key=value with a plain key, got the key '{key}'; --help lists the keys.")
    if not value.strip() and not (value and key.endswith("delimiter")):
        # As `output=$FOLDER` where the variable is not set: a path would be the working folder.
        raise ConfigError(f"{key}= has no value: give {key}=VALUE.")
    return key, value


def parse(kind: Any, key: str, text: str) -> Any:
    """The value that a text stands for, by the type of its key: texts as they are, lists and mappings as YAML.

    A list that may have texts may be a single one, without brackets.

    Raises:
        ConfigError: a list or mapping that cannot be read.
    """
    kinds = set(union_of(kind)) or {kind}
    if text == "null" and type(None) in kinds:
        return None
    for item in (get_args(k)[0] for k in kinds if get_origin(k) is list):
        if (item is str or str in union_of(item)) and not text.startswith("["):
            is_mapping = item is not str and text.startswith("{") and not Path(text).exists()
            return [_parsed(key, text) if is_mapping else text]
    if Any in kinds and not (text.startswith(("[", "{")) and not Path(text).exists()):
        return text
    if Any not in kinds and not any(get_origin(k) in (list, dict, tuple) or is_configuration(k) for k in kinds):
        return text
    return _parsed(key, text)


def _parsed(key: str, text: str) -> Any:
    """The list or mapping that a text is as YAML."""
    try:
        # Texts alone: types are those of the configuration, and not what YAML takes `1e3`, `yes` or `007` for.
        return _with_nulls(parse_yaml(text, key, ConfigError, texts=True))
    except ConfigError as error:
        raise ConfigError(
            f"{key}={text}: cannot be read as a list [a, b] or mapping {{key: value}}; put quotation marks around what "
            "has a comma, colon, bracket or brace in it."
        ) from error


def _with_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_nulls(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_nulls(item) for key, item in value.items()}
    return None if value == "null" else value


def _assign(tree: Tree, schema: type, key: str, value: Any) -> None:
    """Set a dotted key; a section that is not chosen has none.

    Raises:
        ConfigError: the section of the key is not chosen.
    """
    *parents, last = key.split(".")
    node, kind = tree, schema
    for depth, name in enumerate(parents):
        inner = field_types(kind).get(name)
        if (found := section(inner)) is None:
            raise ConfigError(unknown_key(schema, key))
        if node.get(name) is None:
            path = ".".join(parents[: depth + 1])
            if type(None) in union_of(inner):
                raise ConfigError(
                    f"{key}={value}: {path} is not part of this configuration. {_alternatives(node, kind)}"
                )
            node[name] = {}
        node, kind = node[name], found
    if last not in field_types(kind):
        raise ConfigError(unknown_key(schema, key))
    if isinstance(value, Mapping) and isinstance(node.get(last), Mapping):
        node[last] = {**node[last], **value}
    else:
        node[last] = value


def _alternatives(node: Mapping[str, Any], kind: type) -> str:
    chosen = [name for name in field_types(kind) if node.get(name) is not None and section(field_types(kind)[name])]
    return f"It has {', '.join(chosen)}; choose another option of its group." if chosen else "Choose it by its group."


def _either(options: Sequence[str]) -> str:
    return " or ".join([", ".join(options[:-1]), options[-1]]) if len(options) > 1 else ", ".join(options)

"""Typed configuration: Hydra composes the YAML of ``configs/``, a dataclass owns every key and its type."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from molstream.errors import ConfigError

PACKAGE = Path(__file__).parent
"""Folder of the installed package; in a clone it leads to the rooms by links, which must not be resolved."""
CONFIG_DIR = PACKAGE / "configs"

T = TypeVar("T")


def compose(name: str, schema: type[T], overrides: Sequence[str]) -> T:
    """The dataclass ``schema``, filled from ``configs/<name>.yaml`` and ``key=value`` overrides.

    Raises:
        ConfigError: unknown key (with the nearest known ones), unknown group option, wrong type or a missing value.
    """
    ConfigStore.instance().store(name=f"{name}_schema", node=_writable(schema))
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base=None, config_dir=str(CONFIG_DIR)):
            config = OmegaConf.to_object(hydra_compose(config_name=name, overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(name, schema, error, overrides)) from error
    assert isinstance(config, schema)
    return config


def to_yaml(config: Any) -> str:
    """A resolved configuration as YAML, readable again by :func:`from_yaml`."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def from_yaml(schema: type[T], text: str, where: str) -> T:
    """The dataclass ``schema`` from YAML that names every value.

    Raises:
        ConfigError: unknown key, wrong type or a missing value; ``where`` names the file in the message.
    """
    try:
        config = OmegaConf.to_object(OmegaConf.merge(_writable(schema), OmegaConf.create(text)))
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(where, schema, error, ())) from error
    assert isinstance(config, schema)
    return config


def _writable(schema: type) -> DictConfig:
    """The typed node of a dataclass, open to values although the dataclass itself is frozen."""
    node = OmegaConf.structured(schema)

    def unlock(node: DictConfig) -> None:
        OmegaConf.set_readonly(node, False)
        for key in node:
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_missing() and not child._is_none():
                unlock(child)

    unlock(node)
    return node


def known_keys(schema: type, prefix: str = "") -> list[str]:
    """Every dotted key of a configuration dataclass."""
    keys: list[str] = []
    hints = get_type_hints(schema)
    for field in fields(schema):
        keys.append(prefix + field.name)
        for kind in (hints[field.name], *get_args(hints[field.name])):
            if isinstance(kind, type) and is_dataclass(kind):
                keys += known_keys(kind, f"{prefix}{field.name}.")
    return keys


def _explain(name: str, schema: type, error: Exception, overrides: Sequence[str]) -> str:
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and isinstance(cause, Exception):
        causes.append(cause)
    text = " ".join(line for line in str(causes[-1]).splitlines() if line.strip())
    match = re.search(r"Key '([^']+)' (?:is )?not in", text)
    if match is None:
        return f"configuration '{name}': {text}. Overrides given: {list(overrides)}."
    full = re.search(r"full_key: (\S+)", text)
    key = full.group(1) if full else match.group(1)
    keys = known_keys(schema)
    near = difflib.get_close_matches(key, keys, n=3, cutoff=0.4) or [
        k for k in keys if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]
    ]
    hint = f"Did you mean {' or '.join(repr(k) for k in near)}?" if near else f"Known keys: {', '.join(keys)}."
    return f"configuration '{name}': unknown key '{key}'. {hint}"

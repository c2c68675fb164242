"""From the ``input`` of a command to files: which files it names, and how each is read."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from molstream.config import load
from molstream.errors import ConfigError, DataError
from molstream.io import remote
from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers import sources
from molstream.pipeline.readers.base import Format
from molstream.pipeline.readers.compression import COMPRESSIONS, compression
from molstream.pipeline.readers.datasets import ADAPTERS

MOST_NAMES = 5
"""Most files that a message names."""


@dataclass(frozen=True)
class InputFile:
    """A file of the input, and how it is read."""

    given: str
    """Path or URL."""
    config: ReadConfig
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options that were given for this input alone; ``config`` includes them."""


def find_files(inputs: Any, config: ReadConfig, key: str = "input") -> list[InputFile]:
    """The files that ``inputs`` name: the inputs in the given order, the files of each sorted.

    Args:
        inputs: a file, glob, folder or URL; or a mapping of one of these, as ``path``, and ReadConfig values of its
            own; or a list of such.
        config: how inputs without options of their own are read.
        key: names the inputs in messages.

    Raises:
        DataError: an input matches no file, a file is named twice, or its name has the ending of no known format.
        ConfigError: an unknown format or option, or URLs that no installed backend can open.
    """
    items = inputs if isinstance(inputs, list | tuple) else [inputs]
    if not items:
        raise DataError(f"{key} is an empty list: name at least one file, glob, folder or URL.")
    files = [file for item in items for file in _found(key, *_options(key, item, config))]
    places = [file.given if remote.is_url(file.given) else os.path.realpath(file.given) for file in files]
    count = Counter(places)
    if twice := sorted({remote.shown(file.given) for file, place in zip(files, places) if count[place] > 1}):
        raise DataError(f"{key} names {', '.join(twice[:3])} more than once: every row would be its own duplicate.")
    return files


def _options(key: str, item: Any, config: ReadConfig) -> tuple[str, ReadConfig, dict[str, Any]]:
    """Path, configuration and own options of one input."""
    options: dict[str, Any] = {}
    if isinstance(item, Mapping):
        options = {str(name): value for name, value in item.items()}
        if not (item := options.pop("path", None)):
            raise ConfigError(f"{key}={options}: a mapping needs the key 'path' beside its options.")
        shared = {option.name: getattr(config, option.name) for option in fields(ReadConfig)}
        config = load(ReadConfig, {**shared, **options}, f"{key} {remote.shown(str(item))}")
        options = {name: value for name, value in asdict(config).items() if name in options}
    if not isinstance(item, str | os.PathLike):
        raise ConfigError(
            f"{key}: got {type(item).__name__}: expected a file, glob, folder or URL, a mapping with its 'path', or a "
            "list of these."
        )
    if config.format != "auto" and config.format not in (*sources(), *ADAPTERS):
        raise ConfigError(f"format={config.format}: expected auto, {', '.join(sources())}, {', '.join(ADAPTERS)}.")
    return str(item), config, options


def _found(key: str, item: str, config: ReadConfig, options: dict[str, Any]) -> list[InputFile]:
    found, kind = remote.find(item) if remote.is_url(item) else _find(item)
    endings = _endings(config) if kind == "folder" else ("",)
    readable = [file for file in found if format_of(file, config) and _ending(file).endswith(endings)]
    if kind == "file" and not readable:
        raise DataError(f"{key}={remote.shown(item)}: unknown format. {_expected(item, config)}")
    if not readable:
        raise DataError(f"{key}={remote.shown(item)}: no such file, and no file of a known format matches it.")
    joined = {name for file in readable for name in format_named(format_of(file, config)).companions(file)}
    if left_out := [_base(file) for file in found if file not in readable and file not in joined]:
        names = ", ".join([*left_out[:MOST_NAMES], *(["..."] if len(left_out) > MOST_NAMES else [])])
        print(f"{remote.shown(item)}: {len(left_out)} file(s) of another format left out: {names}", file=sys.stderr)
    return [InputFile(file, config, options) for file in readable if file not in joined]


def _find(item: str) -> tuple[list[str], remote.Kind]:
    """The files of a local path, and whether it is a folder, file or glob; symbolic links keep their own names."""
    path = Path(item).expanduser().absolute()
    if path.is_dir():
        return sorted(str(p) for p in path.iterdir() if p.is_file()), "folder"
    if path.is_file():
        return [str(path)], "file"
    return sorted(p for p in glob.glob(str(path), recursive=True) if os.path.isfile(p)), "glob"


def format_of(file: str, config: ReadConfig) -> str:
    """The format of a file, from the configuration or else from the file's name; '' if it is unknown."""
    name = _ending(file)
    if config.format in ADAPTERS:
        endings = [ending for form in ADAPTERS[config.format] for ending in form.endings if name.endswith(ending)]
        return f"{config.format}{endings[0]}" if endings else ""
    if config.format != "auto":
        return config.format
    return next((key for key, form in sources().items() if name.endswith(form.endings)), "")


def _ending(file: str) -> str:
    """The name of a file in lower case, without the ending of a compression."""
    name = _base(file).lower()
    return name.removesuffix(compression(name))


def _base(file: str) -> str:
    return remote.file_name(file) if remote.is_url(file) else os.path.basename(file)


def _endings(config: ReadConfig) -> tuple[str, ...]:
    if config.format in ADAPTERS:
        forms = ADAPTERS[config.format]
    else:
        forms = sources().values() if config.format == "auto" else [sources()[config.format]]
    return tuple(ending for form in forms for ending in form.endings)


def _expected(file: str, config: ReadConfig) -> str:
    if _ending(file).endswith((".tar", ".zip", ".tgz", ".7z")):
        return "It is an archive: unpack it first."
    return (
        f"Expected a name ending in {', '.join(_endings(config))}, possibly followed by {', '.join(COMPRESSIONS)}; "
        "or name the format: format=..."
    )


def format_named(name: str) -> Format:
    """The format called ``name`` in SOURCES, or an adapter's for an ending: ``qm9.sdf``."""
    adapter, dot, ending = name.partition(".")
    return next(form for form in ADAPTERS[adapter] if dot + ending in form.endings) if dot else sources()[name]

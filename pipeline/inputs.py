"""Which files the inputs stand for, and which format each has."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline import remote
from pipeline.adapters import ADAPTERS
from pipeline.compression import COMPRESSIONS, compression
from pipeline.formats import SOURCES
from pipeline.formats.base import Format, ReadConfig
from preprocessing.errors import ConfigError, DataError


def find_files(inputs: Sequence[str], config: ReadConfig) -> list[str]:
    """The paths or URLs that ``inputs`` (files, globs, folders, URLs) stand for, in the given order, sorted in each.

    Raises:
        DataError: an input matches no file, a file is named twice, or its name tells no known format.
        ConfigError: an unknown format, or URLs that no installed backend can open.
    """
    if config.format != "auto" and config.format not in (*SOURCES, *ADAPTERS):
        raise ConfigError(f"format={config.format}: expected auto, {', '.join(SOURCES)}, {', '.join(ADAPTERS)}.")
    if not inputs:
        raise DataError("input is an empty list: name at least one file, glob, folder or URL.")
    files: list[str] = []
    for item in inputs:
        found, folder = remote.find(item) if remote.is_url(item) else _find(item)
        if folder:
            found = _readable(found, config)
        if not found:
            raise DataError(f"input={remote.shown(item)}: no such file, and no file of a known format matches it.")
        files += found
    for file in files:
        if not format_of(file, config):
            raise DataError(f"input={remote.shown(file)}: unknown format. {_expected(file, config)}")
    places = [file if remote.is_url(file) else os.path.realpath(file) for file in files]
    count = Counter(places)
    if twice := sorted({file for file, place in zip(files, places, strict=True) if count[place] > 1}):
        raise DataError(f"input names {', '.join(twice[:3])} more than once: every row would be its own duplicate.")
    return files


def _find(item: str) -> tuple[list[str], bool]:
    """The files of a path, glob or folder, and whether it is a folder; a link keeps its own name, which tells more."""
    path = Path(item).expanduser().absolute()
    if path.is_dir():
        return sorted(str(p) for p in path.iterdir() if p.is_file()), True
    if path.is_file():
        return [str(path)], False
    return sorted(p for p in glob.glob(str(path), recursive=True) if os.path.isfile(p)), False


def _readable(files: Sequence[str], config: ReadConfig) -> list[str]:
    """Those of a folder's files that can be read, without those that are joined to others."""
    named = [file for file in files if format_of(file, config) and _ending(file).endswith(_endings(config))]
    joined = {name for file in named for name in format_named(format_of(file, config)).companions(file)}
    return [file for file in named if file not in joined]


def format_of(file: str, config: ReadConfig) -> str:
    """The format of a file, told by its name unless the configuration names it; '' if it is unknown."""
    name = _ending(file)
    if config.format in ADAPTERS:
        endings = [ending for form in ADAPTERS[config.format] for ending in form.endings if name.endswith(ending)]
        return f"{config.format}{endings[0]}" if endings else ""
    if config.format != "auto":
        return config.format
    return next((key for key, form in SOURCES.items() if name.endswith(form.endings)), "")


def _ending(file: str) -> str:
    """The name of a file in small letters, without the ending of a compression."""
    name = (remote.file_name(file) if remote.is_url(file) else os.path.basename(file)).lower()
    return name.removesuffix(compression(name))


def _endings(config: ReadConfig) -> tuple[str, ...]:
    if config.format in ADAPTERS:
        forms = ADAPTERS[config.format]
    else:
        forms = SOURCES.values() if config.format == "auto" else [SOURCES[config.format]]
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
    return next(form for form in ADAPTERS[adapter] if dot + ending in form.endings) if dot else SOURCES[name]

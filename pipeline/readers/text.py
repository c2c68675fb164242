"""Text formats: lines of SMILES, SD files, and lines of JSON."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from molstream.errors import DataError
from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers.base import Layout, Molecule, RefusedError, decode, geometry, molecule, target
from molstream.pipeline.readers.lines import LineReader, with_line_feeds

EXTENSION = re.compile(r"^\|[^|]*\|")
ENTRY_END = b"$$$$"
"""Start of the last line of an entry of an SD file."""


def named_targets(where: str, path: Path, config: ReadConfig) -> Layout:
    """The layout of records that name their own values; a record without one has a missing value."""
    return Layout(targets=tuple(config.target_columns), max_conformers=config.max_conformers)


def lines(file: BinaryIO, layout: Layout) -> Iterator[bytes]:
    """The lines of a file, blank ones too."""
    yield from LineReader(file)


# --- SMILES ---------------------------------------------------------------------------------------------------------


def no_targets(where: str, path: Path, config: ReadConfig) -> Layout:
    """The layout of lines of SMILES, which have no targets.

    Raises:
        DataError: the configuration names target columns.
    """
    if config.target_columns:
        raise DataError(
            f"{where} has no column '{config.target_columns[0]}' (target_columns): what follows a SMILES on its line "
            "is a name. If it is a table, say so: format=csv, delimiter=..., header=..."
        )
    return Layout()


def parse_line(record: bytes, layout: Layout) -> Molecule:
    """The molecule of a line: a SMILES, and its CXSMILES extension ``|...|`` if it has one; a name is ignored."""
    words = decode(record).split(maxsplit=1)
    text = " ".join([words[0], *EXTENSION.findall(words[1])]) if len(words) > 1 else "".join(words)
    return Molecule(text, "smiles", ())


# --- SD files -------------------------------------------------------------------------------------------------------


def sdf_entries(file: BinaryIO, layout: Layout) -> Iterator[bytes]:
    """Entries including their ``$$$$``; white space after the last one is no entry."""
    waiting: list[bytes] = []
    for line in LineReader(file):
        waiting.append(line)
        if line.startswith(ENTRY_END):
            yield b"".join(waiting)
            waiting = []
    if b"".join(waiting).strip():
        yield b"".join(waiting)


def parse_sdf(record: bytes, layout: Layout) -> Molecule:
    """The molecule of an SD file's entry: its mol block, and targets from the data items ``> <NAME>``."""
    block, items = sdf_parts(with_line_feeds(decode(record)))
    return Molecule(block, "molblock", tuple(target(items.get(name)) for name in layout.targets))


def sdf_parts(text: str) -> tuple[str, dict[str, str]]:
    """The mol block of an entry, and the first line of each data item by its name.

    Raises:
        RefusedError: the block has no end.
    """
    end = text.find("M  END")
    if end < 0:
        raise RefusedError("malformed_row", "the entry has no 'M  END' line: it is cut short or damaged")
    block, rest = text[:end] + "M  END\n", text[end:].splitlines()
    items: dict[str, str] = {}
    for k, line in enumerate(rest[:-1]):
        if line.startswith(">") and "<" in line and ">" in line[1:]:
            items[line[line.index("<") + 1 : line.rindex(">")]] = rest[k + 1]
    return block, items


# --- JSON -----------------------------------------------------------------------------------------------------------


def parse_json(record: bytes, layout: Layout) -> Molecule:
    """The molecule of a line of JSON: by atoms and positions (``GEOMETRY_KEYS``), or by ``smiles`` alone."""
    text = decode(record)
    if not text.strip():
        return Molecule("", "smiles", (float("nan"),) * len(layout.targets))
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedError("malformed_row", f"not a line of JSON: {error}") from error
    if not isinstance(values, dict):
        raise RefusedError("malformed_row", f"a JSON {type(values).__name__}, expected an object")
    targets = tuple(target(values.get(name)) for name in layout.targets)
    if "positions" in values or "numbers" in values:
        return Molecule(geometry(values), "geometry", targets)
    if isinstance(values.get("smiles"), str):
        return molecule(values["smiles"], targets)
    raise RefusedError("malformed_row", "neither a text 'smiles' nor 'numbers' and 'positions' among its keys")

"""Text formats: lines of SMILES, SD files, and lines of JSON."""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from molstream.errors import DataError
from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers.base import (
    BLOCK_END,
    GEOMETRY_KEYS,
    Layout,
    Molecule,
    Place,
    RefusedError,
    decode,
    geometry,
    named_values,
    target,
    text_molecule,
)
from molstream.pipeline.readers.line_ends import split_lines, with_newlines

ENTRY_END = b"$$$$"
"""Start of the last line of an entry of an SD file."""


def named_targets(where: str, path: Path, config: ReadConfig) -> Layout:
    """The layout of records that name their own values; a record without one has a missing value."""
    return Layout(targets=tuple(config.target_columns), max_conformers=config.max_conformers)


def lines(file: BinaryIO, layout: Layout) -> Iterator[bytes]:
    """The lines of a file, blank ones too."""
    return split_lines(file)


# --- SMILES ---------------------------------------------------------------------------------------------------------


def no_targets(where: str, path: Path, config: ReadConfig) -> Layout:
    """The layout of lines of SMILES, which have no targets.

    Raises:
        DataError: the configuration names target columns.
    """
    if config.target_columns:
        raise DataError(
            f"{where} has no column '{config.target_columns[0]}' (target): what follows a SMILES on its line "
            "is a name. If it is a table, say so: format=csv, delimiter=..., header=..."
        )
    return Layout()


EXTENSION = re.compile(r"\|(?=[($^@&|]|[A-Za-z]+\d*:|r[,|])[^|]*\|?")
"""A CXSMILES extension: what starts as one of its fields does (coordinates, labels, ``c:``, ``^1:``), up to the next
``|``. It is one also if it is damaged: RDKit then refuses the line, where a name would be ignored."""


def parse_line(record: bytes, layout: Layout) -> Molecule:
    """The molecule of a line: its first word, and the CXSMILES extension behind it; what follows is a name."""
    text, _ = line_parts(decode(record))
    return Molecule(text, "smiles", ())


def line_columns(path: str, layout: Layout, place: Place, records: Sequence[bytes]) -> pa.Table:
    """SMILES and names of lines."""
    parts = [line_parts(record.decode("utf-8", "backslashreplace")) for record in records]
    return named_values([{"smiles": smiles, **({"name": name} if name else {})} for smiles, name in parts])


def line_parts(line: str) -> tuple[str, str]:
    """The SMILES of a line, with its CXSMILES extension, and the name behind it."""
    smiles, *rest = line.split(maxsplit=1) or [""]
    name = rest[0] if rest else ""
    extension = EXTENSION.match(name)
    if extension is None:
        return smiles, name.strip()
    return f"{smiles} {extension[0].rstrip()}", name[extension.end() :].strip()


# --- SD files -------------------------------------------------------------------------------------------------------


def sdf_entries(file: BinaryIO, layout: Layout) -> Iterator[bytes]:
    """Entries including their ``$$$$``; white space after the last one is no entry."""
    waiting: list[bytes] = []
    for line in split_lines(file):
        waiting.append(line)
        if line.startswith(ENTRY_END):
            yield b"".join(waiting)
            waiting = []
    if b"".join(waiting).strip():
        yield b"".join(waiting)


def parse_sdf(record: bytes, layout: Layout) -> Molecule:
    """The molecule of an SD file's entry: its mol block, and targets from the data items ``> <NAME>``."""
    block, items = sdf_parts(decode(record))
    values = {name: value for name, value in items if name in layout.targets}
    if len(values) < sum(name in layout.targets for name, _ in items):
        raise RefusedError("bad_target", "the entry has a data item twice that is a target: leave one")
    return Molecule(block, "molblock", tuple(target(values.get(name)) for name in layout.targets))


def sdf_columns(path: str, layout: Layout, place: Place, records: Sequence[bytes]) -> pa.Table:
    """The data items of entries; those of a damaged entry are left out."""
    return named_values([_items(record.decode("utf-8", "backslashreplace")) for record in records])


def _items(text: str) -> dict[str, str]:
    try:
        return dict(sdf_parts(text)[1])
    except RefusedError:
        return {}


def sdf_parts(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The mol block of an entry, and its data items, name and value, in their order.

    Raises:
        RefusedError: the block has no end.
    """
    text = with_newlines(text)
    end = text.find(BLOCK_END)
    if end < 0:
        raise RefusedError("malformed_row", "the entry has no 'M  END' line: it is cut short or damaged")
    return f"{text[:end]}{BLOCK_END}\n", list(_data_items(text[end:].split("\n")))


def _data_items(rest: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The data items in the lines of an entry; a value ends at a blank line, or where the next item begins."""
    starts = [k for k, line in enumerate(rest) if line.startswith(">") and "<" in line and ">" in line[1:]]
    for start, following in itertools.pairwise([*starts, len(rest)]):
        value = itertools.takewhile(
            lambda line: line.strip() and not line.startswith("$$$$"), rest[start + 1 : following]
        )
        yield rest[start][rest[start].index("<") + 1 : rest[start].rindex(">")], "\n".join(value)


# --- JSON -----------------------------------------------------------------------------------------------------------


def parse_json(record: bytes, layout: Layout) -> Molecule:
    """The molecule of a line of JSON: by atoms and positions (``GEOMETRY_KEYS``), or by ``smiles`` alone."""
    text = decode(record)
    values = json_object(text) if text.strip() else {"smiles": ""}
    targets = tuple(target(values.get(name)) for name in layout.targets)
    if "positions" in values or "numbers" in values:
        return Molecule(geometry(values), "geometry", targets)
    if isinstance(values.get("smiles"), str):
        return text_molecule(values["smiles"], targets)
    raise RefusedError("malformed_row", "neither a text 'smiles' nor 'numbers' and 'positions' among its keys")


def json_columns(path: str, layout: Layout, place: Place, records: Sequence[bytes]) -> pa.Table:
    """The values of lines of JSON but their geometry, as text; those of a damaged line are left out."""
    return named_values([_json_values(record) for record in records])


def _json_values(record: bytes) -> dict[str, str | None]:
    try:
        values = json_object(decode(record))
    except RefusedError:
        return {}
    named = {key: value for key, value in values.items() if key == "smiles" or key not in GEOMETRY_KEYS}
    return {key: value if isinstance(value, str | None) else json.dumps(value) for key, value in named.items()}


def json_object(text: str) -> dict[str, Any]:
    """The keys and values of a line of JSON.

    Raises:
        RefusedError: it is no JSON object, or a key occurs twice.
    """
    try:
        values: Any = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise RefusedError("malformed_row", f"not a line of JSON: {error}") from error
    if not isinstance(values, dict):
        raise RefusedError("malformed_row", f"a JSON {type(values).__name__}, expected an object")
    return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RefusedError("malformed_row", f"the key '{twice}' occurs twice: leave one")
    return values

"""Text tables (CSV, TSV) whose records may span lines, and the search for columns in any table."""

import csv
import functools
import io
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from molstream.errors import DataError
from molstream.pipeline.config import DELIMITERS, ReadConfig
from molstream.pipeline.readers.base import Format, Layout, Molecule, RefusedError, by_bytes, decode, molecule, target
from molstream.pipeline.readers.lines import LineReader

SMILES_NAMES = ("isomericsmiles", "smiles", "canonicalsmiles", "smi", "structure", "mol")
"""Names by which a SMILES column is detected, in this order, since canonical ones may lack stereochemistry; case,
spaces, hyphens and underscores do not matter."""

MAX_QUOTED_BYTES = 1 << 20
"""A quoted CSV record longer than this is taken for a stray quote."""


# --- columns --------------------------------------------------------------------------------------------------------


def find_columns(where: str, names: Sequence[str], config: ReadConfig) -> tuple[int, tuple[int, ...]]:
    """The column of the SMILES and those of the targets; a detected column is printed on stderr.

    Args:
        where: names the table in messages.
        names: of all columns.

    Raises:
        DataError: there is no such column.
    """
    if config.smiles_column is None:
        smiles = _guess(where, names)
        print(f"{where}: SMILES are read from the column '{names[smiles]}'", file=sys.stderr)
    else:
        smiles = _column(where, names, config.smiles_column, "smiles_column")
    return smiles, tuple(_column(where, names, name, "target_columns") for name in config.target_columns)


def _guess(where: str, names: Sequence[str]) -> int:
    plain = [re.sub(r"(?<=[a-z])[ _-](?=[a-z])", "", name.lower()) for name in names]
    guessed = next((name for name in SMILES_NAMES if name in plain), None)
    if guessed is not None:
        found = [k for k, name in enumerate(plain) if name == guessed]
        _require_one(where, names, found, "smiles_column")
        return found[0]
    advice = "Name the column: smiles_column=..."
    if len(names) == 1:
        found = [name for name in ("tab", "semicolon", "pipe") if DELIMITERS[name] in names[0]]
        advice = "".join(f"Its delimiter seems to be another one: delimiter={name}. " for name in found) or advice
    advice = (
        f"{advice.strip()} If the first line is no header: header=false and smiles_column=0 (columns are numbered)."
    )
    raise DataError(
        f"{where}: none of its columns ({listed(names)}) is called smiles, isomeric_smiles or canonical_smiles. "
        f"{advice}"
    )


def _column(where: str, names: Sequence[str], name: str, key: str) -> int:
    if name not in names:
        raise DataError(f"{where} has no column '{name}' ({key}); its columns are {listed(names)}.")
    found = [k for k, other in enumerate(names) if other == name]
    _require_one(where, names, found, key)
    return found[0]


def _require_one(where: str, names: Sequence[str], found: Sequence[int], key: str) -> None:
    """Check that only one of the columns can be meant.

    Raises:
        DataError: there are several.
    """
    if len(found) > 1:
        several = " and ".join(f"'{names[k]}' (column {k + 1})" for k in found)
        raise DataError(f"{where}: several columns can be meant by {key}: {several}. Rename or remove all but one.")


def listed(names: Sequence[str]) -> str:
    """The names of columns in a message, which may be hundreds."""
    printable = (name if name.isprintable() else ascii(name)[1:-1] for name in names)
    shown = [name if len(name) <= 60 else f"{name[:57]}..." for name in printable]
    return ", ".join(shown if len(shown) <= 30 else [*shown[:29], f"... {len(shown)} in all"])


# --- text tables ----------------------------------------------------------------------------------------------------


def table(ending: str, delimiter: str) -> Format:
    """Delimited text (RFC 4180) with a header, unless the configuration says otherwise."""

    def layout(where: str, path: Path, config: ReadConfig) -> Layout:
        character = column_delimiter(config, delimiter)
        with path.open("rb") as file:
            names, behind = _header(file, character)
        if not config.header:
            names, behind = [str(k) for k in range(len(names))], 0
            if config.smiles_column is None and len(names) > 1:
                raise DataError(
                    f"{where} has {len(names)} columns without names (header=false): give the number of the one with "
                    f"the SMILES, smiles_column=0 to {len(names) - 1}."
                )
            config = replace(config, smiles_column=config.smiles_column or "0")
        smiles, columns = find_columns(where, names, config)
        return Layout(behind, character, len(names), smiles, columns, tuple(config.target_columns))

    return Format((ending,), layout, by_bytes(_records), _parse)


def column_delimiter(config: ReadConfig, default: str) -> str:
    """The character between columns: that of the configuration, by its name or itself, or the format's default."""
    return default if config.delimiter is None else DELIMITERS.get(config.delimiter, config.delimiter)


def column_names(path: Path, delimiter: str = ",") -> list[str]:
    """The names of the columns, from the header of a text table."""
    with path.open("rb") as file:
        return _header(file, delimiter)[0]


def _header(file: BinaryIO, delimiter: str) -> tuple[list[str], int]:
    """The cells of a table's first record, and the position behind it."""
    begin = file.tell()
    lines = LineReader(file)
    line = next(lines, b"")
    if _in_quotes(line, delimiter):
        line = b"".join(_quoted_lines(line, lines, delimiter))
    return [name.strip() for name in cells(line.decode("utf-8-sig", "replace"), delimiter)], begin + len(line)


def _records(file: BinaryIO, layout: Layout) -> Iterator[bytes]:
    """A line, or several where a quoted cell spans them.

    Lines are joined only if together they have the right number of cells: a stray quote costs its own line.
    """
    lines = LineReader(file)
    for record in lines:
        if b'"' in record and _in_quotes(record, layout.delimiter):
            quoted = _quoted_lines(record, lines, layout.delimiter)
            if _is_well_formed(b"".join(quoted), layout):
                yield b"".join(quoted)
                continue
            lines.put_back(quoted[1:])
        yield record


def _quoted_lines(line: bytes, following: LineReader, delimiter: str) -> list[bytes]:
    """The line with those behind it, up to the one where its open quote is closed; the line alone if it never is."""
    lines, size, inside = [line], len(line), True
    while inside and size <= MAX_QUOTED_BYTES and (line := next(following, b"")):
        lines.append(line)
        size, inside = size + len(line), _in_quotes(line, delimiter, inside)
    if inside:
        following.put_back(lines[1:])
    return lines[:1] if inside else lines


def _is_well_formed(record: bytes, layout: Layout) -> bool:
    """Whether every quote is where RFC 4180 allows it, and the number of cells is that of the layout."""
    try:
        return len(cells(record.decode("utf-8", "replace"), layout.delimiter, strict=True)) == layout.num_columns
    except csv.Error:
        return False


def _in_quotes(line: bytes, delimiter: str, inside: bool = False) -> bool:
    """Whether a quoted cell is open behind the line; a quote opens a cell only as its first character."""
    position = 0
    opening = _opening_quote(delimiter)
    while True:
        if not inside:
            match = opening.search(line, position)
            if match is None:
                return False
            position = match.end()
        position = line.find(b'"', position)
        if position < 0:
            return True
        inside = line.startswith(b'""', position)
        position += 1 + inside


@functools.cache
def _opening_quote(delimiter: str) -> re.Pattern[bytes]:
    return re.compile(rb'(?:^|%b)"' % re.escape(delimiter).encode())


def _parse(record: bytes, layout: Layout) -> Molecule:
    text = decode(record)
    if not text.strip():
        return Molecule("", "smiles", (float("nan"),) * len(layout.columns))
    try:
        row = cells(text, layout.delimiter)
    except csv.Error as error:
        raise RefusedError("malformed_row", str(error)) from error
    if len(row) != layout.num_columns:
        raise RefusedError("malformed_row", f"{len(row)} columns, expected {layout.num_columns} as in the first row")
    return molecule(row[layout.smiles], tuple(target(row[k]) for k in layout.columns))


def cells(text: str, delimiter: str, strict: bool = False) -> list[str]:
    """The cells of one record."""
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict), [])

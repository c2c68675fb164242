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

import pyarrow as pa

from molstream.errors import DataError
from molstream.pipeline.config import DELIMITERS, ReadConfig
from molstream.pipeline.readers.base import (
    Format,
    Layout,
    Molecule,
    Place,
    RefusedError,
    by_bytes,
    decode,
    named_values,
    target,
    text_molecule,
)
from molstream.pipeline.readers.line_ends import Lines

SMILES_NAMES = (
    ("isomericsmiles", "isosmiles", "absolutesmiles"),
    ("smiles",),
    ("canonicalsmiles", "cansmiles"),
    ("connectivitysmiles",),
    ("smi",),
    ("structure",),
    ("mol",),
)
"""Names by which a SMILES column is detected, the best ones first: canonical SMILES are often written without
stereochemistry. Upper and lower case and what separates words do not matter."""

MAX_QUOTED_BYTES = 1 << 20
"""A quoted CSV record longer than this is taken for a stray quote."""


# --- columns --------------------------------------------------------------------------------------------------------


def find_columns(where: str, names: Sequence[str], config: ReadConfig) -> tuple[int, tuple[int, ...]]:
    """The column of the SMILES and those of the targets; a detected column is printed on stderr.

    Args:
        where: names the table in messages.
        names: of all columns.

    Raises:
        DataError: there is no such column, or there are several.
    """
    if config.smiles_column is None:
        smiles = _guess(where, names)
        print(f"{where}: SMILES are read from the column '{names[smiles]}'", file=sys.stderr)
    else:
        smiles = column_of(where, names, config.smiles_column, "smiles_column")
    return smiles, tuple(column_of(where, names, name, "target") for name in config.target_columns)


def _guess(where: str, names: Sequence[str]) -> int:
    plain = [re.sub(r"(?<=[a-z0-9])[ _-](?=[a-z0-9])", "", name.lower()) for name in names]
    for known in SMILES_NAMES:
        found = [column for column, name in enumerate(plain) if name in known]
        if len({names[column] for column in found}) > 1:
            which = " and ".join(f"'{names[column]}'" for column in found)
            raise DataError(f"{where} has several columns that may hold the SMILES, {which}: choose, smiles_column=...")
        if found:
            return column_of(where, names, names[found[0]], "SMILES")
    raise DataError(_no_smiles(where, names))


def _no_smiles(where: str, names: Sequence[str]) -> str:
    advice = "Name the column: smiles_column=..."
    if len(names) == 1:
        found = [name for name in ("tab", "semicolon", "pipe") if DELIMITERS[name] in names[0]]
        advice = "".join(f"Its delimiter seems to be another one: delimiter={name}. " for name in found) or advice
    return (
        f"{where}: none of its columns ({listed(names)}) is called smiles, canonical_smiles or isomeric_smiles. "
        f"{advice.strip()} If the first line is no header: header=false and smiles_column=0 (columns are numbered)."
    )


def column_of(where: str, names: Sequence[str], name: str, key: str) -> int:
    """The number of the column called ``name``.

    Args:
        where: names the table in messages.
        names: of all columns.
        key: what the column is wanted for.

    Raises:
        DataError: no column is called so, or several are.
    """
    if name not in names:
        raise DataError(f"{where} has no column '{name}' ({key}); its columns are {listed(names)}.")
    if names.count(name) > 1:
        places = [str(column) for column, other in enumerate(names, 1) if other == name]
        raise DataError(
            f"{where} has {len(places)} columns called '{name}' ({key}), numbers {' and '.join(places)}: rename those "
            "that are not meant."
        )
    return names.index(name)


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

    return Format((ending,), layout, by_bytes(_records), _parse, columns=_columns)


def column_delimiter(config: ReadConfig, default: str) -> str:
    """The character between columns: that of the configuration, by its name or itself, or the format's default."""
    return default if config.delimiter is None else DELIMITERS.get(config.delimiter, config.delimiter)


def column_names(path: Path, delimiter: str = ",") -> list[str]:
    """The names of the columns, from the header of a text table."""
    with path.open("rb") as file:
        return _header(file, delimiter)[0]


def _header(file: BinaryIO, delimiter: str) -> tuple[list[str], int]:
    """The cells of a table's first record, and the position behind it."""
    source = Lines(file)
    line = next(source, b"")
    if _in_quotes(line, delimiter):
        line = _quoted_record(line, source, delimiter)[0] or line
    return [name.strip() for name in cells(line.decode("utf-8-sig", "replace"), delimiter)], len(line)


def _records(file: BinaryIO, layout: Layout) -> Iterator[bytes]:
    """A line, or several where a quoted cell spans them.

    Lines are joined only if together they have the right number of cells: a stray quote costs its own line.
    """
    source = Lines(file)
    for record in source:
        if b'"' in record and _in_quotes(record, layout.delimiter):
            joined, taken = _quoted_record(record, source, layout.delimiter)
            if _is_well_formed(joined, layout):
                yield joined
                continue
            source.put_back(taken)
        yield record


def _quoted_record(line: bytes, source: Lines, delimiter: str) -> tuple[bytes, list[bytes]]:
    """The line with those behind it, up to the one where its open quote is closed, and the lines taken for it.

    The record is empty if the quote is never closed.
    """
    taken: list[bytes] = []
    size, inside = len(line), True
    while inside and size <= MAX_QUOTED_BYTES and (following := next(source, None)):
        taken.append(following)
        size, inside = size + len(following), _in_quotes(following, delimiter, inside)
    return b"" if inside else b"".join([line, *taken]), taken


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
    return text_molecule(row[layout.smiles], tuple(target(row[k]) for k in layout.columns))


def _columns(path: str, layout: Layout, place: Place, records: Sequence[bytes]) -> pa.Table:
    """The cells of rows; those of a row with another number of cells are left out."""
    numbered = list(map(str, range(layout.num_columns)))
    names = distinct(column_names(Path(path), layout.delimiter) if layout.start else numbered)
    rows = [_cells_of(record, layout) for record in records]
    return named_values([dict(zip(names, row)) if len(row) == len(names) else {} for row in rows])


def _cells_of(record: bytes, layout: Layout) -> list[str]:
    try:
        return cells(record.decode("utf-8", "backslashreplace").removeprefix("\ufeff"), layout.delimiter)
    except csv.Error:
        return []


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind every one that occurred before."""
    found: list[str] = []
    for name in names:
        other, number = name, 1
        while other in found:
            other, number = f"{name}.{number}", number + 1
        found.append(other)
    return found


def cells(text: str, delimiter: str, strict: bool = False) -> list[str]:
    """The cells of one record."""
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict), [])

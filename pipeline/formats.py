"""The formats of molecule files: what a record is, and the molecule in it.

A record is what a row of the accounts is: a CSV record (which may span lines), a line of a SMILES file, an SDF entry.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal, NamedTuple

from preprocessing.errors import DataError

SMILES_NAMES = ("smiles", "canonical_smiles", "isomeric_smiles", "smi", "structure", "mol")
"""Names of SMILES columns that are guessed, in this order, whatever their case."""

MAX_QUOTED_BYTES = 1 << 20
"""A quoted CSV record longer than this is taken for a stray quote."""


@dataclass(frozen=True)
class Layout:
    """Where a table's columns are."""

    delimiter: str
    num_columns: int
    smiles: int
    targets: tuple[int, ...]


class RefusedError(Exception):
    """A record that cannot be read; its arguments are reason and detail of the rejection."""


class Format(NamedTuple):
    """How the records of a file are found and read."""

    records: Callable[[BinaryIO, Layout | None], Iterator[bytes]]
    """Complete records from the file's position on; where a record ends depends on the bytes from its start only."""
    parse: Callable[[bytes, Layout | None, Sequence[str]], tuple[str, tuple[float, ...]]]
    """Text of the molecule and its targets, which are given by name; may raise :class:`RefusedError`."""
    molecule: Literal["smiles", "molblock"]
    """What the text is."""
    delimiter: str | None = None
    """Of tables, whose first record is a header."""


# --- records --------------------------------------------------------------------------------------------------------


def _lines(file: BinaryIO, layout: Layout | None) -> Iterator[bytes]:
    yield from file


def _table_records(file: BinaryIO, layout: Layout | None) -> Iterator[bytes]:
    """Records of a CSV file (RFC 4180): a line, or several where a quoted cell spans them.

    Lines are joined only if together they have the right number of cells: a stray quote costs its own line.
    """
    assert layout is not None
    while record := file.readline():
        if _in_quotes(record, layout.delimiter):
            behind = file.tell()
            joined = _quoted_record(record, file, layout.delimiter)
            if _is_well_formed(joined, layout):
                record = joined
            else:
                file.seek(behind)
        yield record


def _quoted_record(line: bytes, file: BinaryIO, delimiter: str) -> bytes:
    """The line with those behind it, up to the one where its open quote is closed; nothing if it never is."""
    lines, size, inside = [line], len(line), True
    while inside and size <= MAX_QUOTED_BYTES and (line := file.readline()):
        lines.append(line)
        size, inside = size + len(line), _in_quotes(line, delimiter, inside)
    return b"" if inside else b"".join(lines)


def _is_well_formed(record: bytes, layout: Layout) -> bool:
    """Whether every quote stands where RFC 4180 wants it, and the number of cells is right."""
    try:
        return len(_cells(record.decode("utf-8", "replace"), layout.delimiter, strict=True)) == layout.num_columns
    except csv.Error:
        return False


def _in_quotes(line: bytes, delimiter: str, inside: bool = False) -> bool:
    """Whether a quoted cell is open behind the line; a quote opens a cell only as its first character."""
    position = 0
    opening = _OPENING_QUOTE[delimiter]
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


_OPENING_QUOTE = {delimiter: re.compile(rb'(?:^|%b)"' % delimiter.encode()) for delimiter in ",\t"}


def _sdf_records(file: BinaryIO, layout: Layout | None) -> Iterator[bytes]:
    """Entries up to and with their ``$$$$``; white space after the last one is no entry."""
    waiting: list[bytes] = []
    for line in file:
        waiting.append(line)
        if line.startswith(b"$$$$"):
            yield b"".join(waiting)
            waiting = []
    if b"".join(waiting).strip():
        yield b"".join(waiting)


# --- molecules ------------------------------------------------------------------------------------------------------


def _decode(record: bytes) -> str:
    try:
        return record.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise RefusedError(
            "undecodable_bytes", f"not UTF-8: {error.reason} at byte {error.start} of the record"
        ) from error


def _parse_line(record: bytes, layout: Layout | None, target_names: Sequence[str]) -> tuple[str, tuple[float, ...]]:
    """The first word of a line is the SMILES; what follows is a name."""
    words = _decode(record).split(maxsplit=1)
    return (words[0] if words else ""), ()


def _parse_table(record: bytes, layout: Layout | None, target_names: Sequence[str]) -> tuple[str, tuple[float, ...]]:
    assert layout is not None
    text = _decode(record)
    if not text.strip():
        return "", (float("nan"),) * len(layout.targets)
    cells = _cells(text, layout.delimiter)
    if len(cells) != layout.num_columns:
        raise RefusedError("malformed_row", f"{len(cells)} columns, expected {layout.num_columns} as in the header")
    targets = (cells[k] for k in layout.targets)
    return cells[layout.smiles].strip(), tuple(_target(cell) for cell in targets)


def _cells(text: str, delimiter: str, strict: bool = False) -> list[str]:
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict), [])


def _parse_sdf(record: bytes, layout: Layout | None, target_names: Sequence[str]) -> tuple[str, tuple[float, ...]]:
    """The mol block, and targets from the data items ``> <NAME>``."""
    text = _decode(record)
    end = text.find("M  END")
    if end < 0:
        raise RefusedError("malformed_row", "the entry has no 'M  END' line: it is cut short or damaged")
    block, rest = text[:end] + "M  END\n", text[end:].splitlines()
    items: dict[str, str] = {}
    for k, line in enumerate(rest[:-1]):
        if line.startswith(">") and "<" in line:
            items[line[line.index("<") + 1 : line.rindex(">")]] = rest[k + 1]
    return block, tuple(_target(items.get(name, "")) for name in target_names)


def _target(cell: str) -> float:
    """A target's value; NaN where the cell is empty."""
    if not cell.strip():
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        raise RefusedError("bad_target", f"the target {cell!r} is not a number; leave missing values empty") from None


SOURCES: dict[str, Format] = {
    "csv": Format(_table_records, _parse_table, "smiles", delimiter=","),
    "tsv": Format(_table_records, _parse_table, "smiles", delimiter="\t"),
    "smi": Format(_lines, _parse_line, "smiles"),
    "sdf": Format(_sdf_records, _parse_sdf, "molblock"),
}


# --- columns ----------------------------------------------------------------------------------------------------------


def table_layout(
    where: str, file: BinaryIO, smiles_column: str | None, targets: Sequence[str], delimiter: str
) -> Layout:
    """The columns of a table by its header, behind which the file is left.

    Raises:
        DataError: there is no such column; ``where`` names the table in the message.
    """
    line = file.readline()
    if _in_quotes(line, delimiter):
        line = _quoted_record(line, file, delimiter) or line
    names = [name.strip() for name in _cells(line.decode("utf-8-sig", "replace"), delimiter)]
    lower = [name.lower() for name in names]
    if smiles_column is None:
        guessed = next((name for name in SMILES_NAMES if name in lower), None)
        if guessed is None:
            raise DataError(
                f"{where}: none of its columns ({', '.join(names)}) is called {' or '.join(SMILES_NAMES[:3])}. "
                "Name the column: smiles_column=..."
            )
        smiles = lower.index(guessed)
    else:
        smiles = _column(where, names, smiles_column, "smiles_column")
    columns = tuple(_column(where, names, name, "target_columns") for name in targets)
    return Layout(delimiter, len(names), smiles, columns)


def _column(where: str, names: list[str], name: str, key: str) -> int:
    if name not in names:
        raise DataError(f"{where} has no column '{name}' ({key}); its columns are {', '.join(names)}.")
    return names.index(name)

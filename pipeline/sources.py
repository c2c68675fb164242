"""Molecule files to deterministic input splits, and splits to raw molecules, without chemistry or a file in memory.

A record is what a row of the accounts is: a CSV record (which may span lines), a line of a SMILES file, an SDF entry.
A compressed file is decompressed once, streaming, so that every split is a range of bytes of a plain file.
"""

import bz2
import csv
import glob
import gzip
import hashlib
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from preprocessing.errors import DataError
from preprocessing.fields import RawMolecule, Rejection

SMILES_NAMES = ("smiles", "canonical_smiles", "isomeric_smiles", "smi", "structure", "mol")
"""Names of SMILES columns that are guessed, in this order, whatever their case."""

COMPRESSIONS: dict[str, Callable[[Path], BinaryIO]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}  # pyright: ignore[reportAssignmentType]

MAX_QUOTED_BYTES = 1 << 20
"""A quoted CSV record longer than this is taken for a stray quote, and its lines for records of their own."""

COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class SourceFile:
    """One input file, decompressed if it had to be."""

    name: str
    """Name in the records: the path below the folder that all inputs share."""
    path: str
    """The plain file that splits are ranges of."""
    format: str
    """A name of :data:`SOURCES`."""
    bytes: int
    """Size of the file as given."""
    sha256: str
    """Checksum of the file as given."""


@dataclass(frozen=True)
class Layout:
    """Where a table's columns are."""

    num_columns: int
    smiles: int
    targets: tuple[int, ...]


@dataclass(frozen=True)
class InputSplit:
    """Consecutive records of one file: the input of one shard."""

    source: str
    path: str
    format: str
    start: int
    """First byte in ``path``."""
    first_row: int
    """Number of the first record in its file, from 0; headers are not counted."""
    rows: int
    layout: Layout | None
    """Columns of a table; None for formats without columns."""
    target_names: tuple[str, ...]

    @property
    def name(self) -> str:
        """How accounts call the split."""
        return f"{self.source}:{self.first_row}-{self.first_row + self.rows - 1}"


class _Refused(Exception):
    """A record that cannot be read: reason and detail of its rejection."""


class Format(NamedTuple):
    """How the records of a file are found and read."""

    records: Callable[[BinaryIO], Iterator[bytes]]
    """Complete records from the file's position on."""
    parse: Callable[[bytes, InputSplit], tuple[str, tuple[float, ...]]]
    """Text of the molecule and its targets."""
    molecule: str
    """``smiles`` or ``molblock``."""
    delimiter: str | None = None
    """Of tables, whose first record is a header."""


# --- records --------------------------------------------------------------------------------------------------------


def _lines(file: BinaryIO) -> Iterator[bytes]:
    yield from file


def _table_records(file: BinaryIO) -> Iterator[bytes]:
    """Records of a CSV file (RFC 4180): a line whose quotes are open goes on in the next."""
    waiting: list[bytes] = []
    size = quotes = 0
    for line in file:
        waiting.append(line)
        size, quotes = size + len(line), quotes + line.count(b'"')
        if quotes % 2 == 0:
            yield b"".join(waiting)
        elif size > MAX_QUOTED_BYTES:
            yield from waiting
        else:
            continue
        waiting, size, quotes = [], 0, 0
    yield from waiting


def _sdf_records(file: BinaryIO) -> Iterator[bytes]:
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
        return record.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Refused("undecodable_bytes", f"not UTF-8: {error.reason} at byte {error.start} of the record") from error


def _parse_line(record: bytes, split: InputSplit) -> tuple[str, tuple[float, ...]]:
    """The first word of a line is the SMILES; what follows is a name."""
    words = _decode(record).split(maxsplit=1)
    return (words[0] if words else ""), ()


def _parse_table(record: bytes, split: InputSplit) -> tuple[str, tuple[float, ...]]:
    assert split.layout is not None
    text = _decode(record)
    if not text.strip():
        return "", (float("nan"),) * len(split.layout.targets)
    cells = next(csv.reader(io.StringIO(text), delimiter=SOURCES[split.format].delimiter or ","), [])
    if len(cells) != split.layout.num_columns:
        raise _Refused("malformed_row", f"{len(cells)} columns, expected {split.layout.num_columns} as in the header")
    targets = (cells[k] for k in split.layout.targets)
    return cells[split.layout.smiles].strip(), tuple(_target(cell) for cell in targets)


def _parse_sdf(record: bytes, split: InputSplit) -> tuple[str, tuple[float, ...]]:
    """The mol block, and targets from the data items ``> <NAME>``."""
    text = _decode(record)
    end = text.find("M  END")
    if end < 0:
        raise _Refused("malformed_row", "the entry has no 'M  END' line: it is cut short or damaged")
    block, rest = text[:end] + "M  END\n", text[end:].splitlines()
    items: dict[str, str] = {}
    for k, line in enumerate(rest[:-1]):
        if line.startswith(">") and "<" in line:
            items[line[line.index("<") + 1 : line.rindex(">")]] = rest[k + 1]
    return block, tuple(_target(items.get(name, "")) for name in split.target_names)


def _target(cell: str) -> float:
    """A target's value; NaN where the cell is empty."""
    if not cell.strip():
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        raise _Refused("bad_target", f"the target {cell!r} is not a number; leave missing values empty") from None


SOURCES: dict[str, Format] = {
    "csv": Format(_table_records, _parse_table, "smiles", delimiter=","),
    "tsv": Format(_table_records, _parse_table, "smiles", delimiter="\t"),
    "smi": Format(_lines, _parse_line, "smiles"),
    "sdf": Format(_sdf_records, _parse_sdf, "molblock"),
}

EXTENSIONS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".smi": "smi",
    ".smiles": "smi",
    ".txt": "smi",
    ".sdf": "sdf",
    ".sd": "sdf",
}
"""File name endings of each format, before that of a compression."""


# --- files ----------------------------------------------------------------------------------------------------------


def find_files(inputs: Sequence[str]) -> list[Path]:
    """The files that ``inputs`` (files, globs or folders) stand for: in the given order, sorted inside each.

    Raises:
        DataError: an input matches no file, a file is named twice, or its name tells no known format.
    """
    files: list[Path] = []
    for item in inputs:
        path = Path(item).expanduser()
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.is_file() and _kind(p))
        else:
            found = [path] if path.is_file() else sorted(map(Path, glob.glob(str(path), recursive=True)))
        if not found:
            raise DataError(f"input={item}: no such file, and no file of a known format matches it.")
        files += [file.resolve() for file in found]
    for file in files:
        if not _kind(file):
            known = ", ".join(EXTENSIONS)
            raise DataError(
                f"input={file}: unknown format. Expected a name ending in {known}, "
                f"possibly followed by {', '.join(COMPRESSIONS)}."
            )
    if twice := sorted({str(file) for file in files if files.count(file) > 1}):
        raise DataError(f"input names {', '.join(twice[:3])} more than once: every row would be its own duplicate.")
    return files


def open_sources(files: Sequence[Path], work: Path) -> list[SourceFile]:
    """Checksum every file, and decompress it into ``work`` where it is compressed.

    Raises:
        DataError: a file is empty, or its compressed content is truncated or damaged.
    """
    parent = os.path.commonpath([file.parent for file in files])
    return [_open_source(file, os.path.relpath(file, parent), work) for file in files]


def _open_source(file: Path, name: str, work: Path) -> SourceFile:
    size = file.stat().st_size
    if size == 0:
        raise DataError(f"{file} is empty: expected molecules.")
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    plain = file
    if file.suffix in COMPRESSIONS:
        plain = work / f"plain-{sha256[:32]}{Path(file.stem).suffix}"
        if not plain.exists():
            _decompress(file, plain)
    return SourceFile(name, str(plain), _kind(file), size, sha256)


def _decompress(file: Path, plain: Path) -> None:
    temporary = plain.with_name(f".writing-{plain.name}")
    done = 0
    try:
        with COMPRESSIONS[file.suffix](file) as source, temporary.open("wb") as target:
            while chunk := source.read(COPY_BYTES):
                target.write(chunk)
                done += len(chunk)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise DataError(
            f"{file} is truncated or damaged: {error} after {done} decompressed bytes. Nothing of it was used; "
            "fetch the file again."
        ) from error
    temporary.rename(plain)


def _kind(file: Path) -> str:
    """The format that a file's name tells, or ''."""
    stem = Path(file.stem) if file.suffix in COMPRESSIONS else file
    return EXTENSIONS.get(stem.suffix.lower(), "")


# --- splits ---------------------------------------------------------------------------------------------------------


def cut(
    sources: Sequence[SourceFile],
    rows_per_split: int,
    smiles_column: str | None,
    target_names: Sequence[str],
    limit: int | None,
) -> list[InputSplit]:
    """Cut every file at record boundaries into splits of ``rows_per_split`` records, in one streaming pass.

    Args:
        smiles_column: of tables; None guesses it by name.
        target_names: columns (or SDF data items) whose values become targets.
        limit: only so many records of the whole input.

    Raises:
        DataError: a file without records, or a table without the named columns.
    """
    splits: list[InputSplit] = []
    left = limit
    for source in sources:
        found = _cut(source, rows_per_split, smiles_column, tuple(target_names), left)
        if not found and (left is None or left > 0):
            raise DataError(f"{source.name} has no records: expected molecules.")
        splits += found
        left = None if left is None else left - sum(split.rows for split in found)
    return splits


def _cut(
    source: SourceFile, rows_per_split: int, smiles_column: str | None, targets: tuple[str, ...], limit: int | None
) -> list[InputSplit]:
    form = SOURCES[source.format]
    splits: list[InputSplit] = []

    def add(start: int, row: int, rows: int) -> None:
        splits.append(InputSplit(source.name, source.path, source.format, start, row, rows, layout, targets))

    with open(source.path, "rb") as file:
        records = form.records(file)
        header = next(records, b"") if form.delimiter else b""
        layout = _layout(source, header, smiles_column, targets, form.delimiter) if form.delimiter else None
        start = end = len(header)
        row = count = 0
        for record in records:
            if limit is not None and row + count == limit:
                break
            end, count = end + len(record), count + 1
            if count == rows_per_split:
                add(start, row, count)
                start, row, count = end, row + count, 0
        if count:
            add(start, row, count)
    return splits


def _layout(
    source: SourceFile, header: bytes, smiles_column: str | None, targets: Sequence[str], delimiter: str
) -> Layout:
    names = [
        n.strip() for n in next(csv.reader(io.StringIO(header.decode("utf-8-sig", "replace")), delimiter=delimiter), [])
    ]
    lower = [name.lower() for name in names]
    if smiles_column is None:
        guessed = next((name for name in SMILES_NAMES if name in lower), None)
        if guessed is None:
            raise DataError(
                f"{source.name}: none of its columns ({', '.join(names)}) is called {' or '.join(SMILES_NAMES[:3])}. "
                "Name the column: smiles_column=..."
            )
        smiles = lower.index(guessed)
    else:
        smiles = _column(source, names, smiles_column, "smiles_column")
    return Layout(len(names), smiles, tuple(_column(source, names, name, "target_columns") for name in targets))


def _column(source: SourceFile, names: list[str], name: str, key: str) -> int:
    if name not in names:
        raise DataError(f"{source.name} has no column '{name}' ({key}); its columns are {', '.join(names)}.")
    return names.index(name)


def read_split(split: InputSplit) -> Iterator[RawMolecule | Rejection]:
    """The records of a split, in order: raw molecules, and rejections of what cannot be read."""
    form = SOURCES[split.format]
    with open(split.path, "rb") as file:
        file.seek(split.start)
        records = form.records(file)
        for row in range(split.first_row, split.first_row + split.rows):
            record = next(records)
            try:
                text, targets = form.parse(record, split)
            except (_Refused, csv.Error) as error:
                reason, detail = error.args if isinstance(error, _Refused) else ("malformed_row", str(error))
                shown = record.decode("utf-8", "backslashreplace")
                yield Rejection(split.source, row, shown, "read", reason, detail, 0.0)
            else:
                yield RawMolecule(text, form.molecule, split.source, row, targets)  # pyright: ignore[reportArgumentType]

"""Molecule files to deterministic input splits, and splits to raw molecules, without chemistry or a file in memory.

A compressed file is decompressed once, streaming, so that every split is a range of bytes of a plain file.
"""

import bz2
import csv
import glob
import gzip
import hashlib
import itertools
import lzma
import os
import socket
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.files import written_whole
from pipeline.formats import SOURCES, Layout, RefusedError, table_layout
from preprocessing.errors import DataError
from preprocessing.fields import RawMolecule, Rejection

COMPRESSIONS: dict[str, Callable[[Path], BinaryIO]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}  # pyright: ignore[reportAssignmentType]

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

COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class SourceFile:
    """One input file, decompressed if it had to be."""

    name: str
    """Name in the records: the path below the folder that all inputs share."""
    given: str
    """The file as given."""
    path: str
    """The plain file that splits are ranges of."""
    format: str
    """A name of :data:`~pipeline.formats.SOURCES`."""
    bytes: int
    """Size of the file as given."""
    sha256: str
    """Checksum of the file as given."""


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
    sha256: str
    """Checksum of its bytes, so that a file that changed since the plan is noticed."""
    layout: Layout | None
    """Columns of a table; None for formats without columns."""
    target_names: tuple[str, ...]

    @property
    def name(self) -> str:
        """How accounts call the split."""
        return f"{self.source}:{self.first_row}-{self.first_row + self.rows - 1}"


# --- files ----------------------------------------------------------------------------------------------------------


def find_files(inputs: Sequence[str]) -> list[Path]:
    """The files that ``inputs`` (files, globs or folders) stand for: in the given order, sorted inside each.

    Raises:
        DataError: an input matches no file, a file is named twice, or its name tells no known format.
    """
    if not inputs:
        raise DataError("input is an empty list: name at least one file, glob or folder.")
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
    """The files ready to be cut, decompressed into ``work`` where they are compressed.

    Raises:
        DataError: a file is empty, or its compressed content is truncated or damaged.
    """
    sources = describe_sources(files, work)
    for source in sources:
        decompress(source)
    return sources


def describe_sources(files: Sequence[Path], work: Path) -> list[SourceFile]:
    """Size and checksum of every file; what is compressed has its plain file in ``work``, not yet made.

    Raises:
        DataError: a file is empty.
    """
    parent = os.path.commonpath([file.parent for file in files])
    return [_describe(file, os.path.relpath(file, parent), work) for file in files]


def _describe(file: Path, name: str, work: Path) -> SourceFile:
    size = file.stat().st_size
    if size == 0:
        raise DataError(f"{file} is empty: expected molecules.")
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    plain = file
    if file.suffix in COMPRESSIONS:
        plain = work / f"plain-{sha256[:32]}{Path(file.stem).suffix}"
    return SourceFile(name, str(file), str(plain), _kind(file), size, sha256)


def decompress(source: SourceFile) -> None:
    """Make the plain file of a source that is compressed, unless it is there already.

    Raises:
        DataError: the compressed content is truncated or damaged.
    """
    file, plain = Path(source.given), Path(source.path)
    if file == plain or plain.exists():
        return
    done = 0
    try:
        with (
            written_whole(plain) as temporary,
            COMPRESSIONS[file.suffix](file) as packed,
            temporary.open("wb") as target,
        ):
            while chunk := packed.read(COPY_BYTES):
                done += target.write(chunk)
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            # The system's word (a full disk), not that of a decompressor.
            raise
        raise DataError(
            f"{file} is truncated or damaged: {error} after {done} decompressed bytes. Nothing of it was used; "
            "fetch the file again."
        ) from error


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

    with open(source.path, "rb") as file:
        layout = table_layout(source.name, file, smiles_column, targets, form.delimiter) if form.delimiter else None
        start, row = file.tell(), 0
        records = itertools.islice(form.records(file, layout), limit)
        while chunk := list(itertools.islice(records, rows_per_split)):
            data = b"".join(chunk)
            place = (source.name, source.path, source.format, start, row, len(chunk))
            splits.append(InputSplit(*place, hashlib.sha256(data).hexdigest(), layout, targets))
            start, row = start + len(data), row + len(chunk)
    return splits


def read_split(split: InputSplit) -> Iterator[RawMolecule | Rejection]:
    """The records of a split, in order: raw molecules, and rejections of what cannot be read.

    Raises:
        DataError: the file cannot be read on this machine, or changed since it was cut.
    """
    for row, record in enumerate(_split_records(split), split.first_row):
        yield _read(record, row, split)


def _split_records(split: InputSplit) -> list[bytes]:
    """The bytes of the split's records, exactly as when the file was cut."""
    try:
        with open(split.path, "rb") as file:
            file.seek(split.start)
            records = list(itertools.islice(SOURCES[split.format].records(file, split.layout), split.rows))
    except OSError as error:
        raise DataError(
            f"{split.path} cannot be read on {socket.gethostname()}: {error.strerror}. All nodes of a cluster must see "
            "input and output under the same paths."
        ) from error
    if hashlib.sha256(b"".join(records)).hexdigest() != split.sha256:
        raise DataError(
            f"{split.path} changed while it was in use (at records {split.first_row} to "
            f"{split.first_row + split.rows - 1}). Put the file back, or give a new output folder."
        )
    return records


def _read(record: bytes, row: int, split: InputSplit) -> RawMolecule | Rejection:
    form = SOURCES[split.format]
    try:
        text, targets = form.parse(record, split.layout, split.target_names)
    except (RefusedError, csv.Error) as error:
        reason, detail = error.args if isinstance(error, RefusedError) else ("malformed_row", str(error))
        shown = record.decode("utf-8", "backslashreplace")
        return Rejection(split.source, row, shown, "read", reason, detail, 0.0)
    return RawMolecule(text, form.molecule, split.source, row, targets)

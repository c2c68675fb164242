"""Input splits: sources are cut into them, always in the same way, and each is read back as raw molecules."""

import hashlib
import itertools
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from molstream.errors import DataError, in_words
from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers.base import Layout, Place, RefusedError, runs
from molstream.pipeline.readers.compression import is_damage
from molstream.pipeline.readers.discover import format_named
from molstream.pipeline.readers.source import SourceFile, is_empty
from molstream.preprocessing.fields import RawMolecule, Rejection

MARK_ROWS = 128
"""Records between two marks of a split: so many are read at least, and checked together."""
_MARK = struct.Struct("<qq32s")
"""``start`` and ``skip`` of a record's place; SHA-256 of the MARK_ROWS records from there on."""


@dataclass(frozen=True, slots=True)
class InputSplit:
    """Consecutive records of one file: the input of one shard."""

    source: str
    path: str
    format: str
    first_row: int
    """Number of the first record in its file, from 0; headers are not counted."""
    rows: int
    marks: bytes
    """Where every MARK_ROWS-th record is, and the checksum of those up to the next, by which a file that changed after
    the plan is noticed. Packed, since a job of 10^9 molecules has eight million."""
    layout: Layout
    """What is read from a record."""

    @property
    def name(self) -> str:
        """Name of the split in accounts: source, first and last row."""
        return self.name_of(range(self.rows))

    def name_of(self, rows: range) -> str:
        """Name of some rows of the split, counted from its first: source, first and last row."""
        return f"{self.source}:{self.first_row + rows.start}-{self.first_row + rows.stop - 1}"

    def parts(self, rows: int) -> list[range]:
        """The split cut into parts of ``rows`` rows, the last one maybe smaller, as rows counted from its first."""
        return [range(start, min(start + rows, self.rows)) for start in range(0, self.rows, rows)]


def target_names(sources: Sequence[SourceFile]) -> tuple[str, ...]:
    """Names of the targets of every record: ``target_columns``, or by default those of a known data set.

    Args:
        sources: prepared.

    Raises:
        DataError: the sources have different targets.
    """
    found = {tuple(configured(source).target_columns): source.name for source in sources if not is_empty(source)}
    if len(found) > 1:
        each = "; ".join(f"{name}: {', '.join(names[:5]) or 'none'}" for names, name in found.items())
        raise DataError(f"the inputs have different targets ({each}): name those to keep, target_columns=[...].")
    return next(iter(found), ())


def cut(sources: Sequence[SourceFile], rows_per_split: int, limit: int | None = None) -> list[InputSplit]:
    """Cut every file at record boundaries into splits of ``rows_per_split`` records, in one streaming pass.

    A file without records is reported on stderr.

    Args:
        sources: prepared.
        limit: most records of the whole input; None for all.

    Raises:
        DataError: no file has a record, or a table lacks the named columns.
    """
    target_names(sources)
    splits: list[InputSplit] = []
    left = limit
    for source in sources:
        if left == 0:
            break
        found = [] if is_empty(source) else _cut(source, rows_per_split, left)
        if not found:
            print(f"{source.name} has no records", file=sys.stderr)
        splits += found
        left = None if left is None else left - sum(split.rows for split in found)
    if not splits:
        raise DataError(f"the input has no records ({_listed(sources)}): expected molecules.")
    return splits


def _listed(sources: Sequence[SourceFile]) -> str:
    return ", ".join([*(source.name for source in sources[:3]), *(["..."] if len(sources) > 3 else [])])


def configured(source: SourceFile) -> ReadConfig:
    """How a source is read, with the default columns of a known data set."""
    return format_named(source.format).configure(source.config, source.name, Path(source.path))


def _cut(source: SourceFile, rows_per_split: int, limit: int | None) -> list[InputSplit]:
    form = format_named(source.format)
    layout = form.layout(source.name, Path(source.path), configured(source))
    splits: list[InputSplit] = []
    row, first, marks = 0, 0, list[bytes]()

    def end() -> None:
        nonlocal first, marks
        splits.append(InputSplit(source.name, source.path, source.format, first, row - first, b"".join(marks), layout))
        first, marks = row, []

    sizes = itertools.cycle(min(MARK_ROWS, rows_per_split - k) for k in range(0, rows_per_split, MARK_ROWS))
    try:
        for place, run in runs(form, source.path, layout, Place(layout.start), sizes):
            records = run if limit is None else run[: limit - row]
            marks.append(_MARK.pack(*place, _checksum(records)))
            row += len(records)
            if row - first == rows_per_split:
                end()
            if row == limit:
                break
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        where = f"{source.name} is damaged behind record {row}"
        raise DataError(f"{where}: {in_words(error)}. Fetch the file again.") from error
    if marks:
        end()
    return splits


def read_split(split: InputSplit, rows: range | None = None) -> Iterator[RawMolecule | Rejection]:
    """The records of a split, in order: raw molecules, and rejections of what cannot be read.

    Args:
        rows: read these alone, counted from the first of the split, and little of what is before and behind them.

    Raises:
        DataError: the file cannot be read on this machine, or changed since it was cut.
    """
    parse = format_named(split.format).parse
    rows = range(split.rows) if rows is None else rows
    for row, record in enumerate(_records(split, rows), split.first_row + rows.start):
        try:
            text, format, targets = parse(record, split.layout)
        except RefusedError as error:
            shown = record.decode("utf-8", "backslashreplace") if error.shown is None else error.shown
            yield Rejection(split.source, row, shown, "read", error.reason, error.detail, 0.0)
        else:
            yield RawMolecule(text, format, split.source, row, targets)


def read_columns(split: InputSplit) -> pa.Table:
    """All named values of the records of a split, as they are in the file: a row for each record, or no column.

    Raises:
        DataError: the file cannot be read on this machine, or changed since it was cut.
    """
    records = list(_records(split, range(split.rows)))
    start, skip, _ = _MARK.unpack_from(split.marks)
    return format_named(split.format).columns(split.path, split.layout, Place(start, skip), records)


def _records(split: InputSplit, rows: range) -> Iterator[bytes]:
    """The records of these rows of the split, exactly as when the file was cut.

    Raises:
        DataError: the file cannot be read on this machine, or its records have changed.
    """
    marked = range(rows.start // MARK_ROWS, -(-rows.stop // MARK_ROWS))
    marks = [_MARK.unpack_from(split.marks, k * _MARK.size) for k in marked]
    parts = [range(k * MARK_ROWS, min((k + 1) * MARK_ROWS, split.rows)) for k in marked]
    start, skip, _ = marks[0]
    found = runs(format_named(split.format), split.path, split.layout, Place(start, skip), map(len, parts))
    for part, (*_, checksum) in zip(parts, marks, strict=True):
        records = _next_run(split, found)
        if _checksum(records) != checksum:
            raise DataError(
                f"{split.path} changed while it was in use (at records {split.first_row + part.start} to "
                f"{split.first_row + part.stop - 1}). Put the file back, or give a new output folder."
            )
        yield from records[max(rows.start - part.start, 0) : rows.stop - part.start]


def _next_run(split: InputSplit, runs: Iterator[tuple[Place, list[bytes]]]) -> Sequence[bytes]:
    """The next records; none where the file has become damaged or short: it was whole when it was cut.

    Raises:
        DataError: the file cannot be read on this machine.
    """
    try:
        return next(runs, (None, []))[1]
    except (pa.ArrowException, OSError) as error:
        if is_damage(error):
            return []
        why = in_words(getattr(error, "strerror", error))
        raise DataError(
            f"{split.path} cannot be read on {socket.gethostname()}: {why}. All nodes of a cluster "
            "must see input and output under the same paths."
        ) from error


def _checksum(records: Sequence[bytes]) -> bytes:
    return hashlib.sha256(b"".join(records)).digest()

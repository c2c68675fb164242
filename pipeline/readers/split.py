"""Input splits: sources are cut into them, always in the same way, and each is read back as raw molecules."""

import hashlib
import socket
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


@dataclass(frozen=True, slots=True)
class InputSplit:
    """Consecutive records of one file: the input of one shard."""

    source: str
    path: str
    format: str
    start: int
    """Where in ``path``: a byte, or the number of a row group, batch or row."""
    skip: int
    """Records between ``start`` and the first record of the split."""
    first_row: int
    """Number of the first record in its file, from 0; headers are not counted."""
    rows: int
    sha256: str
    """Checksum of the records, by which a file that changed after the plan is noticed."""
    layout: Layout
    """What is read from a record."""

    @property
    def name(self) -> str:
        """Name of the split in accounts: source, first and last row."""
        return f"{self.source}:{self.first_row}-{self.first_row + self.rows - 1}"


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
    row = 0
    try:
        for place, run in runs(form, source.path, layout, Place(layout.start), rows_per_split):
            records = run if limit is None else run[: limit - row]
            where = (source.name, source.path, source.format)
            splits.append(InputSplit(*where, place.start, place.skip, row, len(records), _checksum(records), layout))
            row += len(records)
            if row == limit:
                break
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        where = f"{source.name} is damaged behind record {row}"
        raise DataError(f"{where}: {in_words(error)}. Fetch the file again.") from error
    return splits


def read_split(split: InputSplit) -> Iterator[RawMolecule | Rejection]:
    """The records of a split, in order: raw molecules, and rejections of what cannot be read.

    Raises:
        DataError: the file cannot be read on this machine, or changed since it was cut.
    """
    parse = format_named(split.format).parse
    for row, record in enumerate(_split_records(split), split.first_row):
        try:
            text, format, targets = parse(record, split.layout)
        except RefusedError as error:
            shown = record.decode("utf-8", "backslashreplace") if error.shown is None else error.shown
            yield Rejection(split.source, row, shown, "read", error.reason, error.detail, 0.0)
        else:
            yield RawMolecule(text, format, split.source, row, targets)


def _split_records(split: InputSplit) -> Sequence[bytes]:
    """The split's records, exactly as when the file was cut.

    Raises:
        DataError: the file cannot be read on this machine, or its records have changed.
    """
    place = Place(split.start, split.skip)
    try:
        _, records = next(runs(format_named(split.format), split.path, split.layout, place, split.rows), (place, []))
    except (pa.ArrowException, OSError) as error:
        # It was whole when it was cut.
        records = []
        if not is_damage(error):
            why = in_words(getattr(error, "strerror", error))
            raise DataError(
                f"{split.path} cannot be read on {socket.gethostname()}: {why}. All nodes of a cluster "
                "must see input and output under the same paths."
            ) from error
    if _checksum(records) != split.sha256:
        raise DataError(
            f"{split.path} changed while it was in use (at records {split.first_row} to "
            f"{split.first_row + split.rows - 1}). Put the file back, or give a new output folder."
        )
    return records


def _checksum(records: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(records)).hexdigest()

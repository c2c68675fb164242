"""What a file format is: how the records of a file are found again, and which molecule is in each.

A record is what accounts count as a row: a record of a CSV file (which may span lines), a line of SMILES, an SDF entry,
a row of a Parquet file. Every record is bytes, also where the file holds columns or arrays: so one piece of code cuts
files into splits, checks that a split is unchanged, and shows a record that is refused.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from molstream.io.files import written_whole
from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers.line_ends import with_newlines

COPY_BYTES = 1 << 18
MAX_TARGET = float(np.finfo(np.float32).max)
"""Largest absolute value of a target."""
BLOCK_END = "M  END"
"""Last line of a mol block; no SMILES has it."""


@dataclass(frozen=True)
class Layout:
    """What is read from every record of a file, and where it is."""

    start: int = 0
    """First byte behind the header."""
    delimiter: str = ""
    """Character between the columns of a text table; empty for other formats."""
    num_columns: int = 0
    """Number of columns of a table; 0 for other formats."""
    smiles: int = -1
    """Column of the SMILES; -1 for formats without columns."""
    columns: tuple[int, ...] = ()
    """Columns of the targets."""
    targets: tuple[str, ...] = ()
    """Names of the targets."""
    max_conformers: int = 0
    """Most conformers that are kept of a molecule."""


class Place(NamedTuple):
    """Where a record is, so that it can be read without what is before it."""

    start: int
    """A byte; or the number of a row group, a batch or a row."""
    skip: int = 0
    """Records between ``start`` and this one."""

    def behind(self, records: Sequence[bytes]) -> "Place":
        """The place behind these records, of which the first is here."""
        return Place(self.start, self.skip + len(records))


class BytePlace(Place):
    """The place of a record in a file whose records follow each other byte by byte."""

    def behind(self, records: Sequence[bytes]) -> "BytePlace":
        """The place behind these records, of which the first is here."""
        return BytePlace(self.start + sum(map(len, records)))


class Molecule(NamedTuple):
    """The content of a record."""

    text: str
    format: Literal["smiles", "molblock", "geometry"]
    targets: tuple[float, ...]


class RefusedError(Exception):
    """A record cannot be read; ``reason`` is a stable word, ``detail`` a message for people."""

    def __init__(self, reason: str, detail: str, shown: str | None = None):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.shown = shown
        """Text that represents a record in the accounts, if the record itself is not text."""


Batches = Iterator[tuple[Place, Sequence[bytes]]]
"""Records in batches, each with the place of its first record."""


def copy(streams: Sequence[BufferedReader], plain: Path) -> None:
    """Write the decompressed content of a file to ``plain``: the default of ``Format.unpack``."""
    with written_whole(plain) as temporary, temporary.open("wb") as target:
        shutil.copyfileobj(streams[0], target, COPY_BYTES)


def is_plain(path: Path) -> bool:
    """True: uncompressed text is read as it is. The default of ``Format.is_plain``."""
    return True


def no_companions(given: str) -> list[str]:
    """None: no second file is joined to a file. The default of ``Format.companions``."""
    return []


def as_asked(config: ReadConfig, where: str, path: Path) -> ReadConfig:
    """The configuration as given: no columns are wanted by default. The default of ``Format.configure``."""
    return config


def no_columns(path: str, layout: Layout, place: Place, records: Sequence[bytes]) -> pa.Table:
    """None: the records have no named values. The default of ``Format.columns``."""
    return named_values([{} for _ in records])


def named_values(rows: Sequence[Mapping[str, str | None]]) -> pa.Table:
    """A table of texts, from those of every row by column; null where a row has none."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: pa.array([row.get(name) for row in rows], pa.string()) for name in names})


class Format(NamedTuple):
    """How the files of one kind are read."""

    endings: tuple[str, ...]
    """Endings of file names, without that of a compression."""
    layout: Callable[[str, Path, ReadConfig], Layout]
    """(name for messages, file, configuration) -> layout, from the head of the file; may raise ``DataError``."""
    batches: Callable[[str, Layout, Place, int], Batches]
    """(file, layout, place, rows) -> the records from a place on, in batches of about ``rows`` records."""
    parse: Callable[[bytes, Layout], Molecule]
    """(record, layout) -> the molecule in the record; may raise :class:`RefusedError`."""
    is_plain: Callable[[Path], bool] = is_plain
    """Whether an uncompressed file can be read as it is; if not, it is unpacked."""
    unpack: Callable[[Sequence[BufferedReader], Path], None] = copy
    """(streams of the file and its companion, if any; plain file): writes the plain file, complete or not at all."""
    companions: Callable[[str], list[str]] = no_companions
    """File -> names of a second file with more of the same records, row by row; the first that exists is joined."""
    configure: Callable[[ReadConfig, str, Path], ReadConfig] = as_asked
    """(configuration, name for messages, file) -> the configuration with the default columns of a known data set."""
    may_crash: bool = False
    """Whether a damaged file can end the process that reads it: then another process reads it first."""
    columns: Callable[[str, Layout, Place, Sequence[bytes]], pa.Table] = no_columns
    """(file, layout, place, the records there) -> all named values of these records, a row for each or no column."""


def by_bytes(records: Callable[[BinaryIO, Layout], Iterator[bytes]]) -> Callable[[str, Layout, Place, int], Batches]:
    """The batches of a format whose records follow each other byte by byte.

    Args:
        records: complete records from the position of the file on; where a record ends must depend on nothing before
            its start.
    """

    def batches(path: str, layout: Layout, place: Place, rows: int) -> Batches:
        with open(path, "rb") as file:
            at = BytePlace(file.seek(place.start))
            found = records(file, layout)
            while batch := list(itertools.islice(found, rows)):
                yield at, batch
                at = at.behind(batch)

    return batches


def runs(
    form: Format, path: str, layout: Layout, place: Place, sizes: Iterable[int]
) -> Iterator[tuple[Place, list[bytes]]]:
    """Consecutive records from a place on, in lists of these sizes, whatever the batches; the last may be shorter."""
    wanted = iter(sizes)
    size = next(wanted)
    first, waiting = place, list[bytes]()
    for at, batch in form.batches(path, layout, place, size):
        taken = 0
        while taken < len(batch):
            part = batch[taken : taken + size - len(waiting)]
            if not waiting:
                first = at
            waiting += part
            taken, at = taken + len(part), at.behind(part)
            if len(waiting) == size:
                yield first, waiting
                waiting = []
                if (size := next(wanted, 0)) == 0:
                    return
    if waiting:
        yield first, waiting


def decode(record: bytes) -> str:
    """The text of a record.

    Raises:
        RefusedError: it is not UTF-8.
    """
    try:
        return record.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise RefusedError(
            "undecodable_bytes", f"not UTF-8: {error.reason} at byte {error.start} of the record"
        ) from error


def target(cell: Any) -> float:
    """A target's value; NaN where there is none.

    Raises:
        RefusedError: it is no number, or none that float32 can hold.
    """
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return float("nan")
    try:
        # Python's float takes 1_000 for 1000.
        value = float("" if isinstance(cell, str) and "_" in cell else cell)
    except (ValueError, TypeError, OverflowError):
        raise RefusedError("bad_target", f"the target {cell!r} is not a number; leave missing values empty") from None
    if abs(value) > MAX_TARGET:
        raise RefusedError("bad_target", f"the target {cell!r} is beyond what is stored, {MAX_TARGET:.3g} (float32)")
    return value


def text_molecule(text: str, targets: tuple[float, ...]) -> Molecule:
    """The molecule of a text that is a SMILES, or a mol block: tables hold these too."""
    if BLOCK_END in text:
        # White space in front is the title's line.
        return Molecule(with_newlines(text), "molblock", targets)
    return Molecule(text.strip(), "smiles", targets)


GEOMETRY_KEYS = ("smiles", "charge", "numbers", "positions", "energies", "forces")
"""Keys of a geometry record, a line of JSON: atomic numbers [n], positions [c][n][3] in angstrom of c conformers,
energies [c] in kcal/mol, forces [c][n][3] in kcal/mol/angstrom; unknown ones are left out."""


def geometry(record: dict[str, Any]) -> str:
    """The text of a geometry record: a line of JSON with the keys of ``record`` that have values."""
    return json.dumps({key: record[key] for key in GEOMETRY_KEYS if record.get(key) is not None}, separators=(",", ":"))

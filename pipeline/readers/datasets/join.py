"""An SD file joined row by row to a table: its columns become data items of the entries."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path

from molstream.errors import DataError
from molstream.io.files import written_whole
from molstream.pipeline.readers.base import BLOCK_END, Layout, RefusedError
from molstream.pipeline.readers.line_ends import first_line
from molstream.pipeline.readers.text import sdf_entries, sdf_parts


def joined(
    streams: Sequence[BufferedReader], plain: Path, title_column: str, belong: Callable[[int, int], bool]
) -> None:
    """Write the entries of the SD file ``streams[0]``, each with a row of the CSV ``streams[1]`` as its data items.

    Args:
        title_column: if the table has this column, it must equal the first line of each entry.
        belong: (number of entries, number of rows) -> whether they are of one data set.

    Raises:
        DataError: entries and rows do not belong together.
    """
    rows = _rows(streams[1])
    header = [name.strip() for name in next(rows, [])]
    title = header.index(title_column) if title_column in header else None
    entries = 0
    with written_whole(plain) as temporary, temporary.open("wb") as target:
        found = sdf_entries(streams[0], Layout())
        for entry in found:
            row = next(rows, None)
            if row is None:
                more = sum(1 for _ in found)
                raise DataError(_mismatch(entries + 1 + more, entries))
            if len(row) != len(header):
                raise DataError(f"row {entries} of its table has {len(row)} columns, expected {len(header)}.")
            name = first_line(entry).decode("utf-8", "replace").strip()
            if title is not None and row[title] != name:
                raise DataError(
                    f"entry {entries} is '{name}', but row {entries} of its table is '{row[title]}': they do not "
                    "belong together row by row."
                )
            target.write(_with_items(entry, header, row))
            entries += 1
        left = sum(1 for _ in rows)
        if not belong(entries, entries + left):
            raise DataError(_mismatch(entries, entries + left))


def item_names(path: Path) -> list[str]:
    """The names of the data items of a joined file."""
    with path.open("rb") as file:
        for entry in sdf_entries(file, Layout()):
            try:
                return list(dict(sdf_parts(entry.decode("utf-8", "replace"))[1]))
            except RefusedError:
                continue
    return []


def _rows(stream: BufferedReader) -> Iterator[list[str]]:
    """The rows of a CSV file without blank lines."""
    try:
        yield from filter(None, csv.reader(io.TextIOWrapper(stream, "utf-8-sig", "replace", newline="")))
    except csv.Error as error:
        raise DataError(f"its table cannot be read: {error}") from error


def _with_items(entry: bytes, header: Sequence[str], row: Sequence[str]) -> bytes:
    """The mol block with the row as data items; an entry whose block has no end stays as it is and is refused later."""
    end = entry.find(BLOCK_END.encode())
    if end < 0:
        return entry
    items = "".join(f"> <{name}>\n{' '.join(value.split())}\n\n" for name, value in zip(header, row, strict=True))
    return entry[:end] + f"{BLOCK_END}\n{items}$$$$\n".encode()


def _mismatch(entries: int, rows: int) -> str:
    return (
        f"it has {entries} entries, but its table {rows} rows, so that they cannot be joined row by row: one of the "
        "two is not whole, or they are not of the same data. format=sdf reads the geometry alone."
    )

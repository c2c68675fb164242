"""Parquet and Arrow IPC files: only the wanted columns are read, from the row group or batch that has the rows.

A row becomes one line of text, as in a text file: the molecule, then its targets, separated by tabs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from molstream.errors import DataError, in_words
from molstream.io.files import written_whole
from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers.base import (
    COPY_BYTES,
    Batches,
    Layout,
    Molecule,
    Place,
    copy,
    decode,
    target,
    text_molecule,
)
from molstream.pipeline.readers.compression import is_damage
from molstream.pipeline.readers.delimited import distinct, find_columns

BATCH_ROWS = 1 << 14
"""Most rows of a Parquet file that are decoded at a time."""

ARROW_FILE = b"ARROW1"
"""How an IPC file starts; an IPC stream, which has no index of its batches, does not."""
FEATHER_V1 = b"FEA1"


def parse_row(record: bytes, layout: Layout) -> Molecule:
    """The molecule and targets in a line of text that :func:`_rows` made."""
    text, *values = record[:-1].rsplit(b"\t", len(layout.columns))
    return text_molecule(decode(text), tuple(target(decode(value)) for value in values))


def _rows(batch: pa.RecordBatch, layout: Layout) -> list[bytes]:
    """The rows as text, with a tab behind every cell; a null is an empty cell."""
    position = {column: k for k, column in enumerate(_columns(layout))}
    molecule, *targets = (_as_bytes(batch.column(position[column])) for column in (layout.smiles, *layout.columns))
    # Only the molecule's own text may have tabs.
    cells = [molecule, *(pc.replace_substring(values, b"\t", b" ") for values in targets)]  # pyright: ignore[reportAttributeAccessIssue]
    end, tab = pa.scalar(b"", pa.large_binary()), pa.scalar(b"\t", pa.large_binary())
    joined = pc.binary_join_element_wise(*cells, end, tab, null_handling="replace", null_replacement=b"")  # pyright: ignore[reportAttributeAccessIssue]
    return joined.to_pylist()


def _as_bytes(column: pa.Array) -> pa.Array:
    """Text as it is, numbers in their shortest form."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    if not _is_text(column.type):
        column = column.cast(pa.large_string())
    return column.cast(pa.large_binary())


@contextmanager
def _damage_of(where: str, kind: str) -> Iterator[None]:
    """Turns what pyarrow raises where a file is damaged into an error that names the file.

    Raises:
        DataError: the file is damaged, or of another kind.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        raise DataError(f"{where} is no {kind} file, or damaged: {in_words(error)}. Fetch the file again.") from error


def _columns(layout: Layout) -> list[int]:
    """Numbers of the columns that are read, in the order of the file."""
    return sorted({layout.smiles, *layout.columns})


def _layout(where: str, schema: pa.Schema, config: ReadConfig) -> Layout:
    smiles, columns = find_columns(where, schema.names, config)
    if not _is_text(schema.types[smiles]):
        raise DataError(f"{where}: the column '{schema.names[smiles]}' holds {schema.types[smiles]}, expected text.")
    for column in columns:
        kind = schema.types[column]
        if not (_is_text(kind) or _is_number(kind)):
            raise DataError(f"{where}: the column '{schema.names[column]}' holds {kind}, expected numbers.")
    return Layout(smiles=smiles, columns=columns, num_columns=len(schema.names), targets=tuple(config.target_columns))


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    binaries = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_null)
    return any(test(kind) for test in (*texts, *binaries))


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _is_number(kind.value_type)
    return any(test(kind) for test in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal))


# --- Parquet --------------------------------------------------------------------------------------------------------


def parquet_layout(where: str, path: Path, config: ReadConfig) -> Layout:
    """The layout of a Parquet file: the columns of SMILES and targets."""
    with _damage_of(where, "Parquet"):
        return _layout(where, pq.read_schema(path), config)


def parquet_batches(path: str, layout: Layout, place: Place, rows: int) -> Batches:
    """Rows of a Parquet file; ``start`` of a place is a row group, inside of which pages are decoded one by one."""
    for found, batch in _parquet_batches(path, _columns(layout), place, rows):
        yield found, _rows(batch, layout)


def parquet_columns(path: str, layout: Layout, place: Place, records: Sequence[bytes]) -> pa.Table:
    """All columns of rows of a Parquet file."""
    every = list(range(layout.num_columns))
    return _first(_parquet_batches(path, every, place, len(records)), len(records))


def _parquet_batches(path: str, columns: list[int], place: Place, rows: int) -> Iterator[tuple[Place, pa.RecordBatch]]:
    options = {"buffer_size": COPY_BYTES, "pre_buffer": False, "page_checksum_verification": True}
    with pq.ParquetFile(path, **options) as file:
        names = [file.schema_arrow.names[column] for column in columns]
        for group in range(place.start, file.num_row_groups):
            done = 0
            wanted = place.skip if group == place.start else 0
            for batch in file.iter_batches(min(max(rows, 1), BATCH_ROWS), row_groups=[group], columns=names):
                batch.validate(full=True)
                if done + batch.num_rows > wanted:
                    part = batch.slice(max(0, wanted - done))
                    yield Place(group, done + batch.num_rows - part.num_rows), part
                done += batch.num_rows


def _first(batches: Iterator[tuple[Place, pa.RecordBatch]], rows: int) -> pa.Table:
    """The first rows of batches, with names that differ."""
    found: list[pa.RecordBatch] = []
    left = rows
    while left > 0:
        _, batch = next(batches)
        found.append(batch.slice(0, left))
        left -= found[-1].num_rows
    return pa.Table.from_batches(found).rename_columns(distinct(found[0].schema.names))


# --- Arrow IPC ------------------------------------------------------------------------------------------------------


def is_arrow_file(path: Path) -> bool:
    """Whether a file is an Arrow IPC file, which has an index of its batches; False for one that is not fetched yet."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(ARROW_FILE)) == ARROW_FILE


def unpack_arrow(streams: Sequence[BufferedReader], plain: Path) -> None:
    """Write an Arrow IPC file: a compressed one is decompressed, an IPC stream is rewritten batch by batch."""
    head = streams[0].peek(len(ARROW_FILE))
    if head.startswith(ARROW_FILE):
        copy(streams, plain)
        return
    if head.startswith(FEATHER_V1):
        raise DataError("Feather of version 1, which pyarrow no longer reads; write it again as version 2 or Parquet")
    with pa.ipc.open_stream(streams[0]) as reader, written_whole(plain) as temporary:
        # Dictionaries may change between the batches of a stream, but not of a file.
        kinds = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in reader.schema.types]
        schema = pa.schema(list(zip(reader.schema.names, kinds, strict=True)))
        with pa.ipc.new_file(str(temporary), schema) as writer:
            for batch in reader:
                batch.validate(full=True)
                columns = [column.cast(kind) for column, kind in zip(batch.columns, kinds, strict=True)]
                writer.write_batch(pa.record_batch(columns, schema))


def arrow_layout(where: str, path: Path, config: ReadConfig) -> Layout:
    """The layout of an IPC file: the columns of SMILES and targets."""
    with _damage_of(where, "Arrow"), pa.OSFile(str(path)) as file:
        return _layout(where, pa.ipc.open_file(file).schema, config)


def arrow_batches(path: str, layout: Layout, place: Place, rows: int) -> Batches:
    """Rows of an IPC file; ``start`` of a place is a record batch."""
    for found, batch in _arrow_batches(path, _columns(layout), place):
        yield found, _rows(batch, layout)


def arrow_columns(path: str, layout: Layout, place: Place, records: Sequence[bytes]) -> pa.Table:
    """All columns of rows of an IPC file."""
    return _first(_arrow_batches(path, list(range(layout.num_columns)), place), len(records))


def _arrow_batches(path: str, columns: list[int], place: Place) -> Iterator[tuple[Place, pa.RecordBatch]]:
    options = pa.ipc.IpcReadOptions(included_fields=columns)
    with pa.OSFile(path) as file:
        reader = pa.ipc.open_file(file, options=options)
        for number in range(place.start, reader.num_record_batches):
            skip = place.skip if number == place.start else 0
            batch = reader.get_batch(number)
            # Offsets of a damaged file would be followed anywhere.
            batch.validate(full=True)
            for begin in range(skip, batch.num_rows, BATCH_ROWS):
                yield Place(number, begin), batch.slice(begin, BATCH_ROWS)

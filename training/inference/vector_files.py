"""The files that ``molstream embed`` writes: Parquet, CSV or npy, a group of rows at a time."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from molstream.io.files import written_whole
from molstream.io.locks import claimed
from molstream.training.inference.config import VECTOR_FILES

STDOUT = "-"
"""The output that is no file: CSV."""
VECTOR = "embedding"
"""The column of the vectors."""

Write = Callable[[pa.Table], None]


@contextmanager
def vector_file(output: str, schema: pa.Schema, names: list[str], rows: int) -> Iterator[Write]:
    """Open an output, which appears once it is complete.

    Args:
        output: a file whose suffix is in :data:`WRITERS`, or ``-``.
        schema: of the tables; the last column, ``embedding``, has vectors float32 [d].
        names: of the d numbers of a vector, for the columns of a CSV file.
        rows: number of rows of all tables together.

    Yields:
        A function that writes a table. What fails is listed beside an npy file, which has no column for it.

    Raises:
        DataError: another process writes the output.
    """
    if output == STDOUT:
        with _csv(sys.stdout.buffer, schema, names, rows) as write:
            yield write
        return
    path, beside = Path(output), Path(output).with_suffix(".failures.parquet")
    outputs = [path, beside] if path.suffix == ".npy" else [path]
    failures: list[pa.Table] = []
    with ExitStack() as stack:
        for each in outputs:
            stack.enter_context(claimed(each))
        # In place after the vectors, since it says which of them are missing.
        listed = stack.enter_context(written_whole(beside)) if beside in outputs else None
        file = stack.enter_context(stack.enter_context(written_whole(path)).open("wb"))
        write = stack.enter_context(WRITERS[path.suffix](file, schema, names, rows))

        def both(table: pa.Table) -> None:
            write(table)
            if listed is not None:
                failures.append(table.filter(table["failure"].is_valid()).drop_columns([VECTOR]))

        yield both
        found = pa.concat_tables(failures) if failures else None
        if listed is not None and found is not None and found.num_rows:
            pq.write_table(found, listed)
    if listed is not None and not (found and found.num_rows):
        # That of an earlier output.
        beside.unlink(missing_ok=True)


@contextmanager
def _parquet(file: object, schema: pa.Schema, names: list[str], rows: int) -> Iterator[Write]:
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        yield writer.write_table


@contextmanager
def _csv(file: object, schema: pa.Schema, names: list[str], rows: int) -> Iterator[Write]:
    """A column for every number of a vector; cells are empty where there is none."""
    plain = pa.schema([*list(schema)[:-1], *(pa.field(name, pa.float32()) for name in names)])

    def write(table: pa.Table) -> None:
        vectors = _vectors(table)
        failed = np.isnan(vectors).any(axis=1)
        numbers = [pa.array(column, pa.float32(), mask=failed) for column in vectors.T]
        writer.write_table(pa.table([*table.columns[:-1], *numbers], plain))

    with pyarrow.csv.CSVWriter(file, plain) as writer:
        yield write


@contextmanager
def _npy(file: object, schema: pa.Schema, names: list[str], rows: int) -> Iterator[Write]:
    """Vectors alone, float32 [rows, d]; NaN where there is none."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, len(names))}
    np.lib.format.write_array_header_1_0(file, header)  # pyright: ignore[reportArgumentType]
    yield lambda table: file.write(_vectors(table).astype("<f4").tobytes()) and None  # pyright: ignore[reportAttributeAccessIssue]


def _vectors(table: pa.Table) -> np.ndarray:
    """The vectors, float32 [rows, d]; NaN where there is none."""
    width = table.schema.field(VECTOR).type.list_size
    column = table[VECTOR].combine_chunks()
    vectors = np.full((table.num_rows, width), np.nan, np.float32)
    known = column.is_valid().to_numpy(zero_copy_only=False)
    vectors[known] = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return vectors


WRITERS: dict[str, Callable[[object, pa.Schema, list[str], int], AbstractContextManager[Write]]] = dict(
    zip(VECTOR_FILES, (_parquet, _csv, _npy), strict=True)
)
"""The kinds of files by suffix."""

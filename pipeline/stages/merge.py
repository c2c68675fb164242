"""The dropped rows of all splits, merged into the Parquet files of the dataset."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from molstream.errors import DataError, in_words
from molstream.io.files import written_whole
from molstream.io.hashing import file_sha256
from molstream.pipeline.shards.manifest import DroppedTable, Manifest
from molstream.pipeline.stages.dropped import DROPPED
from molstream.pipeline.stages.task import SplitTask

ROW_GROUP_ROWS = 1 << 16
"""Rows of a row group: splits drop few rows each, and small groups are slow to read."""


def merge_dropped(
    tasks: Sequence[SplitTask], folder: Path, output: Path, base: Manifest | None
) -> dict[str, DroppedTable]:
    """Write a Parquet file for each kind of DROPPED: the rows of all splits in input order.

    One row group is in memory at a time.

    Args:
        tasks: every split, committed.
        folder: where the files are written.
        output: folder of the dataset, with the files of ``base``.
        base: the dataset that the splits are appended to; its rows come first.

    Returns:
        Size and checksum of the file of each kind.

    Raises:
        DataError: a file of ``base`` is damaged.
    """
    tables = {}
    for kind, schema in DROPPED.items():
        target, known = folder / f"{kind}.parquet", output / f"{kind}.parquet"
        with written_whole(target) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for group in row_groups(_rows(tasks, kind, schema, known, base)):
                writer.write_table(group)
        tables[kind] = table_of(target)
    return tables


def table_of(path: Path) -> DroppedTable:
    """Size and checksum of a file of dropped rows, as the manifest has them."""
    return DroppedTable(path.stat().st_size, file_sha256(path))


def _rows(
    tasks: Sequence[SplitTask], kind: str, schema: pa.Schema, before: Path, base: Manifest | None
) -> Iterator[pa.Table]:
    """The rows of one kind: those of the dataset that is appended to, from ``before``, then those of every split."""
    if base is not None:
        # Filtered by source, since an interrupted append may have moved its file there already.
        known = pa.array([source["name"] for source in base.config["sources"]])
        try:
            _require_same(before, base.dropped[kind], known)
            for batch in pq.ParquetFile(before).iter_batches():
                kept = batch.filter(pc.is_in(batch.column("source"), known))  # pyright: ignore[reportAttributeAccessIssue]
                # An older dataset may have columns that are no longer kept.
                yield pa.table(kept).select(schema.names)
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise DataError(f"{before} is damaged: {in_words(error)}. Restore it from a copy.") from error
    for task in tasks:
        if (path := task.path(f"{kind}.parquet")).exists():
            yield pq.read_table(path, schema=schema)


def _require_same(before: Path, table: DroppedTable, known: pa.Array) -> None:
    """Check that a file is the one of the manifest, so that no damage gets a new checksum.

    The file of an interrupted append is known by its rows of other sources; its bytes cannot be checked.

    Raises:
        ValueError: it is another one.
    """
    if table_of(before) != table:
        batches = pq.ParquetFile(before).iter_batches(columns=["source"])
        if all(pc.all(pc.is_in(batch.column("source"), known)).as_py() for batch in batches):  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError("it differs from its checksum in the manifest")


def row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of ROW_GROUP_ROWS rows, the last one smaller, however they were divided before."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        if rows >= ROW_GROUP_ROWS:
            joined = pa.concat_tables(waiting)
            whole = rows - rows % ROW_GROUP_ROWS
            for start in range(0, whole, ROW_GROUP_ROWS):
                yield joined.slice(start, ROW_GROUP_ROWS).combine_chunks()
            waiting, rows = [joined.slice(whole)], rows - whole
    if rows:
        yield pa.concat_tables(waiting).combine_chunks()

"""Rows of a split that are not written, as Parquet tables: rejected, duplicate and decontaminated ones."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from molstream.io.files import written_whole
from molstream.preprocessing.fields import RawMolecule, Rejection

REJECTED_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("row", pa.int64()),
        ("text", pa.string()),
        ("key", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""``key`` is null where the row was rejected before it had one."""
DUPLICATES_SCHEMA = pa.schema([("source", pa.string()), ("row", pa.int64()), ("key", pa.string())])
DECONTAMINATED_SCHEMA = pa.schema([*DUPLICATES_SCHEMA, ("sets", pa.list_(pa.string()))])
DROPPED = {"rejected": REJECTED_SCHEMA, "duplicates": DUPLICATES_SCHEMA, "decontaminated": DECONTAMINATED_SCHEMA}
"""Schemas of the rows that are not written, by kind; the dataset has a file ``<kind>.parquet`` for each."""


def worker_died(molecule: RawMolecule) -> Rejection:
    """The rejection of a molecule that twice, alone, killed the worker process outside of its sandbox."""
    place = (molecule.source, molecule.row, molecule.text)
    return Rejection(*place, "sandbox", "worker_died", "twice, a worker process ended while it did this row alone", 0.0)


def rejected_row(rejection: Rejection, key: str | None) -> dict[str, Any]:
    """A rejection as a row of REJECTED_SCHEMA, and its CPU ``seconds``; text that is no valid Unicode gets escapes.

    Args:
        key: of the molecule, None where the row was rejected before it had one.
    """
    text = rejection.text.encode("utf-8", "backslashreplace").decode()
    return {**asdict(rejection), "text": text, "key": key}


def write_rows(path: Path, table: pa.Table) -> None:
    """Write a Parquet file, complete or not at all; for a table without rows, remove it."""
    path.unlink(missing_ok=True)
    if table.num_rows:
        with written_whole(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

"""What a stage made of a part of a split: one file each, until the split's own file is made of them.

A part is some rows of a split, as a range that counts from its first row. The file is an Arrow IPC file with one batch
of molecules; the rows that the stage dropped are JSON in its metadata.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from molstream.errors import DataError, in_words
from molstream.io.files import written_whole
from molstream.pipeline.stages.task import SplitTask

COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd")
_DROPPED = b"dropped"


def part_path(task: SplitTask, stage: str, rows: range) -> Path:
    """The file of a part."""
    return task.path(f"{stage}-{rows.start}-{rows.stop}.arrow")


def write_part(path: Path, molecules: pa.Table, dropped: Any) -> None:
    """Write the file of a part, complete or not at all.

    Args:
        dropped: JSON value.
    """
    schema = molecules.schema.with_metadata({_DROPPED: json.dumps(dropped)})
    with (
        written_whole(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema, options=COMPRESSED) as writer,
    ):
        writer.write_table(molecules)


def read_part(path: Path) -> tuple[pa.Table, Any]:
    """The molecules and the dropped rows in the file of a part.

    Raises:
        DataError: the file is damaged.
        OSError: it cannot be read.
    """
    try:
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        dropped = json.loads(table.schema.metadata[_DROPPED])
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is damaged: {in_words(error)}. Remove {path.parent}: the same command begins again."
        ) from error
    return table.replace_schema_metadata(None), dropped


def remove_parts(task: SplitTask, stage: str, parts: Iterable[range]) -> None:
    """Remove the files of these parts."""
    for rows in parts:
        part_path(task, stage, rows).unlink(missing_ok=True)

"""Stage one: describe every row of a split, cheaply, and set aside what a benchmark set holds.

A split is described in parts, which are then joined to the described molecules (``described.arrow``, a batch for each
part), the rejected and decontaminated rows (``described.json``), and, last, the sorted hashes that duplicates are found
by (``keys.npy``). A row that the stage drops is final.
"""

import functools
import json
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from molstream.errors import DataError
from molstream.io.files import write_atomically, written_whole
from molstream.io.reading import read_json
from molstream.pipeline.readers.split import read_split
from molstream.pipeline.stages.decontaminate import Benchmarks
from molstream.pipeline.stages.dedup import identities_of, key_table, keys_path, write_array
from molstream.pipeline.stages.described import DESCRIBED_SCHEMA
from molstream.pipeline.stages.dropped import rejected_row, worker_died
from molstream.pipeline.stages.parts import COMPRESSED, part_path, read_part, remove_parts, write_part
from molstream.pipeline.stages.task import SplitTask
from molstream.pipeline.stages.worker import task_sandbox
from molstream.preprocessing.fields import RawMolecule, Rejection

DESCRIBE_ROWS = 128
"""Rows of a part: a tenth of a second, a hundred times what a task costs."""
_STAGE = "describe"


def parts_to_describe(task: SplitTask) -> list[range]:
    """The parts that a split is described in; none if it is described already."""
    return [] if keys_path(Path(task.work), task.index).exists() else task.split.parts(DESCRIBE_ROWS)


def describe_part(task: SplitTask, rows: range, avoid: Sequence[int] = (), only: range | None = None) -> dict[str, int]:
    """Describe or reject every row of a part, and write the part's file. A part that is done is not done again.

    Args:
        avoid: rows of the part, counted from its first, that killed a worker: they are rejected untried.
        only: try these rows of the part alone and write nothing, to find out which one kills the worker.

    Returns:
        Number of rejected rows by reason.

    Raises:
        DataError: this machine does not see the work folder, or the input changed.
    """
    if not Path(task.work).is_dir():
        raise DataError(f"{task.work} is not there on {socket.gethostname()}: all nodes must share the output folder.")
    if only is not None:
        raws = read_split(task.split, rows[only.start : only.stop])
        task_sandbox(task).describe([m for m in raws if isinstance(m, RawMolecule)])
        return {}
    path = part_path(task, _STAGE, rows)
    if not path.exists():
        described, rejections = _described(task, list(read_split(task.split, rows)), avoid)
        sets = _benchmark_sets(task, described)
        kept = described.filter(pa.array([not names for names in sets], pa.bool_()))
        columns = (described.column(name).to_pylist() for name in ("row", "key"))
        decontaminated = [
            {"source": task.split.source, "row": row, "key": key, "sets": list(names)}
            for row, key, names in zip(*columns, sets, strict=True)
            if names
        ]
        write_part(path, kept, {"rejected": rejections, "decontaminated": decontaminated})
    return _reasons(read_part(path)[1])


def join_description(task: SplitTask) -> dict[str, int]:
    """Write the files of stage one from those of the parts, ``keys.npy`` last, and remove the parts.

    Returns:
        Number of rejected rows by reason.
    """
    parts, done = task.split.parts(DESCRIBE_ROWS), keys_path(Path(task.work), task.index)
    if not done.exists():
        found = [read_part(part_path(task, _STAGE, rows)) for rows in parts]
        with (
            written_whole(task.path("described.arrow")) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, DESCRIBED_SCHEMA, options=COMPRESSED) as writer,
        ):
            for table, _ in found:
                writer.write_batch(_one_batch(table))
        dropped = {kind: [row for _, part in found for row in part[kind]] for kind in ("rejected", "decontaminated")}
        write_atomically(task.path("described.json"), json.dumps(dropped).encode())
        write_array(done, _keys(task, pa.concat_tables([table for table, _ in found])))
    remove_parts(task, _STAGE, parts)
    return _reasons(read_dropped(task))


def _described(
    task: SplitTask, raws: Sequence[RawMolecule | Rejection], avoid: Sequence[int]
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """The described molecules, and the rejected rows, in the order of the input."""
    batches, rejections = task_sandbox(task).describe(
        [m for k, m in enumerate(raws) if k not in avoid and isinstance(m, RawMolecule)]
    )
    rejections += [m for m in raws if isinstance(m, Rejection)]
    rejections += [worker_died(m) for k, m in enumerate(raws) if k in avoid and isinstance(m, RawMolecule)]
    rows = [rejected_row(r, None) for r in sorted(rejections, key=lambda r: r.row)]
    return pa.Table.from_batches(batches, DESCRIBED_SCHEMA), rows


def _keys(task: SplitTask, described: pa.Table) -> np.ndarray:
    """The sorted hashes of the described molecules; none where no two rows are duplicates."""
    if task.duplicates == "none":
        return key_table([], [])
    places = described.column("row").to_numpy() - task.split.first_row
    return key_table(identities_of(described, task.duplicates), places.tolist())


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    """The rows of a table, of which there may be none."""
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)


def _reasons(dropped: dict[str, Any]) -> dict[str, int]:
    return dict(Counter(row["reason"] for row in dropped["rejected"]))


def _benchmark_sets(task: SplitTask, described: pa.Table) -> list[tuple[str, ...]]:
    """For every row, the names of the benchmark sets that hold its molecule or scaffold."""
    if task.decontamination is None:
        return [()] * described.num_rows
    wanted = task.decontamination
    return _benchmarks(wanted.entries, wanted.names).sets(identities_of(described, wanted.by))


@functools.lru_cache(maxsize=1)
def _benchmarks(entries: str, names: tuple[str, ...]) -> Benchmarks:
    """The benchmarks in a file, loaded once per worker process."""
    return Benchmarks.load(Path(entries), names)


def read_described(task: SplitTask, rows: range | None = None) -> pa.Table:
    """The molecules that stage one described and kept (DESCRIBED_SCHEMA).

    Args:
        rows: those alone, counted from the first of the split.
    """
    with pa.OSFile(str(task.path("described.arrow"))) as file:
        reader = pa.ipc.open_file(file)
        if rows is None:
            return reader.read_all()
        wanted = range(rows.start // DESCRIBE_ROWS, -(-rows.stop // DESCRIBE_ROWS))
        found = pa.Table.from_batches([reader.get_batch(k) for k in wanted], DESCRIBED_SCHEMA)
    places = found.column("row").to_numpy() - task.split.first_row
    return found.filter(pa.array((places >= rows.start) & (places < rows.stop)))


def read_dropped(task: SplitTask) -> dict[str, Any]:
    """The rejected and decontaminated rows of stage one.

    Raises:
        DataError: the file is missing or damaged.
    """
    shape = {"rejected": [{"row": int, "reason": str}], "decontaminated": [dict]}
    return read_json(task.path("described.json"), shape, f"Remove {task.work}: the same command begins again.")

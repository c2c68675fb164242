"""Stage one of a split: describe every row, cheaply, and set aside what a benchmark set holds.

It leaves the described molecules (``described.arrow``), the rejected and decontaminated rows (``described.json``), and,
last, the sorted hashes that duplicates are found by (``keys.npy``). A row that it drops is final.
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
from molstream.pipeline.stages.task import SplitTask
from molstream.pipeline.stages.worker import PORTION, task_sandbox
from molstream.preprocessing.fields import RawMolecule, Rejection


def describe_split(task: SplitTask, avoid: Sequence[int] = (), only: range | None = None) -> dict[str, int]:
    """Run stage one on a split: describe or reject every row. A split that is done is not done again.

    Args:
        avoid: rows of the split, counted from its first, that killed a worker: they are rejected untried.
        only: try these rows alone and write nothing, to find out which one kills the worker.

    Returns:
        Number of rejected rows by reason.

    Raises:
        DataError: this machine does not see the work folder, or the input changed.
    """
    if not Path(task.work).is_dir():
        raise DataError(f"{task.work} is not there on {socket.gethostname()}: all nodes must share the output folder.")
    done = keys_path(Path(task.work), task.index)
    if only is not None or not done.exists():
        raws = list(read_split(task.split))
        if only is not None:
            task_sandbox(task).describe([m for m in raws[only.start : only.stop] if isinstance(m, RawMolecule)])
            return {}
        _commit_description(task, raws, avoid, done)
    return dict(Counter(r["reason"] for r in read_dropped(task)["rejected"]))


def _commit_description(
    task: SplitTask, raws: Sequence[RawMolecule | Rejection], avoid: Sequence[int], done: Path
) -> None:
    """Describe the rows and write the files of stage one, ``done`` last."""
    rejections = [m for m in raws if isinstance(m, Rejection)]
    rejections += [worker_died(m) for k, m in enumerate(raws) if k in set(avoid) and isinstance(m, RawMolecule)]
    batches = []
    for portion in _portions([m for k, m in enumerate(raws) if k not in avoid and isinstance(m, RawMolecule)]):
        found, refused = task_sandbox(task).describe(portion)
        batches += found
        rejections += refused
    described = pa.Table.from_batches(batches, DESCRIBED_SCHEMA).combine_chunks()
    sets = _benchmark_sets(task, described)
    clean = np.array([not names for names in sets], bool)
    keys = described.column("key").to_pylist()
    dropped = {
        "rejected": [rejected_row(r, None) for r in sorted(rejections, key=_row)],
        "decontaminated": [
            {"source": task.split.source, "row": row, "key": key, "sets": list(names)}
            for row, key, names in zip(described.column("row").to_pylist(), keys, sets, strict=True)
            if names
        ],
    }
    described = described.filter(pa.array(clean))
    with (
        written_whole(task.path("described.arrow")) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, DESCRIBED_SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer,
    ):
        writer.write_table(described)
    write_atomically(task.path("described.json"), json.dumps(dropped).encode())
    places = described.column("row").to_numpy() - task.split.first_row
    identities = [] if task.duplicates == "none" else identities_of(described, task.duplicates)
    write_array(done, key_table(identities, places[: len(identities)].tolist()))


def _benchmark_sets(task: SplitTask, described: pa.Table) -> list[tuple[str, ...]]:
    """For every row, the names of the benchmark sets that hold its molecule or scaffold."""
    if task.decontamination is None:
        return [()] * described.num_rows
    wanted = task.decontamination
    return _benchmarks(wanted.entries, wanted.names).sets(described.column(wanted.by).to_pylist())


@functools.lru_cache(maxsize=1)
def _benchmarks(entries: str, names: tuple[str, ...]) -> Benchmarks:
    """The benchmarks in a file, loaded once per worker process."""
    return Benchmarks.load(Path(entries), names)


def read_described(task: SplitTask) -> pa.Table:
    """The molecules that stage one described and kept (DESCRIBED_SCHEMA)."""
    with pa.OSFile(str(task.path("described.arrow"))) as file:
        return pa.ipc.open_file(file).read_all()


def read_dropped(task: SplitTask) -> dict[str, Any]:
    """The rejected and decontaminated rows of stage one.

    Raises:
        DataError: the file is missing or damaged.
    """
    shape = {"rejected": [{"row": int, "reason": str}], "decontaminated": [dict]}
    return read_json(task.path("described.json"), shape, f"Remove {task.work}: the same command begins again.")


def _row(rejection: Rejection) -> int:
    return rejection.row


def _portions(items: list[Any]) -> list[list[Any]]:
    return [items[k : k + PORTION] for k in range(0, len(items), PORTION)]

"""Stage two: conformers of the rows of a split that are no duplicates, the shard, and the commit.

Conformers are made in parts, which are then joined to the shard. Where the settings want no conformers, there are no
parts, and the described molecules are written as they are.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from molstream.io.files import write_atomically
from molstream.pipeline.readers.split import read_split
from molstream.pipeline.shards.codec import SCHEMA
from molstream.pipeline.shards.manifest import Account, Shard
from molstream.pipeline.shards.writer import write_shard
from molstream.pipeline.stages.dedup import duplicates_of
from molstream.pipeline.stages.describe import read_described, read_dropped
from molstream.pipeline.stages.described import EMBEDDED_SCHEMA, records
from molstream.pipeline.stages.dropped import (
    DECONTAMINATED_SCHEMA,
    DUPLICATES_SCHEMA,
    REJECTED_SCHEMA,
    rejected_row,
    worker_died,
    write_rows,
)
from molstream.pipeline.stages.parts import part_path, read_part, remove_parts, write_part
from molstream.pipeline.stages.tally import Tally, Timing
from molstream.pipeline.stages.task import SplitCommit, SplitTask, read_commit
from molstream.pipeline.stages.worker import PORTION, task_sandbox
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.featurize import needs_embedding
from molstream.preprocessing.fields import ConformerStatus, RawMolecule, Rejection

EMBED_ROWS = 32
"""Rows of a part: about two seconds. The cores end a stage within about that of each other."""
_STAGE = "embed"


def prepare_worker(task: SplitTask) -> None:
    """Start the sandbox that a task like this one uses; with this module a worker has imported all that stages need."""
    task_sandbox(task).start()


def parts(task: SplitTask) -> list[range]:
    """The parts that conformers are made in; none where no conformer is made or required."""
    return task.split.parts(EMBED_ROWS) if _makes_conformers(task.featurize) else []


def embed_part(
    task: SplitTask, rows: range, buckets: int, avoid: Sequence[int] = (), only: range | None = None
) -> dict[str, int]:
    """Make the conformers of a part, and write the part's file. A part that is done is not done again.

    Args:
        buckets: number of buckets of the duplicates.
        avoid, only: as in :func:`~molstream.pipeline.stages.describe.describe_part`.

    Returns:
        Number of rejected rows by reason.
    """
    if only is not None:
        _embedded(task, *_wanted(task, rows[only.start : only.stop], buckets))
        return {}
    path = part_path(task, _STAGE, rows)
    if not path.exists():
        described, places = _wanted(task, rows, buckets)
        killers = np.isin(places - rows.start, list(avoid))
        found, refused = _embedded(task, described.filter(pa.array(~killers)), places[~killers])
        refused += [
            worker_died(RawMolecule(row["smiles"], "smiles", row["source"], row["row"]))
            for row in described.filter(pa.array(killers)).select(["smiles", "source", "row"]).to_pylist()
        ]
        write_part(path, found, _rejected(task, rows, described, refused))
    return dict(Counter(row["reason"] for row in read_part(path)[1]))


def write_split(task: SplitTask, buckets: int) -> SplitCommit:
    """Write the shard of a split from its parts, then the commit, and remove the parts.

    A split that is committed is not done again.

    Args:
        buckets: number of buckets of the duplicates.
    """
    if (commit := read_commit(task)) is None:
        described = read_described(task).combine_chunks()
        repeated = np.isin(_places(task, described), duplicates_of(Path(task.work), task.index, buckets))
        rejections: list[dict[str, Any]] = []
        tally, timing = Tally(), Timing()

        def batches() -> Iterator[pa.RecordBatch]:
            for written, batch, seconds in _finished(task, described.filter(pa.array(~repeated)), rejections):
                tally.add(written, batch)
                timing.add(batch.column("smiles").to_pylist(), batch.column("seconds").to_numpy(), seconds)
                yield written

        shard = write_shard(Path(task.folder), task.index, task.container, task.block_rows, batches())
        duplicates = described.filter(pa.array(repeated)).select(DUPLICATES_SCHEMA.names).cast(DUPLICATES_SCHEMA)
        commit = _commit(task, shard, tally, timing, rejections, duplicates)
    remove_parts(task, _STAGE, parts(task))
    return commit


def _makes_conformers(config: FeaturizeConfig) -> bool:
    return config.conformers.num_conformers > 0 or config.conformers.require_conformer


def _places(task: SplitTask, described: pa.Table | pa.RecordBatch) -> np.ndarray:
    """Rows of molecules, counted from the first of the split."""
    return described.column("row").to_numpy() - task.split.first_row


def _wanted(task: SplitTask, rows: range, buckets: int) -> tuple[pa.Table, np.ndarray]:
    """The described molecules of some rows that are no duplicates, and their places."""
    described = read_described(task, rows)
    places = _places(task, described)
    kept = ~np.isin(places, duplicates_of(Path(task.work), task.index, buckets))
    return described.filter(pa.array(kept)), places[kept]


def _embedded(task: SplitTask, described: pa.Table, places: np.ndarray) -> tuple[pa.Table, list[Rejection]]:
    """Described molecules with their final conformers (EMBEDDED_SCHEMA), in the order of ``places``; rejections."""
    config = task.featurize
    status = described.column("conformer_status").to_pylist()
    mask = np.array([needs_embedding(ConformerStatus(s), config) for s in status], bool)
    mask |= config.conformers.require_conformer
    found, refused = [], list[Rejection]()
    for batch in described.filter(pa.array(mask)).to_batches():
        embedded, rejections = task_sandbox(task).embed(records(batch))
        found += embedded
        refused += rejections
    ready = described.filter(pa.array(~mask)).select(SCHEMA.names).cast(SCHEMA)
    nothing = pa.array(np.zeros(ready.num_rows, np.float32))
    table = pa.concat_tables(
        [ready.append_column(EMBEDDED_SCHEMA.field("seconds"), nothing), pa.Table.from_batches(found, EMBEDDED_SCHEMA)]
    )
    return table.take(pa.array(np.argsort(table.column("row").to_numpy(), kind="stable"))), refused


def _rejected(
    task: SplitTask, rows: range, described: pa.Table, rejections: Sequence[Rejection]
) -> list[dict[str, Any]]:
    """Rejections of a part as rows of REJECTED_SCHEMA, with the molecules' keys and the texts of the input."""
    if not rejections:
        return []
    keys = dict(zip(described.column("row").to_pylist(), described.column("key").to_pylist()))
    texts = {m.row: m.text for m in read_split(task.split, rows)}
    return [rejected_row(replace(r, text=texts[r.row]), keys[r.row]) for r in rejections]


def _finished(
    task: SplitTask, described: pa.Table, rejections: list[dict[str, Any]]
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch, np.ndarray]]:
    """Final records, the same molecules as described, and the CPU seconds of their conformers, in the order of rows.

    Args:
        described: the molecules of the split that are no duplicates.
        rejections: gets the rejected rows.
    """
    if not _makes_conformers(task.featurize):
        for batch in described.to_batches(max_chunksize=PORTION):
            yield records(batch), batch, np.zeros(batch.num_rows)
        return
    for rows in parts(task):
        found, refused = read_part(part_path(task, _STAGE, rows))
        rejections += refused
        for batch in found.combine_chunks().to_batches():
            same = described.filter(pa.array(np.isin(described.column("row"), batch.column("row"))))
            yield records(batch), same.combine_chunks().to_batches()[0], batch.column("seconds").to_numpy()


def _commit(
    task: SplitTask,
    shard: Shard | None,
    tally: Tally,
    timing: Timing,
    rejections: list[dict[str, Any]],
    duplicates: pa.Table,
) -> SplitCommit:
    """Write the dropped rows of both stages, check the conservation law, and write the commit.

    Args:
        rejections: of stage two.
    """
    before = read_dropped(task)
    rejected = sorted([*before["rejected"], *rejections], key=lambda r: r["row"])
    write_rows(task.path("rejected.parquet"), pa.Table.from_pylist(rejected, REJECTED_SCHEMA))
    write_rows(task.path("duplicates.parquet"), duplicates)
    decontaminated = pa.Table.from_pylist(before["decontaminated"], DECONTAMINATED_SCHEMA)
    write_rows(task.path("decontaminated.parquet"), decontaminated)
    account = Account(
        rows_in=task.split.rows,
        written=shard.rows if shard else 0,
        duplicates=duplicates.num_rows,
        rejected=dict(sorted(Counter(r["reason"] for r in rejected).items())),
        decontaminated=decontaminated.num_rows,
    )
    account.check(task.split.name)
    timing.add_rejected(rejected)
    benchmarks = Counter(name for row in before["decontaminated"] for name in row["sets"])
    commit = SplitCommit(account, shard, tally, timing, dict(sorted(benchmarks.items())))
    write_atomically(task.path("commit.json"), commit.to_json())
    return commit

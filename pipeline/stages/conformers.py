"""Stage two of a split: conformers of the rows that are no duplicates, the shard, and the commit."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from molstream.io.files import write_atomically
from molstream.pipeline.readers.split import read_split
from molstream.pipeline.shards.manifest import Account, Shard
from molstream.pipeline.shards.writer import write_shard
from molstream.pipeline.stages.dedup import duplicates_of
from molstream.pipeline.stages.describe import read_described, read_dropped
from molstream.pipeline.stages.described import records
from molstream.pipeline.stages.dropped import (
    DECONTAMINATED_SCHEMA,
    DUPLICATES_SCHEMA,
    REJECTED_SCHEMA,
    rejected_row,
    worker_died,
    write_rows,
)
from molstream.pipeline.stages.tally import Tally, Timing
from molstream.pipeline.stages.task import SplitCommit, SplitTask, read_commit
from molstream.pipeline.stages.worker import PORTION, task_sandbox
from molstream.preprocessing.featurize import needs_embedding
from molstream.preprocessing.fields import ConformerStatus, RawMolecule, Rejection


def write_split(task: SplitTask, buckets: int, avoid: Sequence[int] = (), only: range | None = None) -> SplitCommit:
    """Run stage two on a split: conformers of the rows that are no duplicates, the shard, then the commit.

    A split that is committed is not done again.

    Args:
        buckets: number of buckets of the duplicates.
        avoid, only: as in :func:`~molstream.pipeline.stages.describe.describe_split`.

    Returns:
        The commit; an empty one for ``only``.
    """
    if only is None and (commit := read_commit(task)) is not None:
        return commit
    described = read_described(task)
    places = described.column("row").to_numpy() - task.split.first_row
    repeated = np.isin(places, duplicates_of(Path(task.work), task.index, buckets))
    if only is not None:
        chosen = ~repeated & (places >= only.start) & (places < only.stop)
        for batch in described.filter(pa.array(chosen)).to_batches(max_chunksize=PORTION):
            _finish(task, batch)
        return SplitCommit(Account(0, 0, 0, {}), None, Tally(), Timing(), {})
    killers = np.isin(places, list(avoid)) & ~repeated
    rejections = [
        worker_died(RawMolecule(row["smiles"], "smiles", row["source"], row["row"]))
        for row in described.filter(pa.array(killers)).select(["smiles", "source", "row"]).to_pylist()
    ]
    tally, timing = Tally(), Timing()

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in described.filter(pa.array(~repeated & ~killers)).to_batches(max_chunksize=PORTION):
            written, seconds, refused = _finish(task, batch)
            rejections.extend(refused)
            if written.num_rows:
                kept = np.isin(batch.column("row"), written.column("row"))
                batch = batch.filter(pa.array(kept))
                tally.add(written, batch)
                timing.add(batch.column("smiles").to_pylist(), batch.column("seconds").to_numpy(), seconds)
                yield written

    shard = write_shard(Path(task.folder), task.index, task.container, task.block_rows, batches())
    duplicates = described.filter(pa.array(repeated)).select(DUPLICATES_SCHEMA.names).cast(DUPLICATES_SCHEMA)
    return _commit(task, shard, tally, timing, _late_rejections(task, described, rejections), duplicates)


def _finish(task: SplitTask, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, np.ndarray, list[Rejection]]:
    """Described molecules with their final conformers, in the order of rows; CPU seconds of each; rejections."""
    config = task.featurize
    wanting = [needs_embedding(ConformerStatus(s), config) for s in batch.column("conformer_status").to_pylist()]
    mask = np.array(wanting, bool)
    if not mask.any() and not config.conformers.require_conformer:
        return records(batch), np.zeros(batch.num_rows), []
    mask |= config.conformers.require_conformer
    found, refused = task_sandbox(task).embed(records(batch.filter(pa.array(mask))))
    parts = [records(batch.filter(pa.array(~mask))), *(records(part) for part in found)]
    seconds = np.concatenate([np.zeros(parts[0].num_rows), *(part.column("seconds").to_numpy() for part in found)])
    merged = pa.concat_batches(parts)
    order = np.argsort(merged.column("row").to_numpy(), kind="stable")
    return merged.take(pa.array(order)), seconds[order], refused


def _late_rejections(task: SplitTask, described: pa.Table, rejections: Sequence[Rejection]) -> list[dict[str, Any]]:
    """Rejections of stage two as rows of REJECTED_SCHEMA, with the molecules' keys and the texts of the input."""
    if not rejections:
        return []
    keys = dict(zip(described.column("row").to_pylist(), described.column("key").to_pylist()))
    texts = {m.row: m.text for m in read_split(task.split)}
    return [rejected_row(replace(r, text=texts[r.row]), keys[r.row]) for r in rejections]


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
    benchmarks = Counter(name for row in before["decontaminated"] for name in row["sets"])
    commit = SplitCommit(account, shard, tally, timing, dict(sorted(benchmarks.items())))
    write_atomically(task.path("commit.json"), commit.to_json())
    return commit

"""Estimate of what a job will cost, from a sample of its input: ``molstream preprocess ... --dry-run``.

The sample goes through the real reading and chemistry, in one sandbox and without Ray; all files are written to a
temporary folder.
"""

import math
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from molstream.errors import DataError
from molstream.pipeline.config import DryRunConfig
from molstream.pipeline.plan import PLAN, benchmark_sources, check_free, cut_sources, plan_sources
from molstream.pipeline.readers.sampling import Columns, Rows, choose, columns, write_head
from molstream.pipeline.reports.rejections import shown_ascii
from molstream.pipeline.sandbox.parent import Sandbox
from molstream.pipeline.shards.histograms import seconds, share, size
from molstream.pipeline.shards.writer import write_shard
from molstream.pipeline.stages.conformers import EMBED_ROWS
from molstream.pipeline.stages.describe import DESCRIBE_ROWS
from molstream.pipeline.stages.described import records
from molstream.preprocessing.fields import RawMolecule, Rejection

EFFICIENCY = 0.9
"""Fraction of the cores' time that the chemistry takes; the rest is reading, writing and waiting."""

MANY_CORES = 64
"""Cores of a second machine that the time is estimated for."""


@dataclass(frozen=True)
class Sample:
    """The results of the records that were tried."""

    rows: int
    written: int
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Rejection] = field(default_factory=dict)
    """The first rejection of every reason."""
    times: tuple[float, ...] = ()
    """CPU seconds of every record."""
    slowest: str = ""
    """SMILES of the record that took longest, or its text where it has none."""
    bytes_per_molecule: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """The cost of a job as estimated from a sample: rows, disk space, CPU and wall time."""

    config: DryRunConfig
    rows: Rows
    splits: int
    columns: Columns
    sample: Sample

    @property
    def too_many_rejected(self) -> bool:
        """Whether so many of the sample were rejected that the job would fail."""
        return sum(self.sample.rejected.values()) > self.config.max_rejected_fraction * self.sample.rows

    def core_seconds(self) -> tuple[float, float]:
        """CPU seconds of the job, and their uncertainty (two standard errors of the mean)."""
        times = np.array(self.sample.times)
        error = times.std(ddof=1) / math.sqrt(len(times)) if len(times) > 1 else times.mean()
        return float(times.mean() * self.rows.total), float(2 * error * self.rows.total)

    @property
    def num_tasks(self) -> int:
        """Tasks that the longest stage is cut into: no more cores than these have work."""
        embeds = self.config.featurize.conformers.num_conformers > 0
        return math.ceil(self.rows.total / (EMBED_ROWS if embeds else DESCRIBE_ROWS))

    def wall_seconds(self, cores: int) -> float:
        """Wall time of the job in seconds: each of the cores does whole tasks, one after the other."""
        work, _ = self.core_seconds()
        return work / self.num_tasks * math.ceil(self.num_tasks / cores) / EFFICIENCY

    def text(self, command: str) -> str:
        """The estimate as text for a terminal.

        Args:
            command: the command line that starts the job.
        """
        rows, sample = self.rows, self.sample
        part = sample.written / sample.rows
        molecules = round(rows.total * part)
        stored = molecules * sample.bytes_per_molecule
        work, error = self.core_seconds()
        here = self.config.ray.num_cpus or len(os.sched_getaffinity(0))
        total = f"about {_about(rows.total)}" if rows.estimated else f"{rows.total:,}"
        lines = [
            f"dry run: {sample.rows:,} of {total} rows were tried, nothing was written",
            *self._rows(),
            *self._columns(),
            f"  molecules  about {_about(molecules)} ({share(sample.written, sample.rows)}) {self._unknown()}",
            f"  rejected   about {_about(rows.total - molecules)} ({share(sample.rows - sample.written, sample.rows)})",
            *self._rejected(),
            f"  shards     {self.splits:,}, of up to {self.config.rows_per_shard:,} rows",
            f"  disk       about {size(stored)} ({sample.bytes_per_molecule:.0f} bytes per molecule); the same again "
            "while it works",
            f"  work       about {_core_time(work)} (+- {share(error, work)}), {seconds(work / rows.total)} per row",
            f"  time       about {seconds(self.wall_seconds(here))} on {here} core(s), "
            f"{seconds(self.wall_seconds(MANY_CORES))} on {MANY_CORES}",
            *self._bound(max(here, MANY_CORES)),
            f"  slowest    {seconds(max(sample.times))}: {shown_ascii(sample.slowest, 58)}",
            *self._notes(),
            "start it with",
            f"  {command}",
        ]
        return "\n".join(lines)

    def _bound(self, cores: int) -> list[str]:
        """What bounds the parallelism, if so many cores do not all have work."""
        if self.num_tasks >= cores:
            return []
        return [f"             more than {self.num_tasks} core(s) have nothing to do: a task is cut no finer"]

    def _rows(self) -> list[str]:
        if not self.rows.estimated:
            return [f"  rows       {self.rows.total:,}, counted"]
        names = ", ".join(self.rows.estimated[:3]) + (", ..." if len(self.rows.estimated) > 3 else "")
        return [
            f"  rows       about {_about(self.rows.total)}, estimated from the beginning of {shown_ascii(names, 60)}"
        ]

    def _columns(self) -> list[str]:
        columns = self.columns
        lines = [f"  SMILES     from the column '{shown_ascii(columns.smiles, 50)}'"] if columns.smiles else []
        lines.append(f"  targets    {shown_ascii(', '.join(columns.targets) or 'none', 120)}")
        if columns.others:
            lines.append(f"             could be targets, too: {shown_ascii(', '.join(columns.others), 120)}")
        return lines

    def _unknown(self) -> str:
        asked = [name for name, wanted in self._left_out() if wanted]
        return f"less {' and '.join(asked)}, which a sample cannot tell" if asked else "with duplicates"

    def _left_out(self) -> tuple[tuple[str, bool], ...]:
        return (
            ("duplicates", self.config.duplicates != "none"),
            ("what the benchmark sets hold", bool(self.config.decontaminate)),
        )

    def _rejected(self) -> list[str]:
        lines = []
        for reason, count in self.sample.rejected.most_common():
            row = self.sample.examples[reason]
            head = f"    {reason} about {_about(count / self.sample.rows * self.rows.total)}, as "
            lines.append(f"{head}{row.source}:{row.row} {shown_ascii(row.text.strip(), 60)}".rstrip())
        return lines

    def _notes(self) -> list[str]:
        output = Path(self.config.output)
        if (output / PLAN).is_file():
            return [f"{output} holds a dataset: the command continues it, if input and settings are the same"]
        return []


def estimate(config: DryRunConfig) -> Estimate:
    """Estimate the cost of a job by trying a sample of its input.

    Raises:
        DataError, ConfigError: as the job itself would, for an input or output folder that cannot be used.
    """
    check_free(Path(config.output))
    with tempfile.TemporaryDirectory(prefix="molstream-") as folder:
        work = Path(folder) / "work"
        work.mkdir()
        sources = plan_sources(replace(config, output=folder))
        benchmark_sources(config, work)
        parts = {source.name: part for source in sources if (part := write_head(source)) < 1}
        splits = cut_sources(sources, config, work)
        rows, chosen = choose(splits, parts, config.sample, config.limit)
        found = columns(sources, splits[0], config, work)
        sample = _try(chosen, config, Path(folder))
        num_splits = len(splits) if not parts else math.ceil(rows.total / config.rows_per_shard)
        return Estimate(config, rows, num_splits, found, sample)


def _try(chosen: Sequence[RawMolecule | Rejection], config: DryRunConfig, folder: Path) -> Sample:
    """Process the records as the job would, without duplicates and decontamination."""
    rejections = [record for record in chosen if isinstance(record, Rejection)]
    written: list[pa.RecordBatch] = []
    smiles: dict[tuple[str, int], str] = {}
    times: Counter[tuple[str, int]] = Counter({(record.source, record.row): 0.0 for record in chosen})  # pyright: ignore[reportArgumentType]
    with Sandbox(config.sandbox, config.featurize) as sandbox:
        described, refused = sandbox.describe([record for record in chosen if isinstance(record, RawMolecule)])
        rejections += refused
        for batch in described:
            finished, refused = sandbox.embed(records(batch))
            rejections += refused
            written += [records(part) for part in finished]
            for part in (batch, *finished):
                _add_times(times, part)
            places = zip(batch.column("source").to_pylist(), batch.column("row").to_pylist())
            smiles.update(zip(places, batch.column("smiles").to_pylist()))
    for rejection in rejections:
        times[rejection.source, rejection.row] += rejection.seconds  # pyright: ignore[reportArgumentType]
    shard = write_shard(folder, 0, config.container, config.block_rows, written)
    slowest = max(chosen, key=lambda record: times[record.source, record.row])
    return Sample(
        rows=len(chosen),
        written=shard.rows if shard else 0,
        rejected=Counter(rejection.reason for rejection in rejections),
        examples={rejection.reason: rejection for rejection in reversed(rejections)},
        times=tuple(times.values()),
        slowest=smiles.get((slowest.source, slowest.row), slowest.text),
        bytes_per_molecule=sum(block.bytes for block in shard.blocks) / shard.rows if shard else 0.0,
    )


def _add_times(times: Counter[tuple[str, int]], batch: pa.RecordBatch) -> None:
    for source, row, spent in zip(*(batch.column(name).to_pylist() for name in ("source", "row", "seconds"))):
        times[source, row] += spent


def require_bearable(found: Estimate) -> None:
    """Make sure that not so many records of the sample were rejected that the job would fail.

    Raises:
        DataError: they were.
    """
    if found.too_many_rejected:
        raise DataError(
            f"{sum(found.sample.rejected.values())} of the {found.sample.rows} rows that were tried are rejected, more "
            f"than max_rejected_fraction={found.config.max_rejected_fraction} allows: the job would fail. Look at the "
            "examples, or give a larger max_rejected_fraction."
        )


def _core_time(work: float) -> str:
    return f"{work / 3600:.3g} core-hours" if work > 360 else f"{work:.3g} core-seconds"


def _about(number: float) -> str:
    """A number rounded to three digits; an estimate is not known better."""
    digits = max(0, len(str(round(number))) - 3)
    return f"{round(number, -digits):,.0f}"

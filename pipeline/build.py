"""The driver that builds a dataset: plan, describe, duplicates, conformers, merge, manifest.

Every step writes files that are complete or absent, and does only what is missing; the manifest is written last. After
any interruption the same command continues, and the dataset has the same bytes in the end.
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from molstream.errors import DataError, MolstreamError
from molstream.io.files import UNFINISHED, sync, write_atomically
from molstream.io.locks import exclusive
from molstream.pipeline.config import PreprocessConfig
from molstream.pipeline.executor import ray as job
from molstream.pipeline.plan import WORK, Plan, check_free, make_plan
from molstream.pipeline.readers.split import InputSplit
from molstream.pipeline.reports.card import NAME as CARD
from molstream.pipeline.reports.card import TIMING, read_timing, write_card
from molstream.pipeline.reports.progress import JobProgress
from molstream.pipeline.shards.manifest import APPENDING, Account, DroppedTable, Manifest, Shard
from molstream.pipeline.shards.manifest import NAME as MANIFEST
from molstream.pipeline.shards.reader import ShardDataset
from molstream.pipeline.stages import conformers
from molstream.pipeline.stages.bisect import Call
from molstream.pipeline.stages.decontaminate import Benchmarks
from molstream.pipeline.stages.dedup import find_duplicates, identities_of, num_buckets
from molstream.pipeline.stages.describe import describe_part, join_description, parts_to_describe, read_described
from molstream.pipeline.stages.driver import Stage, run_stage
from molstream.pipeline.stages.known import key_shard
from molstream.pipeline.stages.merge import merge_dropped
from molstream.pipeline.stages.summarize import summarize
from molstream.pipeline.stages.tally import Tally, Timing
from molstream.pipeline.stages.task import Decontamination, SplitCommit, SplitTask, read_commit
from molstream.preprocessing.descriptors import descriptor_names

BENCHMARKS = "benchmarks.npy"
STAGED = "staged"
"""Folder of the work folder with the new files of a dataset that is appended to."""


def build(config: PreprocessConfig) -> Manifest:
    """Build the dataset of a configuration, or the part of it that is missing, and return its manifest.

    Raises:
        DataError: an input cannot be used, or more rows are rejected than ``max_rejected_fraction`` allows.
        ConfigError: the output folder holds something else than this dataset, or RDKit lacks descriptors.
    """
    output = Path(config.output)
    # Before any work, since workers would find only then that their RDKit lacks some.
    descriptor_names(config.featurize.descriptors)
    check_free(output)
    with exclusive(output):
        plan = make_plan(config)
        if (output / MANIFEST).is_file():
            print(f"{output} is finished already: nothing to do", file=sys.stderr)
            _make_card(output)
        else:
            make(plan, config, None)
        if not (output / APPENDING).exists():
            shutil.rmtree(output / WORK, ignore_errors=True)
    # Opening the dataset checks that its shards exist.
    return ShardDataset(output).manifest


def make(plan: Plan, config: PreprocessConfig, base: Manifest | None) -> None:
    """Do the work that is missing and commit the dataset.

    Args:
        base: the dataset that the plan's splits are appended to; None for a new one.

    Raises:
        DataError: more rows are rejected than ``max_rejected_fraction`` allows, or no molecule is left.
    """
    output = Path(config.output)
    folder = _stage(output, base) if base else output
    first = len(base.splits) if base else 0
    tasks = _tasks(plan, config, output.resolve(), folder.resolve(), first)
    _clean(output)
    made = _Made(base)
    for task in tasks:
        if (commit := read_commit(task)) is not None:
            made.add(task.index, commit)
    # Ray is not started when all splits are committed.
    if len(made.parts) < len(tasks):
        with job.cluster(config.ray, partial(conformers.prepare_worker, tasks[0])):
            if base is not None:
                _hash_known(base, config, output.resolve())
            elif plan.benchmarks:
                _find_benchmarks(plan, config, output.resolve())
            rows = _describe(tasks, config) + (base.num_rows if base else 0)
            buckets = _find_duplicates(first + len(tasks), rows, config)
            _embed(tasks, made, buckets, config)
    dropped = merge_dropped(tasks, folder, output, base)
    counts = Account.total([account for account, _ in made.parts.values()])
    _check_rejected(counts, config.max_rejected_fraction, folder)
    if base is None:
        _check_written(counts, folder)
    _write_timing(made.timing, folder, output, base)
    if base is not None:
        _publish(folder, output)
    # The card of the dataset before an append is out of date.
    (output / CARD).unlink(missing_ok=True)
    # Workers that were killed while this driver ran have left unfinished files.
    _clean(output)
    _manifest(plan, config, tasks, made, base, dropped).write(output)
    _make_card(output)


class _Made:
    """The results of the committed splits; small for each, since a dataset may have 100,000 splits."""

    def __init__(self, base: Manifest | None):
        self.parts: dict[int, tuple[Account, Shard | None]] = {}
        self.tally = Tally.from_dict(base.to_dict()) if base else Tally()
        self.benchmarks = Counter(base.benchmarks if base else {})
        self.timing = Timing()

    def add(self, index: int, commit: SplitCommit) -> None:
        """Add the commit of the split with this index."""
        self.parts[index] = (commit.account, commit.shard)
        self.tally.update(commit.tally)
        self.benchmarks.update(commit.benchmarks)
        self.timing.update(commit.timing)


def _tasks(plan: Plan, config: PreprocessConfig, output: Path, folder: Path, first: int) -> list[SplitTask]:
    wanted = None
    if names := tuple(plan.record["benchmarks"]):
        wanted = Decontamination(config.decontaminate_by, names, str(output / BENCHMARKS))
    work = str(output / WORK)
    return [_task(index, split, config, folder, work, wanted) for index, split in enumerate(plan.splits, first)]


def _task(
    index: int, split: InputSplit, config: PreprocessConfig, folder: Path, work: str, wanted: Decontamination | None
) -> SplitTask:
    return SplitTask(
        index=index,
        split=split,
        folder=str(folder),
        work=work,
        container=config.container,
        block_rows=config.block_rows,
        duplicates=config.duplicates,
        featurize=config.featurize,
        sandbox=config.sandbox,
        decontamination=wanted,
    )


def _clean(output: Path) -> None:
    """Remove the unfinished files of killed processes."""
    for folder in (output, *(p for p in (output / WORK).rglob("*") if p.is_dir()), output / WORK):
        for stale in folder.glob(UNFINISHED):
            stale.unlink()


def _stage(output: Path, base: Manifest) -> Path:
    """The folder for the files of an append; those that an interrupted one has moved into the dataset go back."""
    folder = output / WORK / STAGED
    folder.mkdir(parents=True, exist_ok=True)
    known = {shard.name for shard in base.shards}
    for file in output.glob("shard-*"):
        if file.name not in known:
            file.rename(folder / file.name)
    return folder


def _publish(folder: Path, output: Path) -> None:
    """Move the files of an append into the dataset."""
    for file in sorted(folder.iterdir()):
        file.rename(output / file.name)
    sync(output)


# --- stages -----------------------------------------------------------------------------------------------------------


def _find_benchmarks(plan: Plan, config: PreprocessConfig, output: Path) -> None:
    """Describe the molecules of the benchmark sets like those of the input, and write the identities of each set."""
    work = output / WORK / "benchmarks"
    work.mkdir(exist_ok=True)
    # An empty table: nothing is left out of the benchmark sets, but the task says whether scaffolds are needed.
    nothing = work / "nothing.npy"
    Benchmarks.of({}).save(nothing)
    wanted = Decontamination(config.decontaminate_by, (), str(nothing))
    named = [(name, split) for name, splits in plan.benchmarks.items() for split in splits]
    # Their descriptors would be as much work as all the rest.
    plain = replace(config, featurize=replace(config.featurize, descriptors="none"))
    tasks = [_task(index, split, plain, output, str(work), wanted) for index, (_, split) in enumerate(named)]
    _describe(tasks, config, "benchmarks")
    identities: dict[str, list[str]] = {name: [] for name in plan.benchmarks}
    for task, (name, _) in zip(tasks, named, strict=True):
        identities[name] += identities_of(read_described(task), config.decontaminate_by)
    benchmarks = Benchmarks.of(identities)
    benchmarks.save(output / BENCHMARKS)
    for name, found in identities.items():
        rows = sum(split.rows for split in plan.benchmarks[name])
        print(f"benchmark {name}: {len(found)} molecules read of {rows} rows", file=sys.stderr)


def _describe(tasks: Sequence[SplitTask], config: PreprocessConfig, name: str = "describe") -> int:
    """Run stage one on all splits; returns the number of rows that are not rejected."""
    rows = sum(task.split.rows for task in tasks)
    rejected = Counter[str]()
    stage = Stage(describe_part, join_description, parts_to_describe, dict)
    with JobProgress(name, len(tasks), rows, config.log_interval_s) as progress:
        run_stage(stage, tasks, progress, lambda task, found: rejected.update(found))
    return rows - rejected.total()


def _hash_known(base: Manifest, config: PreprocessConfig, output: Path) -> None:
    """Hash the molecules that the dataset has already, which are read from its shards."""
    shards = {int(Path(shard.name).stem.split("-")[1]): shard for shard in base.shards}
    rows, folder, work = base.counts.rows_in, str(output), str(output / WORK)
    with JobProgress("known molecules", len(base.splits), rows, config.log_interval_s) as progress:
        calls = (
            Call(key_shard, (folder, work, index, name, shards.get(index), base.container, config.duplicates), name, 0)
            for index, (name, _) in enumerate(base.splits)
        )
        splits = dict(base.splits)

        def done(call: Call, result: None) -> Iterable[Call]:
            progress.advance(splits[call.name].rows_in, {}, splits=1)
            return ()

        job.run(progress.begun(calls), done, progress.tick)


def _find_duplicates(num_splits: int, rows: int, config: PreprocessConfig) -> int:
    """Write files that list the rows that are not the first of their molecule; returns the number of the files."""
    work = str(Path(config.output).resolve() / WORK)
    buckets = num_buckets(rows)
    with JobProgress("duplicates", buckets, rows, config.log_interval_s) as progress:

        def done(call: Call, duplicates: int) -> Iterable[Call]:
            progress.advance(rows // buckets, {}, splits=1)
            return ()

        calls = (
            Call(find_duplicates, (work, num_splits, bucket, buckets), f"bucket {bucket} of the duplicates", 0)
            for bucket in range(buckets)
        )
        job.run(progress.begun(calls), done, progress.tick)
    return buckets


def _embed(tasks: Sequence[SplitTask], made: _Made, buckets: int, config: PreprocessConfig) -> None:
    """Run stage two on the splits that are not in ``made`` yet, and add their commits to it."""
    rows = sum(task.split.rows for task in tasks)
    stage = Stage(
        conformers.embed_part, conformers.write_split, conformers.parts, lambda c: c.account.rejected, (buckets,)
    )
    with JobProgress("conformers", len(tasks), rows, config.log_interval_s) as progress:
        todo = [task for task in tasks if task.index not in made.parts]
        for task in tasks:
            if task.index in made.parts:
                progress.skip(task.split.rows)
        run_stage(stage, todo, progress, lambda task, commit: made.add(task.index, commit))


# --- commit -----------------------------------------------------------------------------------------------------------


def _check_rejected(counts: Account, fraction: float, folder: Path) -> None:
    """Check that the fraction of rejected rows is within its limit.

    Raises:
        DataError: it is not. The work is kept, so that the same command with a higher limit finishes at once.
    """
    rejected = sum(counts.rejected.values())
    if rejected > fraction * counts.rows_in:
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts.rejected.items())
        raise DataError(
            f"{rejected} of {counts.rows_in} rows were rejected ({reasons}), more than "
            f"max_rejected_fraction={fraction} allows. They are listed in "
            f"{folder / 'rejected.parquet'}. The work is kept: if this is what you expect, give the same command with "
            "a larger max_rejected_fraction and it finishes at once."
        )


def _check_written(counts: Account, folder: Path) -> None:
    """Check that a molecule is left.

    Raises:
        DataError: there is none.
    """
    if counts.written == 0:
        raise DataError(
            f"no molecule of {counts.rows_in} rows is left: a dataset needs one. The reasons are in "
            f"{folder / 'rejected.parquet'}."
        )


def _write_timing(timing: Timing, folder: Path, output: Path, base: Manifest | None) -> None:
    if base is not None and (before := read_timing(output)):
        timing.update(before)
    write_atomically(folder / TIMING, (json.dumps(timing.to_dict()) + "\n").encode())


def _manifest(
    plan: Plan,
    config: PreprocessConfig,
    tasks: Sequence[SplitTask],
    made: _Made,
    base: Manifest | None,
    dropped: dict[str, DroppedTable],
) -> Manifest:
    """The manifest of a dataset whose files are all in its folder."""
    parts = [(task.split.name, *made.parts[task.index]) for task in tasks]
    splits = (*(base.splits if base else ()), *((name, account) for name, account, _ in parts))
    settings = plan.record["settings"]
    shards = (*(base.shards if base else ()), *(shard for _, _, shard in parts if shard is not None))
    names = descriptor_names(config.featurize.descriptors)
    labels = partial(summarize, Path(config.output), config.container, shards)
    recorded = {name: plan.record[name] for name in ("sources", "benchmarks", "settings")}
    return Manifest(
        container=config.container,
        block_rows=config.block_rows,
        hydrogens=config.featurize.hydrogens,
        target_names=plan.target_names,
        descriptor_names=names,
        config={"featurize": settings["featurize"], **recorded},
        versions=plan.record["versions"],
        counts=Account.total([account for _, account in splits]),
        splits=splits,
        shards=shards,
        benchmarks={name: made.benchmarks[name] for name in plan.record["benchmarks"]},
        dropped=dropped,
        descriptor_statistics=labels("descriptors", names),
        target_statistics=labels("targets", plan.target_names),
        **made.tally.to_dict(),
    )


def _make_card(output: Path) -> None:
    """Write the card of a finished dataset unless it exists; if it cannot be written, a line on stderr says why."""
    if not (output / CARD).is_file():
        try:
            write_card(output)
        except (MolstreamError, OSError, ImportError) as error:
            print(f"the dataset is complete, but without a card: {error}", file=sys.stderr)
            return
    print(f"card: {output / CARD}")

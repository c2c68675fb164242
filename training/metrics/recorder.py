"""What the first process of a run does with its numbers: metrics.jsonl, the loggers, and progress for people."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from molstream.config import flatten, tree_of
from molstream.training.config import PretrainConfig
from molstream.training.distributed.context import DistributedContext
from molstream.training.metrics.config import LogConfig
from molstream.training.metrics.console import TrainingProgress
from molstream.training.metrics.loggers import LOGGERS, Delivery, RunDescription, finish_all
from molstream.training.metrics.records import MetricsWriter, Record, last_step
from molstream.training.run.directory import RunDirectory
from molstream.training.run.history import begin_launch, end_launch, read_launches


class Recorder:
    """Takes the records of a run; made by :func:`recording`."""

    def __init__(self, writer: MetricsWriter, deliveries: Sequence[Delivery], progress: TrainingProgress):
        self._writer, self._deliveries, self._progress = writer, deliveries, progress

    def write(self, record: Record) -> None:
        """Append a step's record."""
        self._writer.write(record)

    def flush(self) -> None:
        """Hand what was written to the file system and, in the background, to the loggers."""
        self._writer.flush()
        for delivery in self._deliveries:
            delivery.wake()

    def advance(self, done: int) -> None:
        """Note the steps that are done, for the live view."""
        self._progress.advance(done)

    def tell(self, mean: Record, seconds_per_step: float, memory_gib: float) -> None:
        """Tell people of an interval: the means of its records, with the step of its last."""
        self._progress.tell(mean, seconds_per_step, memory_gib)


@contextmanager
def recording(
    run: RunDirectory, config: PretrainConfig, context: DistributedContext, step: int
) -> Iterator[Recorder | None]:
    """The recorder of a launch that continues after ``step``, on the first process; None on the others."""
    if context.rank != 0:
        yield None
        return
    begin_launch(run.path, step, last_step(run.path), config.deepspeed, context)
    writer = MetricsWriter(run.path, step)
    deliveries = open_deliveries(run, config.log, step)
    for delivery in deliveries:
        delivery.start()
    ended = "failed"
    try:
        with TrainingProgress(run.path.name, config.steps, step, run.log, run.keep) as progress:
            yield Recorder(writer, deliveries, progress)
        ended = "finished" if writer.step == config.steps else "stopped"
    finally:
        writer.close()
        end_launch(run.path, ended)
        finish_all(deliveries, ended)


def open_deliveries(run: RunDirectory, config: LogConfig, restored: int) -> list[Delivery]:
    """A delivery for every logger of the configuration; see :class:`Delivery` for ``restored``."""
    description = describe(run, config.project)
    return [Delivery(name, LOGGERS[name](description), run.path, restored, run.log) for name in config.loggers]


def describe(run: RunDirectory, project: str) -> RunDescription:
    """What the loggers show of a run besides its records; from its directory alone."""
    environment = json.loads((run.path / "environment.json").read_text())
    versions = {"python": environment["python"], **environment["packages"]}
    launches = read_launches(run.path)
    return RunDescription(
        name=run.path.resolve().name,
        project=project,
        folder=run.path,
        parameters=dict(flatten(tree_of(run.config()))),
        tags={
            "molstream.dataset": run.dataset()["fingerprint"],
            **{f"molstream.version.{name}": version for name, version in versions.items()},
            **{f"molstream.launch.{k:04d}": f"step {each.step}: {each.where}" for k, each in enumerate(launches)},
        },
    )

"""Sends the records of a run to metrics.jsonl, the loggers and the console, on the first process."""

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
    """Writes the records of one launch; created by :func:`recording`.

    Args:
        writer: appends to metrics.jsonl.
        deliveries: one per logger.
        progress: the console.
    """

    def __init__(self, writer: MetricsWriter, deliveries: Sequence[Delivery], progress: TrainingProgress):
        self._writer, self._deliveries, self._progress = writer, deliveries, progress

    def write(self, record: Record) -> None:
        """Append the record of one step."""
        self._writer.write(record)

    def flush(self) -> None:
        """Flush metrics.jsonl, and wake the threads that send records to the loggers."""
        self._writer.flush()
        for delivery in self._deliveries:
            delivery.wake()

    def advance(self, done: int) -> None:
        """Set the number of steps done, for the live panel."""
        self._progress.advance(done)

    def tell(self, mean: Record, seconds_per_step: float, memory_gib: float) -> None:
        """Show and log the metrics of an interval; see :meth:`TrainingProgress.tell`."""
        self._progress.tell(mean, seconds_per_step, memory_gib)


@contextmanager
def recording(
    run: RunDirectory, config: PretrainConfig, context: DistributedContext, step: int
) -> Iterator[Recorder | None]:
    """Record a launch while the block runs, and its outcome at the end.

    Args:
        run: the run directory.
        config: loggers and length of the run.
        context: this process among its peers.
        step: number of steps done at the start.

    Yields:
        The recorder on the first process, None on the others.
    """
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
    """Create a :class:`Delivery` for each logger of the configuration.

    Args:
        run: the run directory.
        config: names the loggers and their project.
        restored: number of steps done at the start of the launch.
    """
    description = describe(run, config.project)
    return [Delivery(name, LOGGERS[name](description), run.path, restored, run.log) for name in config.loggers]


def describe(run: RunDirectory, project: str) -> RunDescription:
    """Name, parameters and tags of a run for the loggers, read from the run directory."""
    environment = run.environment()
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

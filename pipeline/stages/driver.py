"""A stage over many splits: their parts are tasks, and so is what makes a split of its parts.

The tasks are finer than the splits, so that all cores work on a small input and end together on a large one. Parts are
begun in the order of the input: at any time few splits have files of parts.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from molstream.pipeline.executor import ray as job
from molstream.pipeline.reports.progress import JobProgress
from molstream.pipeline.stages.bisect import Call
from molstream.pipeline.stages.task import SplitTask

Result = TypeVar("Result")


@dataclass(frozen=True)
class Stage(Generic[Result]):
    """What a stage does with a split."""

    part: Callable[..., dict[str, int]]
    """(task, rows, *arguments) -> number of rejected rows by reason."""
    join: Callable[..., Result]
    """(task, *arguments) -> result of the split, when all its parts are done."""
    parts: Callable[[SplitTask], list[range]]
    """The parts that a split still needs; none if it can be joined at once."""
    rejected: Callable[[Result], dict[str, int]]
    """The rejected rows of a split, by reason."""
    arguments: tuple[Any, ...] = ()


@dataclass
class _Open:
    """A split whose parts are being done."""

    left: int
    rows: int = 0
    """Rows of the parts that are done."""
    rejected: Counter[str] = field(default_factory=Counter)


def run_stage(
    stage: Stage[Result],
    tasks: Iterable[SplitTask],
    progress: JobProgress,
    done: Callable[[SplitTask, Result], None] = lambda task, result: None,
) -> None:
    """Run a stage on splits, within a cluster.

    Args:
        done: called with every split and its result, as it ends.

    Raises:
        MolstreamError, OSError: see ``executor.ray.run``.
    """
    opened: dict[int, _Open] = {}

    def join(task: SplitTask) -> Call:
        return Call(stage.join, (task, *stage.arguments), task.split.name, 0)

    def calls() -> Iterator[Call]:
        for task in tasks:
            parts = stage.parts(task)
            opened[task.index] = _Open(len(parts))
            if not parts:
                yield join(task)
            for rows in parts:
                yield Call(stage.part, (task, rows, *stage.arguments), task.split.name_of(rows), len(rows))

    def ended(call: Call, result: Any) -> Iterable[Call]:
        task: SplitTask = call.arguments[0]
        split = opened[task.index]
        if call.function is stage.part:
            progress.advance(call.rows, result)
            split.left, split.rows = split.left - 1, split.rows + call.rows
            split.rejected.update(result)
            return () if split.left else progress.begun([join(task)])
        # What the parts have not told: a split that was done before, or what an earlier stage rejected.
        del opened[task.index]
        progress.advance(task.split.rows - split.rows, Counter(stage.rejected(result)) - split.rejected, splits=1)
        done(task, result)
        return ()

    job.run(progress.begun(calls()), ended, progress.tick)

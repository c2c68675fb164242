"""History of a run's launches in launches.json: first step, processes and outcome of each."""

import json
import platform
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from molstream.io.files import write_atomically
from molstream.io.reading import Moment, Natural, read_json
from molstream.training.distributed.context import DistributedContext
from molstream.training.engine.engine import EngineConfig

FILE = "launches.json"


@dataclass(frozen=True)
class Launch:
    """One launch: the processes of a run from their start to their end."""

    step: Natural
    """Number of steps that were done when the launch began."""
    time: Moment
    """Time of the start, in seconds since 1970."""
    world_size: Annotated[int, Field(ge=1, lt=2**31)]
    """Number of processes."""
    zero_stage: Natural
    precision: str
    device: str
    host: str
    """Host name of the first process."""
    recorded: Natural
    """Newest step in metrics.jsonl at the start; steps after `step` up to this one are repeated."""
    ended: str | None = None
    """finished, stopped (by a signal or `stop_at`) or failed; None while it runs, and if it was killed."""
    end_time: Moment | None = None
    """Time of the end, in seconds since 1970; None like `ended`."""

    @property
    def where(self) -> str:
        """World size, ZeRO stage, precision and device in one phrase, for reports."""
        processes = "1 process" if self.world_size == 1 else f"{self.world_size} processes"
        return f"{processes}, ZeRO {self.zero_stage}, {self.precision}, {self.device}"


def begin_launch(folder: Path, step: int, recorded: int, config: EngineConfig, context: DistributedContext) -> None:
    """Append a launch to the history.

    Args:
        folder: the run directory.
        step: number of steps that are done.
        recorded: newest step in metrics.jsonl.
        config: ZeRO stage and precision.
        context: world size and device.
    """
    launch = Launch(
        step=step,
        time=time.time(),
        world_size=context.world_size,
        zero_stage=config.zero_stage,
        precision=config.precision,
        device=context.device.type,
        host=platform.node(),
        recorded=max(step, recorded),
    )
    _write(folder, [*read_launches(folder), launch])


def end_launch(folder: Path, ended: str) -> None:
    """Set the outcome of the newest launch: finished, stopped or failed."""
    *before, last = read_launches(folder)
    _write(folder, [*before, replace(last, ended=ended, end_time=time.time())])


def read_launches(folder: Path) -> list[Launch]:
    """Launches of a run, oldest first; empty for runs of versions of molstream that kept no history.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return []
    advice = "Restore it from a copy of the run, or remove it: the run can be continued without its history."
    known = {each.name for each in fields(Launch)}
    entries = read_json(path, [Launch], advice)
    return [Launch(**{name: value for name, value in entry.items() if name in known}) for entry in entries]


def _write(folder: Path, launches: list[Launch]) -> None:
    entries = [asdict(launch) for launch in launches]
    write_atomically(folder / FILE, (json.dumps(entries, indent=1) + "\n").encode())

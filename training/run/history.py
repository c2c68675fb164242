"""The launches of a run: every start of its processes, from which step, on how many of them, and how it ended."""

import json
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from molstream.io.files import write_atomically
from molstream.training.distributed.context import DistributedContext
from molstream.training.engine.engine import EngineConfig

FILE = "launches.json"


@dataclass(frozen=True)
class Launch:
    """One start of a run's processes."""

    step: int
    """Steps that were done when it began."""
    time: float
    """When it began, in seconds since 1970."""
    world_size: int
    """Processes."""
    zero_stage: int
    precision: str
    device: str
    host: str
    """Name of the machine of the first process."""
    recorded: int
    """Newest step that the launches before it had recorded; those after `step` are done a second time."""
    ended: str | None = None
    """finished, stopped (by a signal or `stop_at`) or failed; None while it runs, and where it died."""
    end_time: float | None = None
    """When it ended, in seconds since 1970."""

    @property
    def where(self) -> str:
        """On what it ran, in a few words."""
        processes = "1 process" if self.world_size == 1 else f"{self.world_size} processes"
        return f"{processes}, ZeRO {self.zero_stage}, {self.precision}, {self.device}"


def begin_launch(folder: Path, step: int, recorded: int, config: EngineConfig, context: DistributedContext) -> None:
    """Record that the processes of a run begin after ``step``; ``recorded`` is the newest step of metrics.jsonl."""
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
    """Record how the launch that began last has ended."""
    *before, last = read_launches(folder)
    _write(folder, [*before, replace(last, ended=ended, end_time=time.time())])


def read_launches(folder: Path) -> list[Launch]:
    """The launches of a run, oldest first; none of a run that an earlier molstream made."""
    path = folder / FILE
    return [Launch(**entry) for entry in json.loads(path.read_text())] if path.exists() else []


def _write(folder: Path, launches: list[Launch]) -> None:
    entries = [asdict(launch) for launch in launches]
    write_atomically(folder / FILE, (json.dumps(entries, indent=1) + "\n").encode())

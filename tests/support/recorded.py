"""Run directories with records but without training."""

from pathlib import Path

from molstream.training.metrics.loggers import RunDescription
from molstream.training.metrics.records import MetricsWriter, Record


def record(step: int, offset: float = 0.0) -> Record:
    """Create the record of a step; its values encode the step, and by ``offset`` the launch."""
    return {"step": step, "time": 1.7e9 + step, "train/loss": 10.0 / step + offset, "optim/grad_norm": float(step)}


def write_records(folder: Path, first: int, last: int, offset: float = 0.0) -> None:
    """Write the records ``first`` to ``last``, as a launch that resumes after ``first - 1``."""
    folder.mkdir(exist_ok=True)
    writer = MetricsWriter(folder, first - 1)
    for step in range(first, last + 1):
        writer.write(record(step, offset))
    writer.close()


def description(folder: Path, **tags: str) -> RunDescription:
    """Create the description of a run that loggers get."""
    parameters = {"model.name": "tiny", "steps": 12, "optim.lr": 3e-4, "init_from": None}
    return RunDescription(folder.name, "molecules", folder, parameters, {"molstream.dataset": "f00d", **tags})


class Messages:
    """Callback that collects messages in ``lines``."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str) -> None:
        self.lines.append(text)

    def __contains__(self, text: str) -> bool:
        return any(text in line for line in self.lines)

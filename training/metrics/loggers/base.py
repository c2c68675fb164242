"""What a logger is, and what it is told of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from molstream.errors import MolstreamError
from molstream.training.metrics.records import Record

GRACE_S = 20
"""Seconds that the end of a run waits for its loggers: a scheduler that asks a job to stop waits about 30."""

Value = bool | int | float | str | None


class LoggerError(MolstreamError):
    """A logger cannot take records now. The text holds no address and no secret: it goes to log.txt."""


@dataclass(frozen=True)
class RunDescription:
    """What a logger shows of a run besides its records."""

    name: str
    """Name of the run directory."""
    project: str
    """Experiment of MLflow, project of W&B."""
    folder: Path
    """The run directory."""
    parameters: dict[str, Value]
    """The configuration that the run was started with, by dotted key."""
    tags: dict[str, str]
    """Dataset fingerprint, versions, and on what each launch ran."""


class Logger(Protocol):
    """A place that shows the records of a run.

    One thread calls its methods, which may block. They raise :class:`LoggerError` where the world outside is at fault;
    after that the logger is opened again. Records come in order; after a crash some may come a second time.
    """

    rewinds: ClassVar[bool]
    """Whether it can drop what was recorded after a step. One that cannot keeps the first record of a step."""
    later: ClassVar[str]
    """Command that hands over what is missing, once the run is over; `{run}` is the run directory."""

    def __init__(self, run: RunDescription) -> None: ...

    @staticmethod
    def check() -> None:
        """Make sure, before anything starts, that its package and its part of the environment are there.

        Raises:
            ConfigError: they are not.
        """
        ...

    def open(self, run_id: str, step: int) -> int:
        """Begin, or go on with, the run of this id, which has the records up to ``step``; 0 if it turns out to be new.

        Args:
            run_id: made once per run and logger; opening it again finds the same run.
            step: from here on records follow; a logger that rewinds drops what it has beyond.
        """
        ...

    def write(self, records: Sequence[Record]) -> None:
        """Take records; when it returns they are safe from a crash of this process."""
        ...

    def close(self, ended: str) -> None:
        """The run is over for now: finished, stopped or failed."""
        ...


def kinds(error: BaseException) -> str:
    """The kinds of an error and of its causes; their texts are left out, for they hold addresses."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    return " from ".join(dict.fromkeys(type(link).__name__ for link in chain))

"""Interface of a logger, and the description of a run that it receives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from molstream.errors import MolstreamError
from molstream.training.metrics.records import Record

GRACE_S = 20
"""Seconds that a run waits for its loggers at its end; schedulers kill a job about 30 s after they ask it to stop."""

Value = bool | int | float | str | None


class LoggerError(MolstreamError):
    """A logger cannot take records now. The message must contain no address and no secret: it goes to log.txt."""


@dataclass(frozen=True)
class RunDescription:
    """Name, configuration and tags of a run, which loggers show with its records."""

    name: str
    """Name of the run directory."""
    project: str
    """Experiment of MLflow, project of W&B."""
    folder: Path
    """The run directory."""
    parameters: dict[str, Value]
    """Configuration of the run, by dotted key."""
    tags: dict[str, str]
    """Dataset fingerprint, package versions, and the processes of each launch."""


class Logger(Protocol):
    """Interface of a logger, which sends the records of a run to a file or server.

    One thread calls its methods, which may block. They raise :class:`LoggerError` if the file system or the server
    fails; the logger is then opened again. Records come in order; after a crash some may come twice.
    """

    rewinds: ClassVar[bool]
    """Whether the logger can remove records after a step. One that cannot keeps the first record of each step."""
    later: ClassVar[str]
    """Command that sends missing records after the run; `{run}` stands for the run directory."""

    def __init__(self, run: RunDescription) -> None: ...

    @staticmethod
    def check() -> None:
        """Check that the logger's package is installed and its environment variables are set.

        Raises:
            ConfigError: the package or a variable is missing.
        """
        ...

    def open(self, run_id: str, step: int) -> int:
        """Create the run, or continue it.

        Args:
            run_id: unique for a run and logger; the same run is found by it again.
            step: the logger has the records up to this step; one that rewinds removes later ones.

        Returns:
            Step after which records are to be sent: ``step``, less if the server lost some, 0 for a new run.
        """
        ...

    def write(self, records: Sequence[Record]) -> None:
        """Write records; when this returns, they survive a crash of this process."""
        ...

    def close(self, ended: str) -> None:
        """Close the run with its outcome: finished, stopped or failed."""
        ...


def kinds(error: BaseException) -> str:
    """Class names of an error and its causes, without their messages, which may contain addresses."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    return " from ".join(dict.fromkeys(type(link).__name__ for link in chain))

"""Logger that writes TensorBoard events to the run directory."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from molstream.errors import ConfigError
from molstream.training.metrics.loggers.base import LoggerError, RunDescription, kinds
from molstream.training.metrics.records import NOT_METRICS, Record

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardLogger:
    """Writes events to ``tensorboard/``, one file per launch; TensorBoard hides steps that a later launch repeats."""

    rewinds: ClassVar[bool] = True
    later: ClassVar[str] = "molstream sync run_dir={run}"

    def __init__(self, run: RunDescription):
        self._run = run
        self._folder = run.folder / "tensorboard"
        self._events: SummaryWriter | None = None

    @staticmethod
    def check() -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigError("log.loggers names tensorboard, which is not installed: pip install 'molstream[train]'.")

    def open(self, run_id: str, step: int) -> int:
        from torch.utils.tensorboard import SummaryWriter

        with _disk():
            step = step if self._folder.is_dir() else 0
            self._events = SummaryWriter(str(self._folder), purge_step=step + 1)
            if step == 0:
                lines = (f"    {key}: {value}" for key, value in self._run.parameters.items())
                self._events.add_text("config", "\n".join(lines), 0)
        return step

    def write(self, records: Sequence[Record]) -> None:
        assert self._events is not None
        with _disk():
            for record in records:
                for name in record.keys() - NOT_METRICS:
                    self._events.add_scalar(name, record[name], int(record["step"]), record.get("time"))
            self._events.flush()

    def close(self, ended: str) -> None:
        assert self._events is not None
        with _disk():
            self._events.close()


@contextmanager
def _disk() -> Iterator[None]:
    """Convert errors of the file system into :class:`LoggerError`."""
    try:
        yield
    except OSError as error:
        raise LoggerError(kinds(error)) from error

"""How a job tells what it does: a live bar on a terminal, one parsable line per interval elsewhere."""

import sys
import time
from collections import Counter

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class JobProgress:
    """Progress of one stage over its splits, on stderr; a context manager.

    Args:
        stage: name for people.
        splits, rows: what there is to do in all.
        interval_s: seconds between lines where stderr is no terminal.
    """

    def __init__(self, stage: str, splits: int, rows: int, interval_s: float):
        self._stage, self._splits, self._rows, self._interval = stage, splits, rows, interval_s
        self._done_splits = self._done_rows = self._skipped_rows = 0
        self._rejected: Counter[str] = Counter()
        self._bar: Progress | None = None

    def __enter__(self) -> "JobProgress":
        self._started = self._printed = time.monotonic()
        if sys.stderr.isatty():
            columns = ("{task.description}", BarColumn(), TextColumn("{task.fields[text]}"))
            from rich.console import Console

            self._bar = Progress(
                *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(file=sys.stderr), transient=True
            )
            self._task = self._bar.add_task(self._stage, total=self._rows, text="")
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        print(self.line(), file=sys.stderr, flush=True)

    def skip(self, rows: int) -> None:
        """Note a split that was done before; it does not count towards the speed."""
        self._skipped_rows += rows
        self.advance(rows, {})

    def advance(self, rows: int, rejected: dict[str, int]) -> None:
        """Note that a split is done."""
        self._done_splits, self._done_rows = self._done_splits + 1, self._done_rows + rows
        self._rejected.update(rejected)
        self.tick()

    def tick(self) -> None:
        """Show where the stage stands, if it is time to."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done_rows, text=self._numbers())
        elif time.monotonic() - self._printed >= self._interval:
            self._printed = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """The state in one line of fixed order."""
        speed = self._speed()
        left = self._rows - self._done_rows
        eta = time.strftime("%H:%M:%S", time.gmtime(left / speed)) if speed and left else "-"
        return f"{self._stage}  {self._numbers()}  eta {eta}"

    def _numbers(self) -> str:
        rejected = " ".join(f"{reason}={count}" for reason, count in sorted(self._rejected.items())) or "0"
        return (
            f"splits {self._done_splits}/{self._splits}  molecules {self._done_rows}/{self._rows}  "
            f"{self._speed():.1f} mol/s  rejected {rejected}"
        )

    def _speed(self) -> float:
        seconds = time.monotonic() - self._started
        return (self._done_rows - self._skipped_rows) / seconds if seconds else 0.0

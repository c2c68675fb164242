"""Progress of a job: a live panel on a terminal, one parsable line per interval elsewhere."""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

WIDTH = 80
"""Most columns of the panel."""

RECENT_S = 60.0
"""Seconds that the recent speed is measured over; where tasks take longer, it is that of the last task."""

Call = TypeVar("Call")


class JobProgress:
    """Progress of one stage over its splits and their molecules, on stderr; a context manager.

    Args:
        stage: name of the stage, as shown.
        splits, rows: totals of the stage.
        interval_s: seconds between lines if stderr is no terminal.
        clock: a clock that only goes forward, in seconds.
    """

    def __init__(
        self, stage: str, splits: int, rows: int, interval_s: float, clock: Callable[[], float] = time.monotonic
    ):
        self._stage, self._splits, self._rows, self._interval = stage, splits, rows, interval_s
        self._clock = clock
        self._done_splits = self._done_rows = self._skipped_rows = self._in_flight = 0
        self._rejected: Counter[str] = Counter()
        self._live: Live | None = None
        self._spinner = Spinner("dots")

    def __enter__(self) -> "JobProgress":
        self._started = self._printed = self._clock()
        # When tasks were done, with their rows; the first is where the recent speed is counted from.
        self._ends = deque([(self._started, 0)])
        if sys.stderr.isatty():
            live = Live(self, console=Console(file=sys.stderr), transient=True, refresh_per_second=4)
            live.start()
            self._live = live
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()
        print(self.line(), file=sys.stderr, flush=True)

    def begun(self, calls: Iterable[Call]) -> Iterator[Call]:
        """The same calls, counted as they are taken, so that the number of tasks in flight is known."""
        for call in calls:
            self._in_flight += 1
            yield call

    def skip(self, rows: int) -> None:
        """Count a split that was done by an earlier run; it does not count towards the speed."""
        self._done_splits, self._done_rows = self._done_splits + 1, self._done_rows + rows
        self._skipped_rows += rows

    def advance(self, rows: int, rejected: Mapping[str, int], splits: int = 0) -> None:
        """Count a task that is done.

        Args:
            rows: that are done with it.
            rejected: of them, by reason.
            splits: that are done with it.
        """
        self._in_flight -= 1
        self._done_splits, self._done_rows = self._done_splits + splits, self._done_rows + rows
        self._rejected.update(rejected)
        self._ends.append((self._clock(), rows))
        self.tick()

    def tick(self) -> None:
        """Print a line if the interval has passed; the panel refreshes by itself."""
        if self._live is None and self._clock() - self._printed >= self._interval:
            self._printed = self._clock()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """The progress in one line, whose fields are always in the same order."""
        rejected = " ".join(f"{reason}={count}" for reason, count in sorted(self._rejected.items())) or "0"
        return (
            f"{self._stage}  splits {self._done_splits}/{self._splits}  molecules {self._done_rows}/{self._rows}  "
            f"{self.mean_speed():.1f} mol/s  rejected {rejected}  eta {self._eta(self.mean_speed())}"
        )

    def mean_speed(self) -> float:
        """Molecules per second since the stage began in this process."""
        elapsed = self._clock() - self._started
        return (self._done_rows - self._skipped_rows) / elapsed if elapsed else 0.0

    def recent_speed(self) -> float:
        """Molecules per second in the last minute; if no task ended in it, since the last task but one."""
        now = self._clock()
        while len(self._ends) > 2 and self._ends[1][0] <= now - RECENT_S:
            self._ends.popleft()
        rows = sum(rows for _, rows in self._ends) - self._ends[0][1]
        elapsed = now - self._ends[0][0]
        return rows / elapsed if elapsed else 0.0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The panel; its lines are cut rather than wrapped."""
        percent = 100 * self._done_rows / self._rows if self._rows else 100.0
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(width=1)
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        ends = f"{percent:.1f} %  eta {self._eta(self.recent_speed())}"
        bar.add_row(self._spinner, ProgressBar(max(1, self._rows), self._done_rows), ends)
        lines = (
            f"molecules {self._done_rows:,} of {self._rows:,}   shards {self._done_splits:,}/{self._splits:,}   "
            f"tasks in flight {self._in_flight:,}",
            f"molecules/s {self.recent_speed():,.1f} in the last minute, {self.mean_speed():,.1f} in the mean",
            f"rejected {sum(self._rejected.values()):,}  "
            + "  ".join(f"{reason} {count:,}" for reason, count in self._rejected.most_common()),
        )
        body = Group(bar, *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))
        title = f"{self._stage}  {clock_time(self._clock() - self._started)}"
        yield Panel(body, title=title, title_align="left", width=min(WIDTH, options.max_width))

    def _eta(self, speed: float) -> str:
        left = self._rows - self._done_rows
        return clock_time(left / speed) if speed and left > 0 else "-"


def clock_time(seconds: float) -> str:
    """``HH:MM:SS``, with as many hours as there are."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"

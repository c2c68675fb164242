"""Progress on stderr: a live display on a terminal, otherwise one parsable line per interval."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress import Progress
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from molstream.pipeline.reports.progress import WIDTH, clock_time
from molstream.training.metrics.records import Record, eta_text, log_line, losses_text, rates_text

LONG_S = 2.0
"""Seconds after which a call from Python shows how far it is."""


@contextmanager
def progress(what: str, total: int, interval_s: float = 10.0) -> Iterator[Callable[[float], None]]:
    """Show the progress of a task.

    Args:
        what: name of the items that are counted.
        total: number of items.
        interval_s: seconds between lines, if stderr is not a terminal.

    Yields:
        A function that takes the number of items done so far, which may be fractional.
    """
    if sys.stderr.isatty():
        with Progress(console=Console(file=sys.stderr), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    started = printed = time.monotonic()
    latest = 0.0

    def line() -> str:
        elapsed = time.monotonic() - started
        speed = latest / elapsed if elapsed else 0.0
        eta = clock_time((total - latest) / speed) if speed else "-"
        return f"{what}  {latest:.1f}/{total}  {speed:.2f} per s  eta {eta}"

    def tell(done: float) -> None:
        nonlocal printed, latest
        latest = done
        if time.monotonic() - printed >= interval_s:
            printed = time.monotonic()
            print(line(), file=sys.stderr, flush=True)

    yield tell
    print(line(), file=sys.stderr, flush=True)


@contextmanager
def progress_when_long(what: str, total: int) -> Iterator[Callable[[float], None]]:
    """Show the progress of a call from Python: a bar on a terminal once it has taken LONG_S, otherwise nothing.

    Args:
        what: name of the items that are counted.
        total: number of items.

    Yields:
        A function that takes the number of items done so far.
    """
    started, bars = time.monotonic(), list[Callable[[float], None]]()
    with ExitStack() as stack:

        def tell(done: float) -> None:
            if not bars and sys.stderr.isatty() and time.monotonic() - started >= LONG_S:
                bars.append(stack.enter_context(progress(what, total)))
            for bar in bars:
                bar(done)

        yield tell


class TrainingProgress:
    """Context manager that shows the progress of a run: a live panel on a terminal, otherwise log lines.

    Args:
        name: name of the run.
        steps: length of the run in steps.
        done: number of steps done at the start.
        log: prints a line and appends it to log.txt.
        keep: appends a line to log.txt only.
    """

    def __init__(self, name: str, steps: int, done: int, log: Callable[[str], None], keep: Callable[[str], None]):
        self._name, self._steps, self._done = name, steps, done
        self._log, self._keep = log, keep
        self._live: Live | None = None
        self._interval: tuple[Record, float, float] | None = None
        self._started = time.monotonic()

    def __enter__(self) -> "TrainingProgress":
        if sys.stderr.isatty():
            # Lines that are printed while the panel is shown appear above it.
            self._live = Live(self, console=Console(file=sys.stderr), transient=True, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is None:
            return
        self._live.stop()
        if self._interval is not None:
            print(self._line(*self._interval), file=sys.stderr, flush=True)

    def advance(self, done: int) -> None:
        """Set the number of steps done."""
        self._done = done

    def tell(self, mean: Record, seconds_per_step: float, memory_gib: float) -> None:
        """Show and log the metrics of an interval.

        Args:
            mean: means of the interval's records, with the step of the last one.
            seconds_per_step: mean duration of a step.
            memory_gib: peak memory of this process in GiB.
        """
        self._interval = mean, seconds_per_step, memory_gib
        say = self._log if self._live is None else self._keep
        say(self._line(*self._interval))

    def _line(self, mean: Record, seconds_per_step: float, memory_gib: float) -> str:
        return log_line(mean, self._steps, seconds_per_step, memory_gib)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the panel, at most as wide as the terminal."""
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        seconds = self._interval[1] if self._interval else 0.0
        percent = 100 * self._done / self._steps
        ends = (
            f"step {self._done:,}/{self._steps:,}  {percent:.1f} %  eta {eta_text(self._steps - self._done, seconds)}"
        )
        bar.add_row(ProgressBar(self._steps, self._done), ends)
        body = Table.grid(expand=True)
        body.add_row(bar)
        if self._interval is not None:
            mean, _, memory = self._interval
            for text in (losses_text(mean), rates_text(mean, memory)):
                body.add_row(Text(text, overflow="fold"))
        title = f"{self._name}  {clock_time(time.monotonic() - self._started)}"
        yield Panel(body, title=title, title_align="left", width=min(WIDTH, options.max_width))

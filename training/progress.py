"""How a command tells how far it is: a bar on a terminal, one parsable line per interval elsewhere; on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def told(what: str, total: int, interval_s: float = 10.0) -> Iterator[Callable[[float], None]]:
    """A function to be told how many of ``total`` things of the kind ``what`` are done; fractions count."""
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
        eta = time.strftime("%H:%M:%S", time.gmtime((total - latest) / speed)) if speed else "-"
        return f"{what}  {latest:.1f}/{total}  {speed:.2f} per s  eta {eta}"

    def tell(done: float) -> None:
        nonlocal printed, latest
        latest = done
        if time.monotonic() - printed >= interval_s:
            printed = time.monotonic()
            print(line(), file=sys.stderr, flush=True)

    yield tell
    print(line(), file=sys.stderr, flush=True)

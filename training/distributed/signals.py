"""Signals that ask a run to stop after its step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""The end of a job, Ctrl-C, and the warning that Slurm is told to send before it ends a job."""


class Stop:
    """Whether a signal has asked this process to stop."""

    requested = False


@contextmanager
def graceful_stop() -> Iterator[Stop]:
    """SIGTERM, SIGINT and SIGUSR1 ask for a stop after the step; a second SIGINT, Ctrl-C again, acts at once.

    The others may come any number of times: launchers repeat them to processes that got them already.
    """
    stop = Stop()

    def ask(number: int, frame: object) -> None:
        if number == signal.SIGINT:
            signal.signal(number, previous[signal.SIGINT])
        stop.requested = True

    previous = {number: signal.signal(number, ask) for number in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

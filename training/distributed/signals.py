"""Signals that make a run save and stop after its current step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Sent at the end of a job, by Ctrl-C, and by Slurm's ``--signal`` before a job's time limit."""


class Stop:
    """Whether a signal has asked this process to stop."""

    requested = False


@contextmanager
def graceful_stop() -> Iterator[Stop]:
    """While the block runs, SIGTERM, SIGINT and SIGUSR1 set ``requested`` of the :class:`Stop` that it gets.

    A second SIGINT, such as a second Ctrl-C, interrupts at once. Repeated SIGTERM and SIGUSR1 have no further effect,
    because launchers send them more than once. Only the main thread takes signals: in another one, nothing is changed
    and nothing requested.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

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

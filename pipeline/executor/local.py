"""The processes of a Ray on this machine: what they inherit, how they end, and an interrupt that always works."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "MOLSTREAM_RAY"
"""Environment variable by which the processes of one Ray are known, whatever they call themselves."""

GRACE_S = 3.0
"""Seconds that an interrupted start has to end by itself: Ray's C++ may hold the main thread for half a minute."""

INTERRUPTED = 130
"""Exit code of an interrupted process."""


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that the body starts, then restore the old values."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def end_processes(mark: str) -> None:
    """SIGKILL every other process of ours that was started with this value of MARK, and those that it starts."""
    wanted = f"{MARK}={mark}".encode()
    while found := [pid for pid in _processes() if wanted in _environment_of(pid)]:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _processes() -> list[int]:
    return [int(f.name) for f in Path("/proc").glob("[0-9]*") if int(f.name) != os.getpid()]


def _environment_of(pid: int) -> list[bytes]:
    """The environment that a process began with; empty for one that ended, or that is not ours."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


@contextmanager
def interruptible(end: Callable[[], None]) -> Iterator[None]:
    """Have SIGINT and SIGTERM end the body, even if it swallows exceptions or keeps the main thread in C++.

    Python handles signals in the main thread, between its instructions. If that does not end the body within GRACE_S,
    another thread ends the process with exit code 130.

    Args:
        end: is called before that; must not need the main thread.

    Raises:
        KeyboardInterrupt: there was a signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    over, interrupted = threading.Event(), threading.Event()

    def watch() -> None:
        while signals := ours.recv(1):
            if signals[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            interrupted.set()
            if not over.wait(GRACE_S):
                end()
                print("interrupted while Ray started; run the same command again", file=sys.stderr, flush=True)
                os._exit(INTERRUPTED)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        theirs.close()
        watcher.join()
        ours.close()
        if interrupted.is_set():
            raise KeyboardInterrupt

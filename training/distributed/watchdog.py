"""The watchdog, which ends a process whose step takes too long and writes down where it hung."""

import faulthandler
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from molstream.training.distributed.context import DistributedContext

BACKSTOP_S = 30.0
"""Seconds after the deadline at which the process ends even if no other Python thread can run."""


def describe_process(context: DistributedContext) -> str:
    """Rank, world size, host and process id of this process, for messages."""
    return f"rank {context.rank} of {context.world_size} on {socket.gethostname()} (process {os.getpid()})"


class Watchdog:
    """Ends this process if a step does not end in time, because the process or one of its peers hangs.

    It writes the stacks of all threads to ``FOLDER/stacks/rank_NNNN.txt`` and exits with code 1, without leaving the
    process group, since that waits for peers that may hang. The launcher then ends the other processes. To an exception
    that leaves the block it adds a note with the rank and the step.

    Args:
        folder: the run directory.
        seconds: maximum duration of a step and the checkpoint after it.
        context: this process among its peers.
    """

    def __init__(self, folder: Path, seconds: float, context: DistributedContext):
        self._stacks = folder / "stacks" / f"rank_{context.rank:04d}.txt"
        self._seconds, self._process = seconds, describe_process(context)
        self._step, self._deadline = 0, float("inf")
        self._over = threading.Event()

    def __enter__(self) -> "Watchdog":
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._over.set()
        faulthandler.cancel_dump_traceback_later()
        if error is not None:
            error.add_note(f"{self._process}, in step {self._step}")

    def begin(self, step: int) -> None:
        """Start the clock of step number ``step``, counted from 1; the step before it is done."""
        self._step, self._deadline = step, time.monotonic() + self._seconds
        # If the main thread holds the GIL, the watchdog's thread cannot run: this timer writes the stacks to stderr.
        if stream := _with_descriptor(sys.stderr, sys.__stderr__):
            faulthandler.dump_traceback_later(self._seconds + BACKSTOP_S, exit=True, file=stream)

    def _watch(self) -> None:
        # Act exactly at the deadline: a collective of this step, which began later, times out after as many seconds.
        while not self._over.wait(max(0.0, min(1.0, self._deadline - time.monotonic()))):
            if time.monotonic() >= self._deadline:
                self._stacks.parent.mkdir(exist_ok=True)
                with self._stacks.open("a", encoding="utf-8") as file:
                    file.write(f"{time.strftime('%F %T')} {self._process}, in step {self._step}\n")
                    file.flush()
                    faulthandler.dump_traceback(file)
                print(
                    f"error: {self._process}: step {self._step} is not done after {self._seconds:g} s; the process "
                    f"exits. {self._stacks.parent} has the stacks of every rank: the rank that is not in a collective "
                    "is the one that hangs; a rank without a file is stopped or cut off. Run the same command again to "
                    "resume from the last checkpoint; if steps are that slow, raise deepspeed.timeout_s.",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)


def _with_descriptor(*streams: TextIO | None) -> TextIO | None:
    """The first stream with a file descriptor, which those of a notebook or of a redirection may lack."""
    for stream in streams:
        if stream is not None:
            with suppress(AttributeError, OSError, ValueError):
                stream.fileno()
                return stream
    return None

"""How a rank ends otherwise than by finishing: asked by a signal, or because a step takes far too long."""

import faulthandler
import os
import socket
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from molstream.training.distributed.context import DistributedContext

BACKSTOP_S = 30.0


def describe_process(context: DistributedContext) -> str:
    """This rank among its peers, for messages."""
    return f"rank {context.rank} of {context.world_size} on {socket.gethostname()} (process {os.getpid()})"


class Watchdog:
    """Ends this process when a step does not end: a hung process, or one that waits for a hung peer, tells where.

    The stacks of all threads go to ``FOLDER/stacks/rank_NNNN.txt`` and the process exits with 1, without a goodbye to
    its peers, which may never answer; the launcher then ends the others. An exception that leaves the block is given a
    note that names the rank and the step.

    Args:
        folder: the run directory.
        seconds: how long a step, with the checkpoint after it, may take.
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
        """Step number ``step``, counted from 1, begins now; the one before it is done."""
        self._step, self._deadline = step, time.monotonic() + self._seconds
        # For a process that does not let any other thread of Python run: then its stacks go to stderr.
        faulthandler.dump_traceback_later(self._seconds + BACKSTOP_S, exit=True)

    def _watch(self) -> None:
        # To the moment: before a collective of this step, which began later, gives up after as many seconds.
        while not self._over.wait(max(0.0, min(1.0, self._deadline - time.monotonic()))):
            if time.monotonic() >= self._deadline:
                self._stacks.parent.mkdir(exist_ok=True)
                with self._stacks.open("a") as file:
                    file.write(f"{time.strftime('%F %T')} {self._process}, in step {self._step}\n")
                    file.flush()
                    faulthandler.dump_traceback(file)
                print(
                    f"error: {self._process}: step {self._step} is not done after {self._seconds:g} s, so the process "
                    f"ends itself. Where every rank stood is in {self._stacks.parent}: one that is not in a collective "
                    "is the one that hangs; one without a file is stopped or cut off. The same command continues from "
                    "the last checkpoint; if the steps are that slow, raise deepspeed.timeout_s.",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)

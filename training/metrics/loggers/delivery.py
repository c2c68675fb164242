"""Sends records from metrics.jsonl to a logger, in order, in a background thread."""

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from molstream.errors import DataError
from molstream.io.files import write_atomically
from molstream.io.reading import Natural, read_json
from molstream.training.metrics.loggers.base import GRACE_S, Logger, LoggerError, kinds
from molstream.training.metrics.records import MetricsReader, last_step

BATCH = 100
"""Maximum number of records per call of a logger's ``write``."""
RETRY_S, LONGEST_RETRY_S = 1.0, 60.0
"""Seconds before the first retry, doubled for each further one, and their maximum."""
_RUN_ID = re.compile(r"[0-9a-f]{32}")
"""What ``uuid4().hex`` gives. W&B's folder is named by it."""


class Delivery:
    """Sends the records of metrics.jsonl to one logger, and stores the step that it reached in ``loggers/NAME.json``.

    metrics.jsonl serves as the queue: it takes no memory and survives a crash of the server or of this process. Records
    that a logger missed, because it was down or was configured later, are sent when it is available. Training never
    waits for a logger.

    Args:
        name: name of the logger in the table.
        logger: the logger.
        folder: the run directory, which has a metrics.jsonl.
        restored: number of steps done at the start of this launch; a logger that rewinds removes later records.
        say: called with a message when the logger fails, when it is available again, and if records are missing at the
            end.
    """

    def __init__(self, name: str, logger: Logger, folder: Path, restored: int, say: Callable[[str], None]):
        self._name, self._sink, self._folder, self._say = name, logger, folder, say
        self._state = folder / "loggers" / f"{name}.json"
        state = {"run_id": uuid.uuid4().hex, "step": 0}
        if self._state.exists():
            advice = "Remove it: all records are then sent again, as those of a new run."
            state = read_json(self._state, {"run_id": str, "step": Natural}, advice)
            if not _RUN_ID.fullmatch(state["run_id"]):
                raise DataError(
                    f"{self._state} cannot be used: run_id={state['run_id']!r}, expected 32 hexadecimal digits. "
                    f"{advice}"
                )
        self._run_id: str = state["run_id"]
        self.step: int = min(state["step"], restored) if logger.rewinds else state["step"]
        """Step up to which the logger has records."""
        self._ended = ""
        self._wake, self._closing, self._closed = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._deliver, name=f"logger-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._state.parent.mkdir(exist_ok=True)
        # Store the id before the logger gets it, so that it is the same after a crash.
        self._remember(self.step)
        self._thread.start()

    def wake(self) -> None:
        """Wake the thread, after records were added to metrics.jsonl."""
        self._wake.set()

    def finish(self, ended: str) -> None:
        """Tell the thread that metrics.jsonl is complete.

        Args:
            ended: outcome of the run: finished, stopped or failed.
        """
        self._ended = ended
        self._closing.set()
        self._wake.set()

    def wait(self, until: float) -> bool:
        """Wait for the thread until ``time.monotonic()`` is ``until``; returns whether all records are sent."""
        self._thread.join(max(0.0, until - time.monotonic()))
        if not self._closed.is_set():
            self._say(
                f"{self._name} has confirmed the records up to step {self.step} of {last_step(self._folder)}; "
                f"metrics.jsonl has all of them. To send the rest: {self._sink.later.format(run=self._folder)}"
            )
        return self._closed.is_set()

    def _deliver(self) -> None:
        reader: MetricsReader | None = None
        delay, failed_at = RETRY_S, -1
        while True:
            # Read this first: records that were written before the end are then seen below.
            closing = self._closing.is_set()
            try:
                if reader is None:
                    self.step = self._sink.open(self._run_id, self.step)
                    reader = MetricsReader(self._folder, self.step)
                while records := reader.next(BATCH):
                    self._sink.write(records)
                    self._remember(int(records[-1]["step"]))
                if failed_at >= 0:
                    self._say(
                        f"{self._name} is available again: sent the records of steps {failed_at + 1} to {self.step}"
                    )
                delay, failed_at = RETRY_S, -1
                if closing:
                    self._sink.close(self._ended)
                    self._closed.set()
                    return
            except DataError as error:
                # Nothing that a server could get over.
                self._say(f"{self._name} gets no more records: {error}")
                return
            except (LoggerError, OSError) as error:
                if failed_at < 0:
                    why = str(error) if isinstance(error, LoggerError) else kinds(error)
                    self._say(
                        f"{self._name} is not available ({why}): records stay in metrics.jsonl and are sent when it is "
                        "available again"
                    )
                    failed_at = self.step
                reader = None
                if closing:
                    time.sleep(RETRY_S)
                else:
                    self._closing.wait(delay)
                    delay = min(2 * delay, LONGEST_RETRY_S)
                continue
            self._wake.wait()
            self._wake.clear()

    def _remember(self, step: int) -> None:
        self.step = step
        state = {"run_id": self._run_id, "step": step}
        write_atomically(self._state, (json.dumps(state) + "\n").encode())


def finish_all(deliveries: Sequence[Delivery], ended: str, grace_s: float = GRACE_S) -> bool:
    """End all deliveries, within ``grace_s`` seconds in total; returns whether all records are sent."""
    for delivery in deliveries:
        delivery.finish(ended)
    until = time.monotonic() + grace_s
    handed_over = [delivery.wait(until) for delivery in deliveries]
    return all(handed_over)

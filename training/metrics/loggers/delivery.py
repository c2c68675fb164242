"""How a logger gets its records: a thread sends it what metrics.jsonl has, in order, at the logger's own pace."""

import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from molstream.io.files import write_atomically
from molstream.training.metrics.loggers.base import GRACE_S, Logger, LoggerError, kinds
from molstream.training.metrics.records import MetricsReader, last_step

BATCH = 100
"""Records that are handed over at a time."""
RETRY_S, LONGEST_RETRY_S = 1.0, 60.0
"""Seconds between attempts, doubled from one to the next."""


class Delivery:
    """Feeds one logger from metrics.jsonl, and remembers in ``loggers/NAME.json`` up to which step.

    The file is the queue: its length costs no memory, nothing in it is lost when a server or this process dies, and
    what a logger misses, because it was down or because it was named in the configuration only later, is handed over
    when it can be. Training is never waited for, nor does it wait.

    Args:
        name, logger: of the table.
        folder: the run directory, which has a metrics.jsonl.
        restored: steps done when this launch began; a logger that rewinds forgets what came after them.
        say: told when the logger fails, when it is back, and what is missing at the end.
    """

    def __init__(self, name: str, logger: Logger, folder: Path, restored: int, say: Callable[[str], None]):
        self._name, self._sink, self._folder, self._say = name, logger, folder, say
        self._state = folder / "loggers" / f"{name}.json"
        state = {"run_id": uuid.uuid4().hex, "step": 0}
        if self._state.exists():
            state = json.loads(self._state.read_text())
        self._run_id: str = state["run_id"]
        self.step: int = min(state["step"], restored) if logger.rewinds else state["step"]
        """Steps whose records the logger has."""
        self._ended = ""
        self._wake, self._closing, self._closed = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._deliver, name=f"logger-{name}", daemon=True)

    def start(self) -> None:
        """Begin to hand over."""
        self._state.parent.mkdir(exist_ok=True)
        # Before the logger hears of it: whatever happens next, the id stays the same.
        self._remember(self.step)
        self._thread.start()

    def wake(self) -> None:
        """Say that metrics.jsonl has grown."""
        self._wake.set()

    def finish(self, ended: str) -> None:
        """Say that it will not grow any more, and how the run ended: finished, stopped or failed."""
        self._ended = ended
        self._closing.set()
        self._wake.set()

    def wait(self, until: float) -> bool:
        """Wait until ``time.monotonic()`` is ``until`` at the most; whether everything is handed over."""
        self._thread.join(max(0.0, until - time.monotonic()))
        if not self._closed.is_set():
            self._say(
                f"{self._name} has confirmed the records up to step {self.step} of {last_step(self._folder)}; "
                f"metrics.jsonl has all of them. To hand over the rest: {self._sink.later.format(run=self._folder)}"
            )
        return self._closed.is_set()

    def _deliver(self) -> None:
        reader: MetricsReader | None = None
        delay, failed_at = RETRY_S, -1
        while True:
            # Asked first: what is written before the end is said is then seen below.
            closing = self._closing.is_set()
            try:
                if reader is None:
                    self.step = self._sink.open(self._run_id, self.step)
                    reader = MetricsReader(self._folder, self.step)
                while records := reader.next(BATCH):
                    self._sink.write(records)
                    self._remember(int(records[-1]["step"]))
                if failed_at >= 0:
                    self._say(f"{self._name} is back: the steps {failed_at + 1} to {self.step} are handed over")
                delay, failed_at = RETRY_S, -1
                if closing:
                    self._sink.close(self._ended)
                    self._closed.set()
                    return
            except (LoggerError, OSError) as error:
                if failed_at < 0:
                    why = str(error) if isinstance(error, LoggerError) else kinds(error)
                    self._say(
                        f"{self._name} takes no records now ({why}): they stay in metrics.jsonl and are handed over "
                        "when it is back"
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
    """End all deliveries, in at most ``grace_s`` seconds together; whether everything is handed over."""
    for delivery in deliveries:
        delivery.finish(ended)
    until = time.monotonic() + grace_s
    handed_over = [delivery.wait(until) for delivery in deliveries]
    return all(handed_over)

"""Background threads that can be abandoned at any time, so that an unresponsive server does not delay the exit."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from queue import Full, Queue
from typing import Generic, TypeVar

T = TypeVar("T")

POLL_S = 0.2


class Interrupted(Exception):  # noqa: N818
    """Raised in a thread whose result is no longer needed."""


class Interruptible(Generic[T]):
    """The result of ``action``, which starts at once in a daemon thread that does not delay the end of the process."""

    def __init__(self, action: Callable[[], T], interrupt: threading.Event):
        self._future: Future[T] = Future()
        self._interrupt = interrupt
        threading.Thread(target=self._run, args=(action,), daemon=True, name="molstream-background").start()

    def _run(self, action: Callable[[], T]) -> None:
        try:
            self._future.set_result(action())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            self._future.set_exception(error)

    def result(self) -> T:
        """Wait for the action and return its result.

        Raises:
            Interrupted: the event was set, or the program ended, before the action finished.
            Exception: the action's own.
        """
        while not self._future.done():
            if _over(self._interrupt):
                raise Interrupted
            wait([self._future], timeout=POLL_S)
        return self._future.result()

    def finally_(self, action: Callable[[T], object]) -> None:
        """Call ``action`` with the result once it is available; not after an error."""
        self._future.add_done_callback(lambda future: None if future.exception() else action(future.result()))


def prefetched(items: Iterator[T], depth: int, interrupt: threading.Event) -> Iterator[T]:
    """Iterate over ``items`` in a thread that works at most ``depth`` items ahead.

    Items must not be None. An error of ``items`` is raised at its position. When the iteration ends, for whatever
    reason, ``interrupt`` is set and the thread has ended.
    """
    ready: Queue[tuple[T | None, BaseException | None]] = Queue(depth)

    def put(item: T | None, error: BaseException | None = None) -> None:
        while not _over(interrupt):
            with suppress(Full):
                return ready.put((item, error), timeout=POLL_S)
        raise Interrupted

    def produce() -> None:
        try:
            for item in items:
                put(item)
            put(None)
        except Interrupted:
            return
        except BaseException as error:  # noqa: BLE001 - raised again by the consumer
            put(None, error)

    thread = threading.Thread(target=produce, name="molstream-prefetch")
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        interrupt.set()
        thread.join()


def _over(interrupt: threading.Event) -> bool:
    """Whether the result is no longer needed: the iteration or the main thread ended, as after an uncaught error."""
    return interrupt.is_set() or not threading.main_thread().is_alive()

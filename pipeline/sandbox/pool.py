"""Several sandboxes at work on molecules, for what needs no cluster."""

import itertools
import os
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np

from molstream.pipeline.config import SandboxConfig
from molstream.pipeline.sandbox.parent import Sandbox
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.drawing import View
from molstream.preprocessing.fields import MoleculeSample, RawMolecule, Rejection

T = TypeVar("T")
R = TypeVar("R")

PART = 16
"""Molecules of a task: some tenths of a second."""
DRAWN_PART = 8
"""Molecules of a task that draws: some hundredths of a second, so that no child waits long for the last one."""
AHEAD = 12
"""Tasks of each process that are begun before their results are wanted, which bounds the memory: enough that the
processes have work while a batch is encoded."""
POLL_S = 0.2


class SandboxPool:
    """Featurizes and draws molecules in child processes, each molecule within its limits; a context manager.

    Args:
        config: limits on a molecule.
        featurize: how a molecule becomes a record.
        processes: number of children; all cores by default.
        keys: whether molecules have a key where no conformer depends on it.
    """

    def __init__(
        self, config: SandboxConfig, featurize: FeaturizeConfig, processes: int | None = None, keys: bool = True
    ):
        count = processes or len(os.sched_getaffinity(0))
        self._sandboxes = [Sandbox(config, featurize, keys=keys) for _ in range(count)]
        self._idle: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        for sandbox in self._sandboxes:
            self._idle.put(sandbox)
        self._threads = ThreadPoolExecutor(count)

    def __enter__(self) -> "SandboxPool":
        return self

    def __exit__(self, *exception: object) -> None:
        for sandbox in self._sandboxes:
            sandbox.stop()
        self._threads.shutdown(cancel_futures=True)
        for sandbox in self._sandboxes:
            sandbox.__exit__()

    def featurize(self, molecules: Iterable[RawMolecule]) -> Iterator[MoleculeSample | Rejection]:
        """The record of every molecule, or why there is none, in their order.

        Raises:
            DataError: no child starts.
        """
        return self._in_parts(PART, Sandbox.featurize, molecules)

    def images(self, drawings: Iterable[tuple[str, View]], size: int) -> Iterator[np.ndarray | None]:
        """The image of every SMILES in its view, uint8 [3, size, size], in their order; None where there is none.

        Raises:
            DataError: no child starts.
        """
        return self._in_parts(DRAWN_PART, lambda sandbox, part: sandbox.images(part, size), drawings)

    def _in_parts(self, size: int, work: Callable[[Sandbox, list[T]], list[R]], items: Iterable[T]) -> Iterator[R]:
        """The results of ``work``, in the order of the items, which the children share in parts of ``size``."""
        waiting = iter(items)
        running: deque[Future[list[R]]] = deque()
        while part := list(itertools.islice(waiting, size)):
            running.append(self._threads.submit(self._part, work, part))
            if len(running) > AHEAD * len(self._sandboxes):
                yield from _result(running.popleft())
        while running:
            yield from _result(running.popleft())

    def _part(self, work: Callable[[Sandbox, list[T]], list[R]], items: list[T]) -> list[R]:
        sandbox = self._idle.get()
        try:
            return work(sandbox, items)
        finally:
            self._idle.put(sandbox)


def _result(future: Future[list[R]]) -> list[R]:
    # RDKit resets the handler of SIGINT such that an interrupt no longer wakes a thread that waits for a lock.
    while not future.done():
        wait([future], POLL_S)
    return future.result()

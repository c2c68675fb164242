"""Several sandboxes at work on one list of molecules, for what needs no cluster."""

import itertools
import os
import queue
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from molstream.pipeline.config import SandboxConfig
from molstream.pipeline.sandbox.parent import Sandbox
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.fields import MoleculeSample, RawMolecule, Rejection

PART = 16
"""Molecules of a task: some tenths of a second."""
AHEAD = 12
"""Tasks of each process that are begun before their results are wanted, which bounds the memory: enough that the
processes have work while a batch is encoded."""
POLL_S = 0.2


class SandboxPool:
    """Featurizes molecules in child processes, each molecule within its limits; a context manager.

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
        waiting = iter(molecules)
        running: deque[Future[list[MoleculeSample | Rejection]]] = deque()
        while part := list(itertools.islice(waiting, PART)):
            running.append(self._threads.submit(self._part, part))
            if len(running) > AHEAD * len(self._sandboxes):
                yield from _result(running.popleft())
        while running:
            yield from _result(running.popleft())

    def _part(self, molecules: Sequence[RawMolecule]) -> list[MoleculeSample | Rejection]:
        sandbox = self._idle.get()
        try:
            return sandbox.featurize(molecules)
        finally:
            self._idle.put(sandbox)


def _result(future: Future[list[MoleculeSample | Rejection]]) -> list[MoleculeSample | Rejection]:
    # RDKit resets the handler of SIGINT such that an interrupt no longer wakes a thread that waits for a lock.
    while not future.done():
        wait([future], POLL_S)
    return future.result()

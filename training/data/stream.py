"""The lane-ordered stream: shuffled windows of datasets become ready batches, step by step."""

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from molstream.io.background import prefetched
from molstream.pipeline.order.lane_reader import LaneReader
from molstream.pipeline.order.mixture import Mixture
from molstream.pipeline.order.steps import StepOrder
from molstream.pipeline.shards.columns import Columns
from molstream.randomness import keyed_bits
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.collate import COLLATED_FIELDS, collate


class LaneStream:
    """Batches of the lanes that one process serves; holds one shuffled window per lane and dataset in memory.

    It touches no shards but those of its lanes, and of these the one being read and the one that comes next.
    """

    def __init__(self, data: Mixture, order: StepOrder, lanes: Sequence[int]):
        self._data, self._order = data, order
        self._interrupt = threading.Event()
        self._readers = {lane: [self._reader(k, lane) for k in range(len(data.datasets))] for lane in lanes}

    def step(self, step: int) -> list[MoleculeBatch]:
        """The batches of a global step, one per lane in ascending order; any step, cheapest in sequence.

        Raises:
            DataError: a shard is gone, damaged, or cannot be fetched.
        """
        taken = self._order.taken(step)
        return [self._batch(readers, taken) for readers in self._readers.values()]

    def steps(self, start: int, stop: int, prefetch: int) -> Iterator[list[MoleculeBatch]]:
        """The batches of the steps ``start`` to ``stop`` (excluded), prepared ``prefetch`` steps ahead by a thread."""
        self._interrupt.clear()
        try:
            if start < stop:
                self._expect(start)
            steps = (self.step(k) for k in range(start, stop))
            yield from prefetched(steps, prefetch, self._interrupt) if prefetch else steps
        finally:
            self._interrupt.clear()

    def _reader(self, dataset: int, lane: int) -> LaneReader:
        def parts(begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
            return self._order.parts(dataset, lane, begin, end)

        return LaneReader(
            self._data.datasets[dataset],
            self._order.orders[dataset],
            lane,
            COLLATED_FIELDS,
            parts if self._order.length_buckets else None,
            self._interrupt,
        )

    def _expect(self, step: int) -> None:
        """Let the shards of all lanes arrive at once."""
        for readers in self._readers.values():
            for reader, (begin, _) in zip(readers, self._order.taken(step), strict=True):
                reader.expect(begin)

    def _batch(self, readers: Sequence[LaneReader], taken: Sequence[tuple[int, int]]) -> MoleculeBatch:
        columns, index, draws = [], [], []
        for reader, first, (begin, end) in zip(readers, self._data.first, taken, strict=True):
            for run in reader.read(begin, end):
                columns.append(run.columns)
                index.append(run.index + first)
                draws.append(conformer_draw(self._order.seed, run.epoch, index[-1]))
        return collate(Columns.concat(columns), np.concatenate(index), np.concatenate(draws))


def conformer_draw(seed: int, epoch: int, index: np.ndarray) -> np.ndarray:
    """uint64 [g] bits that choose conformers, by the seed, the epoch and the position in the data."""
    return keyed_bits(index, seed * 0x9E3779B97F4A7C15 + epoch * 0xD1B54A32D192ED03)

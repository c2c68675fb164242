"""The lane-ordered stream: shuffled blocks of a dataset on disk become ready batches, step by step."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from omegaconf import MISSING

from pipeline.order import LaneEpoch, LaneOrder
from pipeline.shards.columns import Columns
from pipeline.shards.reader import ShardDataset
from training.data.batch import MoleculeBatch
from training.data.collate import COLLATED_FIELDS, collate


@dataclass(frozen=True)
class DataConfig:
    """Which dataset is streamed, and in what order."""

    path: str = MISSING
    """Folder of a dataset written by `molstream preprocess`."""
    lanes: int = 8
    """Lanes L: the global batch is lanes x micro_batch molecules on any number of processes that divides L."""
    micro_batch: int = 32
    """Molecules that a lane gives to a step; each lane's loss sees its own micro-batch only."""
    window_blocks: int = 8
    """Blocks (of about 256 molecules) that are shuffled together; memory per lane grows with it."""
    prefetch: int = 2
    """Steps that a background thread prepares ahead; 0 reads in the training thread."""


class LaneStream:
    """Batches of the lanes that one process serves; holds one shuffled window per lane in memory."""

    def __init__(self, dataset: ShardDataset, order: LaneOrder, lanes: Sequence[int]):
        self._cursors = {lane: _LaneCursor(dataset, order, lane) for lane in lanes}

    def step(self, step: int) -> list[MoleculeBatch]:
        """The batches of a global step, one per lane in ascending order; any step, cheapest in sequence."""
        return [cursor.batch(step) for cursor in self._cursors.values()]

    def steps(self, start: int, stop: int, prefetch: int) -> Iterator[list[MoleculeBatch]]:
        """The batches of the steps ``start`` to ``stop`` (excluded), prepared ``prefetch`` steps ahead by a thread."""
        steps = (self.step(k) for k in range(start, stop))
        return _ahead(steps, prefetch) if prefetch else steps


class _LaneCursor:
    """One lane: keeps the plan of the current epoch and the shuffled window that its last batch came from."""

    def __init__(self, dataset: ShardDataset, order: LaneOrder, lane: int):
        self._dataset, self._order, self._lane = dataset, order, lane
        self._epoch = -1
        self._plan: LaneEpoch
        self._window: tuple[int, Columns, np.ndarray] | None = None

    def batch(self, step: int) -> MoleculeBatch:
        epoch, within = self._order.locate(step)
        if epoch != self._epoch:
            self._epoch, self._plan, self._window = epoch, self._order.lane(epoch, self._lane), None
        begin = within * self._order.micro_batch
        parts, index = self._rows(begin, begin + self._order.micro_batch)
        return collate(parts, index, conformer_draw(self._order.seed, epoch, index))

    def _rows(self, begin: int, end: int) -> tuple[Columns, np.ndarray]:
        starts = self._plan.window_starts
        columns, indices = [], []
        for window in range(int(np.searchsorted(starts, begin, side="right")) - 1, len(starts) - 1):
            if starts[window] >= end:
                break
            shuffled, index = self._load(window)
            part = slice(max(begin - int(starts[window]), 0), min(end, int(starts[window + 1])) - int(starts[window]))
            columns.append(shuffled.slice(part.start, part.stop))
            indices.append(index[part])
        if len(columns) == 1:
            return columns[0], indices[0]
        return Columns.concat(columns), np.concatenate(indices)

    def _load(self, window: int) -> tuple[Columns, np.ndarray]:
        """The window's molecules in the order's sequence, with their positions in the dataset."""
        if self._window is None or self._window[0] != window:
            pieces = self._plan.pieces(window)
            columns = [
                self._dataset.read_block(p.shard, p.block, COLLATED_FIELDS).slice(p.start, p.start + p.rows)
                for p in pieces
            ]
            index = np.concatenate([np.arange(p.first_index, p.first_index + p.rows) for p in pieces])
            permutation = self._plan.permutation(window)
            self._window = (window, Columns.concat(columns).take(permutation), index[permutation])
        return self._window[1], self._window[2]


def conformer_draw(seed: int, epoch: int, index: np.ndarray) -> np.ndarray:
    """uint64 [g] bits that choose conformers: splitmix64 of the seed, the epoch and the position in the dataset."""
    with np.errstate(over="ignore"):
        z = index.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + epoch * 0xD1B54A32D192ED03) % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _ahead(steps: Iterator[list[MoleculeBatch]], depth: int) -> Iterator[list[MoleculeBatch]]:
    """The same items, produced by one thread at most ``depth`` items ahead; its error is raised at its place."""
    with ThreadPoolExecutor(1, thread_name_prefix="molstream-prefetch") as pool:
        pending = deque(pool.submit(next, steps, None) for _ in range(depth))
        while (item := pending.popleft().result()) is not None:
            pending.append(pool.submit(next, steps, None))
            yield item

"""The validation stream: a dataset in manifest order, every molecule once, the same on any number of processes."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from molstream.io.background import prefetched
from molstream.pipeline.shards.columns import Columns
from molstream.pipeline.shards.reader import ShardDataset
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.collate import COLLATED_FIELDS, collate


@dataclass(frozen=True)
class ValidationBatch:
    """One of the K batches of a validation."""

    number: int
    """0 to K - 1: with the run's seed it keys all draws, so that every validation of a run has the same noise."""
    molecules: MoleculeBatch


class ValidationStream:
    """Batches of a dataset, on the lanes that one process serves.

    The dataset's N molecules are cut, as they follow each other, into K = ceil(N / micro_batch) batches whose sizes
    differ by one at most: no small last batch, whatever N is. The batches are cut into L lanes in the same way. Every
    lane takes as many rounds as the longest, since under ZeRO every process has to take every step; a lane that has no
    batch left repeats one, and what it gives there has the weight 0.

    The contract: compute metrics for every batch with a generator keyed by its number, bring those of all lanes
    together for every round, and take :meth:`mean`. Nothing of it depends on the world size but who computes what.

    Args:
        dataset: what is validated with.
        lanes: number of lanes L of the run.
        micro_batch: molecules of a batch, at most.
        served: the lanes of this process, ascending.
    """

    def __init__(self, dataset: ShardDataset, lanes: int, micro_batch: int, served: Sequence[int]):
        self._dataset, self._served = dataset, served
        self.num_batches = -(-dataset.num_rows // micro_batch)
        self._bounds = _even(dataset.num_rows, self.num_batches)
        self._lane_bounds = _even(self.num_batches, lanes)
        self.num_rounds = int(np.diff(self._lane_bounds).max())
        sizes = np.append(np.diff(self._bounds), 0)
        position = self._lane_bounds[:-1] + np.arange(self.num_rounds)[:, None]
        self.weights = torch.from_numpy(sizes[np.where(position < self._lane_bounds[1:], position, -1)]).double()
        """float64 [rounds, L]: the molecules that each lane's batch stands for in every round; they add up to N."""

    def rounds(self, prefetch: int = 0) -> Iterator[list[ValidationBatch]]:
        """The batches of every round, one per served lane, prepared ``prefetch`` rounds ahead by a thread.

        Molecules that have conformers show the first.

        Raises:
            DataError: a shard is gone, damaged, or cannot be fetched.
        """
        rounds = self._rounds()
        return prefetched(rounds, prefetch, threading.Event()) if prefetch else rounds

    def mean(self, values: Tensor) -> Tensor:
        """float64 [m], the mean over molecules, summed in an order that depends on nothing but the data.

        Args:
            values: [rounds, L, m], each batch's metrics, from all lanes.
        """
        weights = self.weights.unsqueeze(-1)
        return torch.where(weights > 0, weights * values.double().cpu(), 0.0).sum((0, 1)) / weights.sum()

    def _rounds(self) -> Iterator[list[ValidationBatch]]:
        readers = {lane: SequentialReader(self._dataset, COLLATED_FIELDS) for lane in self._served}
        for number in range(self.num_rounds):
            yield [self._batch(readers[lane], lane, number) for lane in self._served]

    def _batch(self, reader: "SequentialReader", lane: int, number: int) -> ValidationBatch:
        first, end = self._lane_bounds[lane], self._lane_bounds[lane + 1]
        number = int(max(min(first + number, end - 1), 0))
        index = np.arange(self._bounds[number], self._bounds[number + 1])
        return ValidationBatch(number, collate(reader.read(index), index, np.zeros(len(index), np.uint64)))


class SequentialReader:
    """Molecules of a dataset in manifest order, cheapest in sequence: then every block is decoded once.

    Args:
        dataset: where the molecules are.
        names: fields to read.
    """

    def __init__(self, dataset: ShardDataset, names: Sequence[str]):
        self._dataset, self._fields = dataset, names
        self._first = np.cumsum([0, *(int(rows) for shard in dataset.block_rows for rows in shard)])
        self._names = [(shard, k) for shard, rows in enumerate(dataset.block_rows) for k in range(len(rows))]
        self._block: tuple[int, Columns] | None = None

    def read(self, index: np.ndarray) -> Columns:
        """The molecules at ascending positions, int64 [g], in the dataset.

        Raises:
            DataError: a shard is gone, damaged, or cannot be fetched.
        """
        blocks = np.searchsorted(self._first, index, side="right") - 1
        return Columns.concat(
            [self._load(int(block)).take(index[blocks == block] - self._first[block]) for block in np.unique(blocks)]
        )

    def _load(self, block: int) -> Columns:
        if self._block is None or self._block[0] != block:
            self._block = block, self._dataset.read_block(*self._names[block], self._fields)
        return self._block[1]


def _even(total: int, parts: int) -> np.ndarray:
    """int64 [parts + 1]: where ``total`` things begin and end that are cut into parts as equal as can be."""
    return np.arange(parts + 1) * total // parts

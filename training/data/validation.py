"""Yields the batches of a validation: each molecule once, in manifest order, independently of the world size."""

import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from molstream.io.background import prefetched
from molstream.pipeline.shards.columns import Columns
from molstream.pipeline.shards.reader import ShardDataset
from molstream.preprocessing.drawing import PLAIN
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.collate import collate, collated_fields
from molstream.training.data.images import ImageSource


@dataclass(frozen=True)
class ValidationBatch:
    """One of the K batches of a validation: its number and molecules."""

    number: int
    """From 0 to K - 1; keys all draws together with the run's seed, so that every validation uses the same noise."""
    molecules: MoleculeBatch
    """The molecules of the batch, with their first conformers."""


class ValidationStream:
    """Batches of a validation dataset, for the lanes that one process serves.

    The dataset's N molecules are split in order into K = ceil(N / micro_batch) batches whose sizes differ by at most
    one, so that no last batch is small. The batches are split into L lanes in the same way. Every lane runs as many
    rounds as the longest, since under ZeRO every process must take part in every step; a lane without a batch left
    repeats one, with weight 0.

    How to use it: compute the metrics of each batch with a generator keyed by its number, gather those of all lanes in
    every round, and call :meth:`mean`. The world size only decides which process computes what.

    Args:
        dataset: the validation dataset.
        lanes: number of lanes L of the run.
        micro_batch: maximum number of molecules in a batch.
        served: the lanes of this process, ascending.
        required: stored fields that the batches shall have beside those that all have, such as an objective's.
        images: what draws the molecules, in RDKit's own layout, if the batches shall have images.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        lanes: int,
        micro_batch: int,
        served: Sequence[int],
        required: Collection[str] = (),
        images: ImageSource | None = None,
    ):
        self._dataset, self._served, self._images = dataset, served, images
        self._fields = (*collated_fields(required), *(("smiles",) if images else ()))
        self.num_batches = -(-dataset.num_rows // micro_batch)
        self._bounds = _even(dataset.num_rows, self.num_batches)
        self._lane_bounds = _even(self.num_batches, lanes)
        self.num_rounds = int(np.diff(self._lane_bounds).max())
        sizes = np.append(np.diff(self._bounds), 0)
        position = self._lane_bounds[:-1] + np.arange(self.num_rounds)[:, None]
        self.weights = torch.from_numpy(sizes[np.where(position < self._lane_bounds[1:], position, -1)]).double()
        """float64 [rounds, L]: number of molecules that each lane's batch counts for in each round; the sum is N."""

    def rounds(self, prefetch: int = 0) -> Iterator[list[ValidationBatch]]:
        """Yield the batches of each round, one per served lane; a thread prepares them ``prefetch`` rounds ahead.

        Of molecules with several conformers, the first is used.

        Raises:
            DataError: a shard is missing, damaged, or cannot be downloaded.
        """
        rounds = self._rounds()
        return prefetched(rounds, prefetch, threading.Event()) if prefetch else rounds

    def mean(self, values: Tensor) -> Tensor:
        """Mean of metrics over all molecules, float64 [m], summed in an order that depends on the data only.

        Args:
            values: [rounds, L, m], metrics of each batch of all lanes.
        """
        weights = self.weights.unsqueeze(-1)
        return torch.where(weights > 0, weights * values.double().cpu(), 0.0).sum((0, 1)) / weights.sum()

    def _rounds(self) -> Iterator[list[ValidationBatch]]:
        readers = {lane: SequentialReader(self._dataset, self._fields) for lane in self._served}
        for number in range(self.num_rounds):
            yield [self._batch(readers[lane], lane, number) for lane in self._served]

    def _batch(self, reader: "SequentialReader", lane: int, number: int) -> ValidationBatch:
        first, end = self._lane_bounds[lane], self._lane_bounds[lane + 1]
        number = int(max(min(first + number, end - 1), 0))
        index = np.arange(self._bounds[number], self._bounds[number + 1])
        columns, images = reader.read(index), None
        if self._images is not None:
            images = self._images.draw(columns.values["smiles"].tolist(), [PLAIN] * len(index))
        return ValidationBatch(number, collate(columns, index, np.zeros(len(index), np.uint64), images))


class SequentialReader:
    """Reads molecules of a dataset in manifest order; if they are read in sequence, each block is decoded once.

    Args:
        dataset: the dataset to read.
        names: fields to read.
    """

    def __init__(self, dataset: ShardDataset, names: Sequence[str]):
        self._dataset, self._fields = dataset, names
        self._first = np.cumsum([0, *(int(rows) for shard in dataset.block_rows for rows in shard)])
        self._names = [(shard, k) for shard, rows in enumerate(dataset.block_rows) for k in range(len(rows))]
        self._block: tuple[int, Columns] | None = None

    def read(self, index: np.ndarray) -> Columns:
        """Read the molecules at the positions ``index``, int64 [g], ascending.

        Raises:
            DataError: a shard is missing, damaged, or cannot be downloaded.
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
    """int64 [parts + 1]: bounds that split ``total`` items into parts whose sizes differ by at most one."""
    return np.arange(parts + 1) * total // parts

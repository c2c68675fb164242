"""Reads shuffled windows of datasets and yields the lanes' batches, step by step."""

import threading
from collections.abc import Collection, Generator, Sequence

import numpy as np

from molstream.io.background import prefetched
from molstream.pipeline.order.lane_reader import LaneReader
from molstream.pipeline.order.mixture import Mixture
from molstream.pipeline.order.steps import StepOrder
from molstream.pipeline.shards.columns import Columns
from molstream.randomness import keyed_bits
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.collate import collate, collated_fields
from molstream.training.data.images import DRAWN_FIELDS, Images, ImageSource, views_of


class LaneStream:
    """Batches of the lanes that one process serves; keeps one shuffled window per lane and dataset in memory.

    It opens only shards of its own lanes: in each lane the shard that is being read and the next one.

    Args:
        data: the datasets.
        order: order of the molecules, which sets the batches of each step.
        lanes: the lanes of this process, ascending.
        required: stored fields that the batches shall have beside those that all have, such as an objective's.
        images: what draws the molecules, if the batches shall have images; views differ from step to step.
    """

    def __init__(
        self,
        data: Mixture,
        order: StepOrder,
        lanes: Sequence[int],
        required: Collection[str] = (),
        images: ImageSource | None = None,
    ):
        self._data, self._order, self._images = data, order, images
        self._fields = tuple(dict.fromkeys((*collated_fields(required), *(DRAWN_FIELDS if images else ()))))
        self._interrupt = threading.Event()
        self._readers = {lane: [self._reader(k, lane) for k in range(len(data.datasets))] for lane in lanes}

    def step(self, step: int) -> list[MoleculeBatch]:
        """Build the batches of a global step, one per lane in ascending order; consecutive steps are the fastest.

        Raises:
            DataError: a shard is missing, damaged, or cannot be downloaded.
        """
        taken = self._order.taken(step)
        lanes = [self._molecules(readers, taken) for readers in self._readers.values()]
        images = self._drawn(step, [columns for columns, _, _ in lanes])
        return [collate(*molecules, drawn) for molecules, drawn in zip(lanes, images, strict=True)]

    def steps(self, start: int, stop: int, prefetch: int) -> Generator[list[MoleculeBatch], None, None]:
        """Yield the batches of the steps ``start`` to ``stop`` - 1; a thread prepares them ``prefetch`` steps ahead."""
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
            self._fields,
            parts if self._order.length_buckets else None,
            self._interrupt,
        )

    def _expect(self, step: int) -> None:
        """Start to download the shards of all lanes, in parallel."""
        for readers in self._readers.values():
            for reader, (begin, _) in zip(readers, self._order.taken(step), strict=True):
                reader.expect(begin)

    def _molecules(
        self, readers: Sequence[LaneReader], taken: Sequence[tuple[int, int]]
    ) -> tuple[Columns, np.ndarray, np.ndarray]:
        """The molecules of a lane's batch: their fields, positions in the data, and draws of conformers."""
        columns, index, draws = [], [], []
        for reader, first, (begin, end) in zip(readers, self._data.first, taken, strict=True):
            for run in reader.read(begin, end):
                columns.append(run.columns)
                index.append(run.index + first)
                draws.append(conformer_draw(self._order.seed, run.epoch, index[-1]))
        return Columns.concat(columns), np.concatenate(index), np.concatenate(draws)

    def _drawn(self, step: int, lanes: Sequence[Columns]) -> list[Images] | list[None]:
        """The images of each lane's molecules, all drawn together, if batches have images."""
        if self._images is None:
            return [None] * len(lanes)
        smiles = [text for columns in lanes for text in columns.values["smiles"].tolist()]
        views = [view for columns in lanes for view in views_of(columns, self._order.seed, step)]
        ends = np.cumsum([columns.num_rows for columns in lanes])[:-1]
        pixels, is_drawn = (np.split(values, ends) for values in self._images.draw(smiles, views))
        return list(zip(pixels, is_drawn, strict=True))


def conformer_draw(seed: int, epoch: int, index: np.ndarray) -> np.ndarray:
    """Random bits that choose conformers, uint64 [g], keyed by seed, epoch and position in the data, int64 [g]."""
    return keyed_bits(index, seed * 0x9E3779B97F4A7C15 + epoch * 0xD1B54A32D192ED03)

"""Reader of one lane: any of its samples from the dataset's shards, cheapest in sequence."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from molstream.io.background import Interruptible
from molstream.pipeline.order.lanes import LaneEpoch, LaneOrder, Piece
from molstream.pipeline.order.steps import dealt
from molstream.pipeline.shards.columns import Columns
from molstream.pipeline.shards.reader import ShardDataset, ShardFile

Parts = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
"""(begin, end) -> lengths and ranks of the parts: ``StepOrder.parts`` for one dataset and lane."""


@dataclass(frozen=True)
class Run:
    """Samples that follow each other in a lane, from one window of one epoch."""

    columns: Columns
    index: np.ndarray
    """int64 [rows]: their positions in the dataset."""
    epoch: int


@dataclass(frozen=True)
class _Window:
    """A window in memory, its samples in the order's sequence."""

    epoch: int
    begin: int
    """The positions [begin, end) of the lane's epoch."""
    end: int
    columns: Columns
    index: np.ndarray

    def holds(self, epoch: int, position: int) -> bool:
        """Whether a position of the lane's epoch lies in the window."""
        return self.epoch == epoch and self.begin <= position < self.end


class LaneReader:
    """Reads one lane: keeps its current window in memory and the window's shards open, and opens the next shard ahead.

    Args:
        dataset: the samples.
        order: the order of this dataset.
        lane: number of the lane.
        names: fields to read.
        parts: given for length buckets: the molecules of a window are dealt to the steps by size.
        interrupt: setting it ends the wait for a shard.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        order: LaneOrder,
        lane: int,
        names: Sequence[str],
        parts: Parts | None,
        interrupt: threading.Event,
    ):
        self._dataset, self._order, self._lane, self._names = dataset, order, lane, names
        self._parts, self._interrupt = parts, interrupt
        self._plans: dict[int, LaneEpoch] = {}
        self._files: dict[int, Interruptible[ShardFile | None]] = {}
        self._window: _Window | None = None

    def expect(self, position: int) -> None:
        """Start to open, in the background, the shards that are read from a position of the lane's sequence on."""
        epoch, within = self._order.locate(position)
        self._hold(epoch, self._plan(epoch).window_at(within))

    def read(self, begin: int, end: int) -> list[Run]:
        """The samples at the positions [begin, end) of the lane's sequence, cut at epochs and windows.

        Raises:
            DataError: a shard is gone, damaged, or cannot be fetched.
            Interrupted: the interrupt was set during the wait for a shard.
        """
        found = []
        while begin < end:
            epoch, within = self._order.locate(begin)
            if self._window is None or not self._window.holds(epoch, within):
                self._window = self._load(epoch, self._plan(epoch).window_at(within))
            window = self._window
            stop = min(within + end - begin, window.end, self._order.epoch_samples)
            first, last = within - window.begin, stop - window.begin
            found.append(Run(window.columns.slice(first, last), window.index[first:last], epoch))
            begin += stop - within
        return found

    def _plan(self, epoch: int) -> LaneEpoch:
        if epoch not in self._plans:
            # The last window of an epoch needs the plan of the next one, for the shards that come next.
            self._plans = {e: plan for e, plan in self._plans.items() if abs(e - epoch) <= 1}
            self._plans[epoch] = self._order.lane(epoch, self._lane)
        return self._plans[epoch]

    def _load(self, epoch: int, number: int) -> _Window:
        """Read a window and put its molecules into the order's sequence."""
        plan = self._plan(epoch)
        pieces = plan.pieces(number)
        columns = Columns.concat([self._read(piece, pieces[max(k - 1, 0)]) for k, piece in enumerate(pieces)])
        index = np.concatenate([np.arange(p.first_index, p.first_index + p.rows) for p in pieces])
        begin, end = plan.start(number), plan.start(number + 1)
        permutation = plan.permutation(number)
        if self._parts:
            before = epoch * self._order.epoch_samples
            sizes = np.diff(columns.offsets["atom_features"])
            permutation = dealt(permutation, sizes, *self._parts(before + begin, before + end))
        window = _Window(epoch, begin, end, columns.take(permutation), index[permutation])
        self._hold(epoch, number + 1)
        return window

    def _read(self, piece: Piece, previous: Piece) -> Columns:
        if previous.shard != piece.shard:
            self._release(previous.shard)
        columns = self._file(piece.shard).read_block(piece.block, self._names)
        return columns.slice(piece.start, piece.start + piece.rows)

    def _file(self, shard: int) -> ShardFile:
        if shard in self._files and (file := self._files[shard].result()) is not None:
            return file
        # The shard was not opened ahead, or the cache had no room for it then.
        self._files[shard] = self._opening(shard, required=True)
        file = self._files[shard].result()
        assert file is not None
        return file

    def _hold(self, epoch: int, number: int) -> None:
        """Open the shards of a window and the one after them, where there is room, and close all others."""
        plan = self._plan(epoch)
        if number == plan.num_windows:
            plan, number = self._plan(epoch + 1), 0
        count = len({piece.shard for piece in plan.pieces(number)}) + 1
        shards = plan.shards_from(number)[:count].tolist()
        for shard in [shard for shard in self._files if shard not in shards]:
            self._release(shard)
        for shard in shards:
            if shard not in self._files:
                self._files[shard] = self._opening(shard, required=False)

    def _release(self, shard: int) -> None:
        self._files.pop(shard).finally_(lambda file: file and file.close())

    def _opening(self, shard: int, required: bool) -> Interruptible[ShardFile | None]:
        return Interruptible(lambda: self._dataset.open_shard(shard, required), self._interrupt)

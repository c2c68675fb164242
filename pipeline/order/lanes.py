"""Lanes: the order of a dataset's samples, as a pure function of (seed, epoch, lane) and never of the world size.

Shards are permuted by (seed, epoch), laid end to end and cut into L equal lanes; inside a lane the samples of a window
of blocks are shuffled. Samples that do not fill a lane or its last step are left out of that epoch only: another epoch
permutes the shards differently. ``pipeline/order/steps.py`` says which samples of a lane a step takes, and
``pipeline/order/__init__.py`` defines the words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from molstream.errors import ConfigError
from molstream.randomness import keyed_permutation


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one block: ``rows`` rows from ``start`` of block ``block`` in shard ``shard``."""

    shard: int
    block: int
    start: int
    rows: int
    first_index: int
    """Position of the first row in the dataset, in manifest order."""


class LaneEpoch:
    """The samples of one lane in one epoch: windows of pieces, each with its permutation.

    Holds three numbers per shard of the lane; the pieces of a window are computed when they are asked for.

    Args:
        block_rows: for every shard of the dataset, the rows of its blocks.
        shards: int64 [places], the lane's shards in the order in which it reads them.
        begin, end: int64 [places], which rows of each of these shards are the lane's.
        shard_first: int64 [shards of the dataset], position of every shard's first row in the dataset.
        window_blocks: pieces that are shuffled together.
        key: seed, epoch and lane, which determine the permutations.
    """

    def __init__(
        self,
        block_rows: Sequence[np.ndarray],
        shards: np.ndarray,
        begin: np.ndarray,
        end: np.ndarray,
        shard_first: np.ndarray,
        window_blocks: int,
        key: tuple[int, ...],
    ):
        self.shards = shards
        self._block_rows, self._begin, self._end, self._shard_first = block_rows, begin, end, shard_first
        self._window_blocks, self._key = window_blocks, key
        self._first_row = np.concatenate([[0], np.cumsum(end - begin)])
        counts = np.fromiter((len(block_rows[shard]) for shard in shards), np.int64, len(shards))
        # Only the lane's first and last shard may be cut.
        self._first_block = np.zeros(len(shards), np.int64)
        self._first_block[0] = self._block_at(0, int(begin[0]))
        counts[-1] = self._block_at(-1, int(end[-1]) - 1) + 1
        self._first_piece = np.concatenate([[0], np.cumsum(counts - self._first_block)])

    @property
    def num_windows(self) -> int:
        """Number of windows of the lane in this epoch."""
        return -(-int(self._first_piece[-1]) // self._window_blocks)

    def pieces(self, window: int) -> list[Piece]:
        """The pieces of a window, in the order in which the lane reads them."""
        begin = window * self._window_blocks
        return [self._piece(k) for k in range(begin, min(begin + self._window_blocks, int(self._first_piece[-1])))]

    def start(self, window: int) -> int:
        """Position in the lane's epoch at which a window begins; for ``num_windows``, the end of the last window."""
        if window >= self.num_windows:
            return int(self._first_row[-1])
        place, first, _ = self._locate_piece(window * self._window_blocks)
        return int(self._first_row[place]) + max(first - int(self._begin[place]), 0)

    def window_at(self, position: int) -> int:
        """The window that holds a position of the lane's epoch."""
        place = int(np.searchsorted(self._first_row, position, side="right")) - 1
        block = self._block_at(place, int(self._begin[place]) + position - int(self._first_row[place]))
        return (int(self._first_piece[place]) + block - int(self._first_block[place])) // self._window_blocks

    def permutation(self, window: int) -> np.ndarray:
        """int64 [rows of the window]: the row of the concatenated pieces that comes at each place of the order."""
        return keyed_permutation(self.start(window + 1) - self.start(window), *self._key, window)

    def shards_from(self, window: int) -> np.ndarray:
        """The lane's shards from the first one of a window on, in the order in which they are read."""
        return self.shards[self._locate_piece(window * self._window_blocks)[0] :]

    def _block_at(self, place: int, row: int) -> int:
        """The block of a shard that holds one of its rows."""
        return int(np.searchsorted(np.cumsum(self._block_rows[self.shards[place]]), row, side="right"))

    def _locate_piece(self, number: int) -> tuple[int, int, int]:
        """(place, first row in its shard, block) of a piece's block."""
        place = int(np.searchsorted(self._first_piece, number, side="right")) - 1
        block = int(self._first_block[place]) + number - int(self._first_piece[place])
        return place, int(self._block_rows[self.shards[place]][:block].sum()), block

    def _piece(self, number: int) -> Piece:
        place, first, block = self._locate_piece(number)
        shard = int(self.shards[place])
        start = max(int(self._begin[place]) - first, 0)
        stop = min(int(self._end[place]) - first, int(self._block_rows[shard][block]))
        return Piece(shard, block, start, stop - start, int(self._shard_first[shard]) + first + start)


class LaneOrder:
    """The order of a dataset for a whole training run: every lane is an endless sequence of samples, epoch after epoch.

    Any position of the sequence is found in O(1), so that resuming needs no replay.

    Args:
        block_rows: for every shard, the rows of its blocks (int arrays), in manifest order.
        seed: non-negative.
        lanes: number of lanes L, fixed for a run.
        micro_batch: molecules that a lane gives to a step; a lane's epoch ends with a step, hence is a multiple of it.
        window_blocks: blocks that are shuffled together.

    Raises:
        ConfigError: the dataset is smaller than one global batch of L x micro_batch molecules.
    """

    def __init__(self, block_rows: Sequence[np.ndarray], seed: int, lanes: int, micro_batch: int, window_blocks: int):
        for name, value, least in (
            ("seed", seed, 0),
            ("lanes", lanes, 1),
            ("micro_batch", micro_batch, 1),
            ("window_blocks", window_blocks, 1),
        ):
            if value < least:
                raise ConfigError(f"data.{name}={value}: expected at least {least}.")
        self._block_rows = [np.asarray(rows, np.int64) for rows in block_rows]
        self._shard_rows = np.array([rows.sum() for rows in self._block_rows], np.int64)
        self._shard_first = np.concatenate([[0], np.cumsum(self._shard_rows)])
        self.num_samples = int(self._shard_rows.sum())
        self.seed, self.lanes, self.micro_batch, self.window_blocks = seed, lanes, micro_batch, window_blocks
        self.lane_samples = self.num_samples // lanes
        self.steps_per_epoch = self.lane_samples // micro_batch
        self.epoch_samples = self.steps_per_epoch * micro_batch
        """Samples that a lane gives in an epoch."""
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"the dataset has {self.num_samples} molecules, fewer than one global batch of {lanes} lanes x "
                f"{micro_batch} = {lanes * micro_batch}. Lower data.lanes or data.micro_batch, or add molecules."
            )

    def locate(self, position: int) -> tuple[int, int]:
        """(epoch, position inside that epoch) of a position of a lane's sequence."""
        return divmod(position, self.epoch_samples)

    def lane(self, epoch: int, lane: int) -> LaneEpoch:
        """The windows of one lane in one epoch; takes time by the shards of the dataset, not by its molecules."""
        shards = keyed_permutation(len(self._shard_rows), self.seed, epoch)
        ends = np.cumsum(self._shard_rows[shards])
        begin, end = lane * self.lane_samples, (lane + 1) * self.lane_samples
        first, last = np.searchsorted(ends, begin, side="right"), np.searchsorted(ends, end, side="left")
        shards, ends = shards[first : last + 1], ends[first : last + 1]
        begins = ends - self._shard_rows[shards]
        return LaneEpoch(
            self._block_rows,
            shards,
            np.maximum(begin - begins, 0),
            np.minimum(end, ends) - begins,
            self._shard_first,
            self.window_blocks,
            (self.seed, epoch, lane),
        )


def lanes_of_rank(rank: int, world_size: int, lanes: int) -> range:
    """The lanes that a rank serves: rank, rank + W, rank + 2 W, ...

    Raises:
        ConfigError: the world size does not divide the number of lanes (in particular: more processes than lanes).
    """
    if lanes % world_size:
        choices = [w for w in range(1, lanes + 1) if lanes % w == 0]
        raise ConfigError(
            f"{world_size} processes cannot share {lanes} lanes evenly. Start {' or '.join(map(str, choices))} "
            f"processes, or a new run with data.lanes a multiple of {world_size} (lanes are fixed per run)."
        )
    return range(rank, lanes, world_size)

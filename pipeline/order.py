"""Lanes: which samples every step takes, as a pure function of (seed, epoch, step, lane) and never of the world size.

Shards are permuted by (seed, epoch), laid end to end and cut into L equal lanes; inside a lane the samples of a window
of blocks are shuffled; step k takes the next ``micro_batch`` samples of every lane (design, section 5). What does not
fill a lane or a last step is left out of that epoch only: another epoch permutes the shards differently.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preprocessing.errors import ConfigError


def keyed_rng(*key: int) -> np.random.PCG64:
    """The bit generator that belongs to a tuple of non-negative integers."""
    return np.random.PCG64(np.random.SeedSequence(key))


def keyed_permutation(size: int, *key: int) -> np.ndarray:
    """A permutation of ``range(size)``, int64, that belongs to ``key``.

    Sorts raw bits of the generator: numpy fixes those for ever, whereas ``Generator.permutation`` may change.
    """
    return np.argsort(keyed_rng(*key).random_raw(size), kind="stable")


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
    """The samples of one lane in one epoch: windows of pieces, each with its permutation."""

    def __init__(self, pieces: Sequence[Piece], window_blocks: int, key: tuple[int, ...]):
        self._pieces = pieces
        self._window_blocks = window_blocks
        self._key = key
        sizes = np.fromiter((piece.rows for piece in pieces), np.int64, len(pieces))
        self.window_starts = np.concatenate(
            [[0], np.cumsum(np.add.reduceat(sizes, np.arange(0, len(pieces), window_blocks)))]
        )
        """int64 [windows + 1]: position in the lane's order at which every window begins."""

    def pieces(self, window: int) -> Sequence[Piece]:
        """The blocks of a window, in the order in which they lie on disk."""
        return self._pieces[window * self._window_blocks : (window + 1) * self._window_blocks]

    def permutation(self, window: int) -> np.ndarray:
        """int64 [rows of the window]: the row of the concatenated pieces that stands at each place of the order."""
        return keyed_permutation(int(self.window_starts[window + 1] - self.window_starts[window]), *self._key, window)


class LaneOrder:
    """The order of a whole run; its state is {seed, step, lanes, micro_batch}, so resuming is O(1).

    Args:
        block_rows: for every shard, the rows of its blocks (int arrays), in manifest order.
        seed: non-negative.
        lanes: number of lanes L, fixed for a run.
        micro_batch: molecules that a lane gives to a step.
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
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"the dataset has {self.num_samples} molecules, fewer than one global batch of {lanes} lanes x "
                f"{micro_batch} = {lanes * micro_batch}. Lower data.lanes or data.micro_batch, or add molecules."
            )

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, step inside that epoch) of a global step."""
        return divmod(step, self.steps_per_epoch)

    def lane(self, epoch: int, lane: int) -> LaneEpoch:
        """The windows of one lane in one epoch; costs the shards of the dataset and the blocks of the lane."""
        shards = keyed_permutation(len(self._shard_rows), self.seed, epoch)
        ends = np.cumsum(self._shard_rows[shards])
        begin, end = lane * self.lane_samples, (lane + 1) * self.lane_samples
        pieces: list[Piece] = []
        for place in range(int(np.searchsorted(ends, begin, side="right")), len(shards)):
            shard = int(shards[place])
            shard_begin = int(ends[place] - self._shard_rows[shard])
            if shard_begin >= end:
                break
            pieces += self._cut(shard, begin - shard_begin, end - shard_begin)
        return LaneEpoch(pieces, self.window_blocks, (self.seed, epoch, lane))

    def _cut(self, shard: int, begin: int, end: int) -> list[Piece]:
        """The pieces of a shard's blocks between its rows ``begin`` and ``end`` (clipped to the shard)."""
        rows = self._block_rows[shard]
        block_ends = np.cumsum(rows)
        pieces = []
        for block in range(int(np.searchsorted(block_ends, max(begin, 0), side="right")), len(rows)):
            block_begin = int(block_ends[block] - rows[block])
            if block_begin >= end:
                break
            start, stop = max(begin - block_begin, 0), min(end - block_begin, int(rows[block]))
            pieces.append(Piece(shard, block, start, stop - start, int(self._shard_first[shard]) + block_begin + start))
        return pieces


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

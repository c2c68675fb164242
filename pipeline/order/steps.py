"""Steps: which samples of every dataset and lane a step takes, as a pure function of (seed, step, lane).

Step k takes the next ``micro_batch`` samples of every lane; of several datasets, a share of them that follows from k
and the weights alone. The whole state of a run is therefore {seed, step, lanes, micro_batch}, and resuming is O(1).
"""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np

from molstream.errors import ConfigError
from molstream.pipeline.order.lanes import LaneOrder
from molstream.randomness import keyed_bits, keyed_rng

RANKS = 0x6C656E67
"""Key that separates the ranks of length buckets from other draws of the same seed and lane."""


class Shares:
    """How many of a lane's first samples each of D datasets has given: exact, in O(D), without a history.

    The samples are split between the last dataset and those before it, the share of these again between the last but
    one and those before it, and so on: of m samples, ``floor(m W_{d-1} / W_d + 1/2)`` go on, where W_d is the sum of
    the first d weights. Each such count grows by 0 or 1 with every sample, hence no share ever shrinks. (Rounding the
    boundaries t W_d themselves would let a dataset of small weight take samples back.)

    Args:
        weights: positive numbers, taken by their decimal form: 0.7 and 0.3 are 7 and 3.

    Raises:
        ConfigError: a weight is not a positive number.
    """

    def __init__(self, weights: Sequence[float]):
        for weight in weights:
            if not 0 < weight < float("inf"):
                raise ConfigError(f"data.mix: weight={weight}: expected a number above 0. Leave the dataset out?")
        exact = [Fraction(str(weight)) for weight in weights]
        before = [sum(exact[: d + 1], Fraction(0)) for d in range(len(exact))]
        self.weights = tuple(weight / before[-1] for weight in exact)
        """Fractions that add up to 1."""
        self._ratios = [low / high for low, high in pairwise(before)]

    def given(self, total: int) -> tuple[int, ...]:
        """How many of the first ``total`` samples belong to every dataset; they add up to ``total``."""
        counts = []
        for ratio in reversed(self._ratios):
            before = (2 * total * ratio.numerator + ratio.denominator) // (2 * ratio.denominator)
            counts.append(total - before)
            total = before
        return (total, *reversed(counts))


class StepOrder:
    """Which samples of every dataset and lane each step of a training run takes.

    Args:
        orders: the order of each dataset; of several, with ``micro_batch=1``, since steps do not end with their epochs.
        weights: relative weight of each dataset.
        micro_batch: molecules that a lane gives to a step.
        length_buckets: whether the molecules of a window are dealt to its micro-batches by size: each micro-batch draws
            a rank from (seed, step, lane), and gets molecules of that rank in every window that it takes from.
    """

    def __init__(self, orders: Sequence[LaneOrder], weights: Sequence[float], micro_batch: int, length_buckets: bool):
        self.orders, self.micro_batch, self.length_buckets = orders, micro_batch, length_buckets
        self.seed = orders[0].seed
        self._shares = Shares(weights)
        self.num_samples = sum(order.num_samples for order in orders)
        self.steps_per_epoch = max(
            1, orders[0].steps_per_epoch if len(orders) == 1 else self.num_samples // (orders[0].lanes * micro_batch)
        )
        """Number of steps that take as many samples as the datasets have."""

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, step inside that epoch) of a global step; with several datasets, each also has its own epochs."""
        return divmod(step, self.steps_per_epoch)

    def taken(self, step: int) -> list[tuple[int, int]]:
        """For every dataset, the positions [begin, end) of each lane's sequence that a step takes."""
        return list(zip(self._given(step), self._given(step + 1)))

    def parts(self, dataset: int, lane: int, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """How steps divide the positions [begin, end) of a lane's sequence.

        Returns:
            int64 [parts], how many samples each step takes of them, in the order of steps; and uint64 [parts], the rank
            that each step draws in this lane.
        """
        # A share is off its weight by less than one sample for every split that it went through.
        beyond = int((begin + len(self.orders) + 1) / self._shares.weights[dataset] / self.micro_batch) + 2
        first = bisect_right(range(beyond), begin, key=lambda step: self._given(step)[dataset]) - 1
        steps, bounds = [first], [begin]
        while (bound := self._given(steps[-1] + 1)[dataset]) < end:
            if bound > bounds[-1]:
                bounds.append(bound)
                steps.append(steps[-1] + 1)
            else:
                steps[-1] += 1
        ranks = keyed_bits(np.array(steps), keyed_rng(self.seed, lane, RANKS).random_raw())
        return np.diff([*bounds, end]), ranks

    def _given(self, step: int) -> tuple[int, ...]:
        return self._shares.given(step * self.micro_batch)


def dealt(permutation: np.ndarray, sizes: np.ndarray, lengths: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """A window's permutation in which every part holds molecules of similar size.

    Args:
        permutation: int64 [rows], a random order, which decides between molecules of equal size.
        sizes: int64 [rows], atoms of the molecule in every row.
        lengths: int64 [parts], rows of the parts that follow each other in the order; they add up to the rows.
        ranks: [parts]: the part of the lowest rank gets the smallest molecules, and so on.
    """
    by_size = permutation[np.argsort(sizes[permutation], kind="stable")]
    by_rank = np.argsort(ranks, kind="stable")
    ends = np.cumsum(lengths)
    order = np.empty_like(by_size)
    begin = 0
    for part in by_rank:
        order[ends[part] - lengths[part] : ends[part]] = by_size[begin : begin + lengths[part]]
        begin += lengths[part]
    return order

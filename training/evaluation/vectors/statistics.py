"""Means over cross-validation folds with intervals, and paired comparisons (Nadeau and Bengio's corrected t).

The folds of repeated cross-validation share training molecules, so that their scores vary less than those of
independent samples. Nadeau and Bengio (Machine Learning 52, 2003) enlarge the variance of the mean of k folds from
s^2 / k to s^2 (1 / k + n_test / n_train).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
"""Of the intervals."""
RESOLUTION = 5
"""How many units of the last shown digit the width of an interval has at least."""


@dataclass(frozen=True)
class Estimate:
    """A mean, or a mean difference, with its uncertainty."""

    mean: float
    """In the unit of what was averaged."""
    variance: float
    """Of the mean, in the square of that unit."""
    freedom: float
    """Degrees of freedom of Student's t."""

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval."""
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, self.freedom)) * math.sqrt(self.variance)

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.mean + self.half_width

    @property
    def p(self) -> float:
        """Two-sided p value of the hypothesis that the true mean is 0."""
        if self.variance == 0:
            return float(self.mean == 0)
        return float(2 * stats.t.sf(abs(self.mean) / math.sqrt(self.variance), self.freedom))

    def plain(self) -> dict[str, float]:
        """The mean and the ends of its interval, for JSON."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def over_folds(values: Sequence[float] | np.ndarray, test_to_train: float) -> Estimate:
    """Estimate the mean of the scores, or paired differences, of k folds.

    Args:
        values: one for each fold, at least two.
        test_to_train: number of test molecules of a fold, divided by that of its training molecules.
    """
    each = np.asarray(values, np.float64)
    variance = float(each.var(ddof=1)) * (1 / len(each) + test_to_train)
    return Estimate(float(each.mean()), variance, len(each) - 1.0)


def over_tasks(estimates: Sequence[Estimate]) -> Estimate:
    """Estimate the mean over independent tasks, whose variances add."""
    count = len(estimates)
    parts = [Estimate(each.mean / count, each.variance / count**2, each.freedom) for each in estimates]
    return _summed(sum(each.mean for each in parts), parts)


def over_seeds(values: Sequence[np.ndarray], test_to_train: Sequence[float]) -> Estimate:
    """Estimate the mean over tasks, seeds and folds: untrained encoders are a sample, too.

    The variance of the mean of several seeds is added to that of the folds. It is that of their means over all tasks,
    since a seed has the same weights in each.

    Args:
        values: [seeds, folds] of each task.
        test_to_train: of each task, as in :func:`over_folds`.
    """
    folds = over_tasks([over_folds(each.mean(0), ratio) for each, ratio in zip(values, test_to_train, strict=True)])
    means = np.mean([each.mean(1) for each in values], axis=0)
    if len(means) == 1:
        return folds
    return _summed(folds.mean, [folds, Estimate(folds.mean, float(means.var(ddof=1)) / len(means), len(means) - 1.0)])


def _summed(mean: float, parts: Sequence[Estimate]) -> Estimate:
    """An estimate whose variance is a sum; its degrees of freedom are those of Welch and Satterthwaite."""
    total = sum(each.variance for each in parts)
    squares = sum(each.variance**2 / each.freedom for each in parts)
    return Estimate(mean, total, total**2 / squares if squares else sum(each.freedom for each in parts))


def decimals(low: float, high: float) -> int:
    """How many decimals the width of an interval allows: the last one is at most a fifth of it."""
    width = high - low
    return min(6, max(0, math.ceil(math.log10(RESOLUTION / width)))) if width > 0 else 3


def shown(mean: float, low: float, high: float) -> str:
    """A mean in the digits that its interval allows, with half of the interval: ``0.86 ± 0.04``."""
    digits = decimals(low, high)
    return f"{mean:.{digits}f} ± {(high - low) / 2:.{digits}f}"


def verdict(difference: Estimate, samples: str) -> str:
    """Say in words what the difference of two scores, of which higher ones are better, shows.

    Args:
        difference: the first one's score less the second one's.
        samples: what showed it, such as ``642 molecules``.
    """
    low, high = difference.low, difference.high
    digits = decimals(low, high)
    if low > 0:
        return f"better by {difference.mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
    if high < 0:
        return f"worse by {-difference.mean:.{digits}f} ({-high:.{digits}f} to {-low:.{digits}f})"
    return f"no difference that {samples} could show ({low:.{digits}f} to {high:.{digits}f})"

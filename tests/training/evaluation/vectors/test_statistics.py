"""The corrected t test against scipy and a computation by hand, and the digits and sentences that follow from it."""

import math

import numpy as np
import pytest
from scipy import stats

from molstream.training.evaluation.vectors.statistics import (
    Estimate,
    over_folds,
    over_seeds,
    over_tasks,
    shown,
    verdict,
)


def test_without_correction_it_is_the_paired_t_test_of_scipy():
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.5, 1, 25), rng.normal(0, 1, 25)
    expected = stats.ttest_rel(one, other)
    found = over_folds(one - other, 0.0)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_the_correction_by_hand():
    # Mean 0.2, s^2 = 0.02 / 3; (1 / 4 + 1 / 4) s^2 = 0.01 / 3, whose root is 0.0577; t = 3.464 with 3 degrees.
    found = over_folds([0.1, 0.3, 0.2, 0.2], 0.25)
    assert found.mean == pytest.approx(0.2)
    assert found.variance == pytest.approx(0.5 * 0.02 / 3)
    assert found.half_width == pytest.approx(3.182446 * math.sqrt(0.01 / 3), rel=1e-6)
    assert found.p == pytest.approx(2 * stats.t.sf(0.2 / math.sqrt(0.01 / 3), 3))


def test_the_spread_of_seeds_by_hand():
    # Seeds have the means 0.1, 0.2 and 0.6, s^2 = 0.07; folds do not vary.
    found = over_seeds([np.repeat([[0.1], [0.2], [0.6]], 4, axis=1)], [0.25])
    assert found.mean == pytest.approx(0.3)
    assert found.variance == pytest.approx(0.07 / 3)
    assert found.freedom == pytest.approx(2)
    # Both sources: variances add, and the degrees of freedom are between the smaller one and the sum.
    values = np.array([[0.1, 0.3, 0.2, 0.2], [0.2, 0.4, 0.3, 0.3]])
    both, folds = over_seeds([values], [0.25]), over_folds(values.mean(0), 0.25)
    assert both.variance == pytest.approx(folds.variance + 0.005 / 2)
    expected = both.variance**2 / (folds.variance**2 / 3 + 0.0025**2)
    assert both.freedom == pytest.approx(expected)
    assert over_seeds([values[:1]], [0.25]) == over_folds(values[0], 0.25)
    # A seed that is better on one task and worse on another is no better.
    assert over_seeds([values, -values], [0.25, 0.25]).variance == pytest.approx(folds.variance / 2)


def test_independent_tasks_add_their_variances():
    rng = np.random.default_rng(1)
    one, other = rng.normal(0, 1, 30), rng.normal(1, 3, 12)
    found = over_tasks([over_folds(one, 0.0), over_folds(-other, 0.0)])
    # The mean of two tasks with opposite signs is half of Welch's difference.
    welch = stats.ttest_ind(one, other, equal_var=False)
    assert found.p == pytest.approx(welch.pvalue)
    assert found.freedom == pytest.approx(welch.df)
    assert 2 * found.mean == pytest.approx(one.mean() - other.mean())


def test_scores_that_do_not_vary_have_no_interval():
    assert over_folds([0.5] * 5, 0.25).p == 0
    equal = over_tasks([over_folds([0.0] * 5, 0.25)] * 2)
    assert (equal.low, equal.high, equal.p) == (0, 0, 1)


@pytest.mark.parametrize(
    ("mean", "half", "text", "words"),
    [
        (0.1153, 0.0351, "0.12 ± 0.04", "better by 0.12 (0.08 to 0.15)"),
        (-0.1153, 0.0351, "-0.12 ± 0.04", "worse by 0.12 (0.08 to 0.15)"),
        (0.0153, 0.035, "0.02 ± 0.04", "no difference that 642 molecules could show (-0.02 to 0.05)"),
        (0.84123, 0.00721, "0.841 ± 0.007", "better by 0.841 (0.834 to 0.848)"),
        (417.2, 61.0, "417 ± 61", "better by 417 (356 to 478)"),
    ],
)
def test_digits_follow_from_the_interval(mean, half, text, words):
    estimate = Estimate(mean, (half / stats.t.ppf(0.975, 24)) ** 2, 24)
    assert shown(estimate.mean, estimate.low, estimate.high) == text
    assert verdict(estimate, "642 molecules") == words

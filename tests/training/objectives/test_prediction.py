"""What makes labels comparable: normal scores against scipy, winsorised values, and which labels are known."""

import numpy as np
import pytest
import torch
from scipy.stats import norm, rankdata

from molstream.training.objectives.prediction import NormalScores, Winsorised
from tests.support.molecules import table_of

NUM_QUANTILES = 129


def columns() -> np.ndarray:
    """float32 [129, 4]: as many values as there are quantiles, some of them equal, some missing in the last column."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.3, NUM_QUANTILES)
    found = np.stack([rng.normal(size=NUM_QUANTILES), counts, rng.integers(0, 2, NUM_QUANTILES)], 1)
    return np.concatenate([found, np.exp(3 * found[:, :1])], 1).astype(np.float32)


def test_normal_scores_are_those_of_mean_ranks():
    values = columns()
    found, known = NormalScores(table_of("abcd", values))(torch.from_numpy(values))
    share = (rankdata(values, axis=0) - 1) / (NUM_QUANTILES - 1)
    expected = norm.ppf(share.clip(0.5 / NUM_QUANTILES, 1 - 0.5 / NUM_QUANTILES))
    assert known.all()
    np.testing.assert_allclose(found, expected, atol=2e-5)
    # Ranks do not depend on the scale of a column.
    np.testing.assert_allclose(found[:, 0], found[:, 3], atol=1e-4)


def test_scores_between_and_beyond_quantiles_are_monotonous_and_bounded():
    values = columns()[:, :1]
    normalize = NormalScores(table_of("a", values))
    line = torch.linspace(-100, 100, 4001).unsqueeze(1)
    found, _ = normalize(line)
    assert (found.diff(dim=0) >= 0).all()
    assert found[0] == -found[-1] == pytest.approx(-2.66, abs=0.01)
    inside = torch.linspace(-1, 1, 201).unsqueeze(1)
    assert (normalize(inside)[0].diff(dim=0) > 0).all()


@pytest.mark.parametrize("kind", [NormalScores, Winsorised])
def test_missing_and_constant_labels_are_not_known(kind):
    values = columns()
    values[:5, 0] = np.nan
    values[:, 2] = 1.0
    values = np.concatenate([values, np.full((NUM_QUANTILES, 1), np.nan, np.float32)], 1)
    table = table_of("abcde", values)
    values[7, 1] = np.inf
    values[:, 4] = 1.0
    found, known = kind(table)(torch.from_numpy(values))
    assert known[:, [2, 4]].sum() == 0
    assert not known[:5, 0].any()
    assert not known[7, 1]
    assert known.sum() == 3 * NUM_QUANTILES - 5 - 1
    assert found.isfinite().all()
    assert (found[~known] == 0).all()


def test_winsorised_values_are_cut_off_at_six_deviations():
    values = np.concatenate([np.zeros(998), [1e6, 1.0]]).astype(np.float32)[:, None]
    found, _ = Winsorised(table_of("a", values))(torch.from_numpy(values))
    assert found.max() == 6.0
    expected = (values - values.mean(dtype=np.float64)) / values.std(dtype=np.float64)
    np.testing.assert_allclose(found, expected.clip(-6, 6), rtol=1e-4, atol=1e-6)

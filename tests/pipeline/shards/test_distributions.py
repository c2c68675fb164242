"""Distributions: those of numpy, and of several datasets together what all of their values have."""

from dataclasses import replace

import numpy as np
import pytest

from molstream.pipeline.shards.distributions import INTERVALS, Distribution, merged

PROBABILITIES = np.linspace(0, 1, INTERVALS + 1)
UNKNOWN = Distribution(0, 7, None, None, ())


def counts(rng: np.random.Generator, size: int) -> np.ndarray:
    """Small numbers, as of functional groups: nearly all are 0."""
    return rng.poisson(0.4, size).astype(np.float32)


def lengths(rng: np.random.Generator, size: int) -> np.ndarray:
    """Positive numbers with a long tail, an eighth of them missing."""
    values = rng.lognormal(3, 1.2, size).astype(np.float32)
    return np.where(rng.random(size) < 1 / 8, np.float32(np.nan), values)


@pytest.mark.parametrize("draw", [counts, lengths])
@pytest.mark.parametrize("size", [1, 2, 50, 3000])
def test_moments_and_quantiles_are_those_of_numpy(draw, size):
    values = draw(np.random.default_rng(size), size)
    found, known = Distribution.of(values), values[~np.isnan(values)].astype(np.float64)
    assert (found.known, found.missing) == (len(known), size - len(known))
    assert found.mean == pytest.approx(known.mean(), rel=1e-12)
    assert found.deviation == pytest.approx(known.std(), rel=1e-9, abs=1e-12)
    expected = np.quantile(known, PROBABILITIES).astype(np.float32)
    np.testing.assert_array_equal(np.array(found.quantiles, np.float32), expected)
    assert found.problem() is None
    assert Distribution.from_dict(found.to_dict()) == found


def test_without_a_known_value_there_is_nothing_but_the_count():
    assert Distribution.of(np.full(7, np.nan, np.float32)) == UNKNOWN
    assert UNKNOWN.problem() is None


def test_the_largest_numbers_of_float32_have_finite_moments():
    found = Distribution.of(np.array([3e38, -3e38, 3e38], np.float32))
    assert found.problem() is None
    assert found.deviation == pytest.approx(2.8284e38, rel=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"known": -1}, "known and missing"),
        ({"missing": True}, "known and missing"),
        ({"known": 0}, "no value is known, but"),
        ({"mean": None}, "no finite number"),
        ({"deviation": float("inf")}, "no finite number"),
        ({"quantiles": (float("nan"),) * 129}, "no finite number"),
        ({"quantiles": ("a",) * 129}, "no finite number"),
        ({"quantiles": (0.0,) * 128}, "129 ascending quantiles"),
        ({"quantiles": (1.0, *(0.0,) * 128)}, "129 ascending quantiles"),
    ],
)
def test_what_cannot_be_true_is_named(values, message):
    good = Distribution.of(np.arange(9, dtype=np.float32))
    assert message in str(replace(good, **values).problem())


@pytest.mark.parametrize("draw", [counts, lengths])
def test_datasets_together_are_what_all_their_values_are(draw):
    rng = np.random.default_rng(3)
    parts = [draw(rng, 4000), 2 * draw(rng, 1000) + 1, draw(rng, 500)]
    found = merged([Distribution.of(part) for part in parts], [len(part) for part in parts])
    expected = Distribution.of(np.concatenate(parts))
    assert (found.known, found.missing) == (expected.known, expected.missing)
    assert found.mean == pytest.approx(expected.mean, rel=1e-12)
    assert found.deviation == pytest.approx(expected.deviation, rel=1e-12)
    # Inside an interval a distribution is taken to be linear: probabilities are off by an interval at most.
    quantiles, between = np.array(expected.quantiles), np.array(found.quantiles[1:-1])
    assert (quantiles[:-2] <= between + 1e-6).all()
    assert (between <= quantiles[2:] + 1e-6).all()
    assert (found.quantiles[0], found.quantiles[-1]) == (expected.quantiles[0], expected.quantiles[-1])
    assert found.problem() is None


def test_a_dataset_weighs_as_its_molecules_and_not_as_those_that_are_counted():
    zeros, ones = Distribution.of(np.zeros(10, np.float32)), Distribution.of(np.ones(1000, np.float32))
    found = merged([zeros, ones], [3000, 1000])
    assert (found.known, found.missing, found.mean) == (4000, 0, 0.25)
    assert found.deviation == pytest.approx(np.sqrt(0.25 * 0.75))
    # At three quarters itself the quantile may be either.
    assert set(found.quantiles[:96]) == {0.0}
    assert set(found.quantiles[97:]) == {1.0}


@pytest.mark.parametrize("draw", [counts, lengths])
def test_equal_datasets_together_are_as_each(draw):
    one = Distribution.of(draw(np.random.default_rng(5), 700))
    both = merged([one, one], [700, 700])
    assert (both.known, both.missing) == (2 * one.known, 2 * one.missing)
    np.testing.assert_allclose(both.quantiles, one.quantiles, rtol=1e-6)


def test_what_one_dataset_does_not_know_the_others_say():
    known = Distribution.of(np.arange(9, dtype=np.float32))
    found = merged([UNKNOWN, known], [7, 9])
    assert (found.known, found.missing, found.mean) == (9, 7, 4.0)
    np.testing.assert_allclose(found.quantiles, known.quantiles, rtol=1e-6)
    assert merged([UNKNOWN, UNKNOWN], [7, 7]) == replace(UNKNOWN, missing=14)

"""Steps: exact shares of several datasets, and micro-batches of similar size, without a history."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.errors import ConfigError
from molstream.pipeline.order.lanes import LaneOrder
from molstream.pipeline.order.steps import Shares, StepOrder, dealt
from molstream.randomness import keyed_permutation

WEIGHTS = st.lists(st.sampled_from([0.001, 0.1, 0.3, 0.7, 1.0, 3.0, 1 / 3, 250.0]), min_size=1, max_size=5)


def make(weights, rows=(40, 17, 9), lanes=2, micro_batch=5, length_buckets=False, seed=3) -> StepOrder:
    """An order over datasets of one block per molecule."""
    orders = [LaneOrder([np.ones(n, int)], seed, lanes, 1, window_blocks=4) for n in rows[: len(weights)]]
    return StepOrder(orders, weights, micro_batch, length_buckets)


@settings(max_examples=80, deadline=None)
@given(weights=WEIGHTS, start=st.sampled_from([0, 10**6, 10**15]))
def test_every_sample_belongs_to_one_dataset_and_shares_are_off_by_no_more_than_a_sample_per_split(weights, start):
    shares = Shares(weights)
    assert sum(shares.weights) == 1
    before = shares.given(start)
    for total in range(start, start + 60):
        given_now = shares.given(total)
        assert sum(given_now) == total
        for count, weight in zip(given_now, shares.weights, strict=True):
            assert abs(count - total * weight) <= len(weights) / 2
        grown = [now - then for now, then in zip(given_now, before, strict=True)]
        assert sorted(grown) == [0] * (len(weights) - 1) + [int(total > start)] or total == start
        before = given_now


def test_decimal_weights_are_exact_and_repeat():
    shares = Shares([0.7, 0.2, 0.1])
    assert [shares.given(10 * k) for k in (1, 3, 10**17)] == [(7, 2, 1), (21, 6, 3), (7 * 10**17, 2 * 10**17, 10**17)]
    assert Shares([1]).given(12345) == (12345,)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(ConfigError, match="weight="):
        Shares([1.0, weight])


@settings(max_examples=60, deadline=None)
@given(weights=WEIGHTS.filter(lambda w: len(w) <= 3), first=st.integers(0, 10**7), micro_batch=st.integers(1, 9))
def test_steps_take_micro_batches_without_gaps_and_parts_say_which_step_takes_a_position(weights, first, micro_batch):
    order = make(weights, micro_batch=micro_batch)
    taken = [order.taken(step) for step in range(first, first + 12)]
    assert all(sum(end - begin for begin, end in step) == micro_batch for step in taken)
    for dataset in range(len(weights)):
        runs = [step[dataset] for step in taken]
        assert all(a[1] == b[0] for a, b in pairwise(runs))
        begin, end = runs[0][0], runs[-1][1]
        if begin == end:
            continue
        lengths, ranks = order.parts(dataset, 1, begin, end)
        assert lengths.tolist() == [b - a for a, b in runs if b > a]
        # Whatever run of positions is asked for, and of whichever dataset, a step has its own rank in a lane.
        for a, b in runs:
            if b > a:
                assert order.parts(dataset, 1, b - 1, b)[1] == order.parts(dataset, 1, a, b)[1]
        assert len(np.unique(ranks)) == len(ranks)
        assert not np.array_equal(ranks, order.parts(dataset, 0, begin, end)[1])


def test_a_step_has_the_same_rank_in_every_dataset_it_takes_from():
    order = make([1.0, 1.0])
    for step in (0, 7, 10**6):
        (a, b), (c, d) = order.taken(step)
        assert order.parts(0, 1, a, b)[1] == order.parts(1, 1, c, d)[1]


def test_an_epoch_of_several_datasets_takes_as_many_samples_as_there_are():
    order = make([1.0, 1.0])
    assert order.steps_per_epoch == (40 + 17) // (2 * 5)
    assert order.locate(12) == (2, 2)


def test_a_window_is_dealt_by_size_and_none_is_lost():
    sizes = np.random.default_rng(0).integers(1, 40, 50)
    permutation = keyed_permutation(50, 1)
    lengths, ranks = np.array([3, 16, 16, 15]), np.array([7, 2, 9, 4], np.uint64)
    order = dealt(permutation, sizes, lengths, ranks)
    assert sorted(order) == list(range(50))
    parts = np.split(sizes[order], np.cumsum(lengths)[:-1])
    by_rank = np.concatenate([parts[k] for k in (1, 3, 0, 2)])
    assert np.array_equal(by_rank, np.sort(sizes))
    # Molecules of equal size stand in the order of the permutation.
    assert np.array_equal(dealt(permutation, np.ones(50, int), np.array([50]), np.array([0])), permutation)

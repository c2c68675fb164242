"""The search for rows that kill workers, against known killers; the real thing, on Ray, is in test_job."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.errors import DataError
from molstream.pipeline.stages.bisect import Attempt, Call, died, survived


def search(rows: int, kills) -> Call:
    """Play all attempts until the whole goes through; ``kills(rows, avoided)`` says whether an attempt dies."""
    call = Call(print, (), "a.csv:0-9", rows)
    waiting = [Attempt(call)]
    rng = random.Random(rows)
    while waiting:
        attempt = waiting.pop(rng.randrange(len(waiting)))
        whole = attempt.only is None
        if kills(range(rows) if whole else attempt.only, call.culprits if whole else []):
            waiting += died(attempt)
        elif not whole:
            waiting += survived(attempt)
        else:
            assert waiting == []
    return call


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 100).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=4))))
def test_exactly_the_killers_are_found(case):
    rows, killers = case
    call = search(rows, lambda part, avoided: any(k in part and k not in avoided for k in killers))
    assert sorted(call.culprits) == sorted(killers)


def test_deaths_from_outside_blame_nobody():
    rng = random.Random(3)
    for _ in range(50):
        deaths = [rng.random() < 0.5 for _ in range(8)]
        assert (
            search(16, lambda part, avoided, deaths=deaths: bool(deaths) and deaths.pop() and len(part) > 1).culprits
            == []
        )


def test_deaths_of_no_row_in_particular_end_in_an_error():
    with pytest.raises(DataError, match=r"workers of a\.csv:0-9 keep dying"):
        search(8, lambda part, avoided: len(part) == 8)

"""Numbers of the cases, and the watch that ends a test that hangs."""

import faulthandler
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PER_TEST = 10
"""Cases that one test runs, so that the names of a subject's tests stay few."""
FAST = 0.1
"""Fraction of the cases that `make test` runs."""
HANGING_S = 120.0
"""Wall-clock limit of a case; no honest one takes a twentieth of it."""


def numbered(count: int) -> pytest.MarkDecorator:
    """Parametrise a test by ``numbers``: the cases 0 to ``count`` - 1 in portions, all but the first ones slow."""
    portions = [
        pytest.param(
            range(start, min(start + PER_TEST, count)),
            id=f"{start}-{min(start + PER_TEST, count) - 1}",
            marks=() if start < FAST * count else pytest.mark.slow,
        )
        for start in range(0, count, PER_TEST)
    ]
    return pytest.mark.parametrize("numbers", portions)


@contextmanager
def case(subject: str, number: int) -> Iterator[random.Random]:
    """Yield the case's source of randomness; a case that hangs ends the process with the stack of every thread.

    A signal would not do: a loop in C++ does not return to Python.
    """
    faulthandler.dump_traceback_later(HANGING_S, exit=True)
    try:
        yield random.Random(f"{subject} {number}")
    except BaseException as error:
        error.add_note(f"case {number} of {subject}")
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()

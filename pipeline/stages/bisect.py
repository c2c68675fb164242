"""Search for the rows that kill workers: a task whose workers keep dying is tried in halves, down to single rows.

A crash of the chemistry ends in the sandbox, which knows the molecule at once. This search is for what ends the whole
worker: the memory monitor of a cluster, the out-of-memory killer of the system, a crash outside of the chemistry.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from molstream.errors import DataError

ROUNDS = 3
"""Searches without a culprit before the job fails: the workers die of something else."""


@dataclass
class Call:
    """A task over some rows of a split, and what is known about the deaths of its workers."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    name: str
    rows: int
    """0 for a task without rows, which is only repeated."""
    deaths: int = 0
    """Workers that died on the whole call since the last search."""
    rounds: int = 0
    """Searches since the last culprit."""
    culprits: list[int] = field(default_factory=list)
    """Rows that killed a worker twice, each alone."""
    suspects: set[int] = field(default_factory=set)
    """Rows that killed a worker once, alone."""
    open_parts: int = 0
    """Parts of the current search that are not settled."""


@dataclass(frozen=True)
class Attempt:
    """An attempt at the whole call, or at some of its rows without writing a result."""

    call: Call
    only: range | None = None


def died(attempt: Attempt) -> list[Attempt]:
    """The next attempts, after the worker of an attempt has died.

    The whole call is repeated once and then tried in halves; a part is halved again; a single row is repeated once, and
    is a culprit if its worker dies again. When all parts are settled, the whole call is tried without the culprits.

    Raises:
        DataError: workers die, but no row in particular kills them.
    """
    call, rows = attempt.call, attempt.only
    if rows is None:
        call.deaths += 1
        if call.deaths < 2:
            return [attempt]
        if call.rounds == ROUNDS:
            raise DataError(
                f"the workers of {call.name} keep dying, but no row in particular kills them. Look at the memory of "
                "the machines and at Ray's logs; the work so far is kept, and the same command continues."
            )
        call.rounds, call.deaths = call.rounds + 1, 0
        return _halves(call, range(call.rows)) if call.rows else [attempt]
    if len(rows) > 1:
        call.open_parts -= 1
        return _halves(call, rows)
    if rows.start not in call.suspects:
        call.suspects.add(rows.start)
        return [attempt]
    call.culprits.append(rows.start)
    call.rounds = 0
    return survived(attempt)


def survived(attempt: Attempt) -> list[Attempt]:
    """The next attempts, after an attempt at some rows has succeeded (or its culprit is known)."""
    call = attempt.call
    call.open_parts -= 1
    return [] if call.open_parts else [Attempt(call)]


def _halves(call: Call, rows: range) -> list[Attempt]:
    middle = (rows.start + rows.stop) // 2
    parts = [part for part in (range(rows.start, middle), range(middle, rows.stop)) if len(part)]
    call.open_parts += len(parts)
    return [Attempt(call, part) for part in parts]

"""Who killed the worker? A split whose workers keep dying is tried in parts, until the culprit stands alone.

Chemistry dies in the sandbox, which knows the molecule at once. This is for what takes the whole worker with it: the
memory monitor of a cluster, the system's own killer, a crash outside of the chemistry.
"""

from dataclasses import dataclass, field
from typing import Any

from molstream.errors import DataError

ROUNDS = 3
"""Searches without a culprit before the split is given up: its workers die of something else."""


@dataclass
class Call:
    """A task over the rows of a split, and what is known of its deaths."""

    arguments: tuple[Any, ...]
    name: str
    rows: int
    """0 for a task without rows, which is only tried again."""
    deaths: int = 0
    """Of the whole, since the last search."""
    rounds: int = 0
    culprits: list[int] = field(default_factory=list)
    """Rows that killed a worker twice, each alone."""
    suspects: set[int] = field(default_factory=set)
    """Rows that killed a worker once, alone."""
    open_parts: int = 0


@dataclass(frozen=True)
class Attempt:
    """One try: of the whole call, or of some of its rows without leaving a result."""

    call: Call
    only: range | None = None


def died(attempt: Attempt) -> list[Attempt]:
    """What to try next, after the worker of an attempt has died.

    The whole is tried once more, then in halves; a part is halved on; a single row is tried once more and is then a
    culprit. When all parts are settled the whole is tried without the culprits.

    Raises:
        DataError: workers die, but of no row in particular.
    """
    call, rows = attempt.call, attempt.only
    if rows is None:
        call.deaths += 1
        if call.deaths < 2:
            return [attempt]
        if call.rounds == ROUNDS:
            raise DataError(
                f"the workers of {call.name} keep dying, and of none of its rows in particular. Look at the memory of "
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
    """What to try next, after an attempt of some rows has ended well (or its culprit is known)."""
    call = attempt.call
    call.open_parts -= 1
    return [] if call.open_parts else [Attempt(call)]


def _halves(call: Call, rows: range) -> list[Attempt]:
    middle = (rows.start + rows.stop) // 2
    parts = [part for part in (range(rows.start, middle), range(middle, rows.stop)) if len(part)]
    call.open_parts += len(parts)
    return [Attempt(call, part) for part in parts]

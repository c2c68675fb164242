"""Tasks on a real Ray whose workers really die."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from molstream.errors import DataError
from molstream.pipeline.executor.ray import run
from molstream.pipeline.stages.bisect import Call
from tests.support.local_ray import local_ray

ROWS = 12


def visit(killers: Sequence[int], avoid: Sequence[int] = (), only: range | None = None) -> list[int]:
    """The rows that were done; the worker dies at a killer, as at the hands of the system."""
    done = []
    for row in only if only is not None else range(ROWS):
        if row in avoid:
            continue
        if row in killers:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(row)
    return done


def once(path: str) -> str:
    """Dies the first time."""
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def refuse(error: Exception) -> None:
    raise error


@pytest.fixture(scope="module", autouse=True)
def _ray():
    with local_ray(num_cpus=2):
        yield


def results(calls: list[Call]) -> dict[str, object]:
    found: dict[str, object] = {}

    def done(call: Call, result: object) -> list[Call]:
        found[call.name] = result
        return []

    run(calls, done, lambda: None)
    return found


def test_rows_that_kill_workers_are_found_and_nobody_else_suffers():
    killers = {"a": (), "b": (3, 7), "c": (), "d": (0,)}
    calls = [Call(visit, (bad,), name, ROWS) for name, bad in killers.items()]
    found = results(calls)
    assert {call.name: tuple(sorted(call.culprits)) for call in calls} == killers
    assert found == {name: [row for row in range(ROWS) if row not in bad] for name, bad in killers.items()}


def test_a_worker_killed_once_is_no_reason_to_blame_a_row(tmp_path):
    call = Call(once, (str(tmp_path / "died"),), "a", ROWS)
    assert results([call]) == {"a": "done"}
    assert call.culprits == []


def test_calls_that_follow_from_a_result_are_done():
    order: list[str] = []

    def done(call: Call, result: object) -> list[Call]:
        order.append(call.name)
        return [Call(visit, ((),), f"{call.name}+", ROWS)] if len(call.name) < 3 else []

    run([Call(visit, ((),), name, ROWS) for name in "ab"], done, lambda: None)
    assert sorted(order) == ["a", "a+", "a++", "b", "b+", "b++"]


@pytest.mark.parametrize("error", [DataError("the file is gone"), OSError(28, "No space left on device")])
def test_errors_that_people_can_act_on_come_through_as_they_are(error):
    with pytest.raises(type(error)) as caught:
        results([Call(refuse, (error,), "a", ROWS)])
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)

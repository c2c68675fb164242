"""Tasks on a real Ray whose workers really die."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from molstream.errors import DataError
from molstream.pipeline.config import RayConfig
from molstream.pipeline.executor.ray import cluster, run
from molstream.pipeline.stages.bisect import Call

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
    handler, environment = signal.getsignal(signal.SIGTERM), dict(os.environ)
    with cluster(RayConfig(num_cpus=2)):
        yield
    signal.signal(signal.SIGTERM, handler)
    # What is set for this Ray must not reach those of other tests.
    os.environ.clear()
    os.environ.update(environment)


def results(function, calls: list[Call]) -> dict[str, object]:
    found: dict[str, object] = {}
    run(function, calls, lambda call, result: found.__setitem__(call.name, result), lambda: None)
    return found


def test_rows_that_kill_workers_are_found_and_nobody_else_suffers():
    killers = {"a": (), "b": (3, 7), "c": (), "d": (0,)}
    calls = [Call((bad,), name, ROWS) for name, bad in killers.items()]
    found = results(visit, calls)
    assert {call.name: tuple(sorted(call.culprits)) for call in calls} == killers
    assert found == {name: [row for row in range(ROWS) if row not in bad] for name, bad in killers.items()}


def test_a_worker_killed_once_is_no_reason_to_blame_a_row(tmp_path):
    call = Call((str(tmp_path / "died"),), "a", ROWS)
    assert results(once, [call]) == {"a": "done"}
    assert call.culprits == []


@pytest.mark.parametrize("error", [DataError("the file is gone"), OSError(28, "No space left on device")])
def test_errors_that_people_can_act_on_come_through_as_they_are(error):
    with pytest.raises(type(error)) as caught:
        results(refuse, [Call((error,), "a", ROWS)])
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)

"""A push that is killed at any moment: no half of a model ever loads, and the same push finishes it."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from molstream.training.hubs.source import push_target
from tests.support.loaded import loaded
from tests.support.mlflow_server import requires_mlflow

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("token")]

PROGRAM = """
import sys
from pathlib import Path
from molstream.training.hubs.source import push_target
push_target(sys.argv[1], True, None).push(Path(sys.argv[2]), True, None)
"""


def started(url: str, folder: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", PROGRAM, url, str(folder)])


@pytest.mark.parametrize("moment", range(1, 11))
def test_killed_at_a_request_to_hugging_face(hub, exports, moment):
    """At odd moments the server still does what it was asked for, at even ones it does not."""
    url = "hf://org/encoder"
    hub.part_bytes = 60_000
    push_target(url, True, None).push(exports[0], True, None)
    start, reached, killed = len(hub.asked), threading.Event(), threading.Event()

    def answer(method: str, path: str) -> int | None:
        if len(hub.asked) - start < moment:
            return None
        reached.set()
        killed.wait(60)
        return None if moment % 2 else 500

    hub.answer_with = answer
    process = started(url, exports[1])
    try:
        assert reached.wait(300)
    finally:
        process.kill()
        process.wait()
        killed.set()
    hub.answer_with = lambda method, path: None
    assert loaded(url, exports) in (0, 1)
    done = push_target(url, True, None).push(exports[1], True, None)
    assert loaded(url, exports) == loaded(done.address, exports) == 1
    assert not push_target(url, True, None).push(exports[1], True, None).changed


@pytest.mark.parametrize("moment", range(1, 11))
def test_killed_at_a_request_to_an_object_store(object_store, exports, moment):
    url = f"s3://data/killed-{moment}"
    push_target(url, True, None).push(exports[0], True, None)

    def requests() -> int:
        return object_store.log.read_text().count(f"/data/killed-{moment}/")

    start, process = requests(), started(url, exports[1])
    while process.poll() is None and requests() - start < moment:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert loaded(url, exports) in (0, 1, None)
    push_target(url, True, None).push(exports[1], True, None)
    assert loaded(url, exports) == 1
    assert not push_target(url, True, None).push(exports[1], True, None).changed


@requires_mlflow
@pytest.mark.parametrize("moment", range(1, 11))
def test_killed_at_a_request_to_mlflow_or_at_a_file(mlflow_server, exports, moment):
    url = f"mlflow://killed-{moment}"
    push_target(url, True, None).push(exports[0], True, None)

    def events() -> int:
        """Requests to the server, and files that have arrived."""
        files = sum(path.is_file() for path in (mlflow_server.folder / "artifacts").rglob("*"))
        return files + (mlflow_server.folder / "server.log").read_text().count("/api/2.0/mlflow/")

    start, process = events(), started(url, exports[1])
    while process.poll() is None and events() - start < moment:
        time.sleep(0.001)
    process.kill()
    process.wait()
    # A version is registered when its files have arrived, so that the old one is there until then.
    assert loaded(url, exports) in (0, 1)
    done = push_target(url, True, None).push(exports[1], True, None)
    assert done.address == f"{url}/2"
    assert loaded(url, exports) == loaded(done.address, exports) == 1
    assert not push_target(url, True, None).push(exports[1], True, None).changed

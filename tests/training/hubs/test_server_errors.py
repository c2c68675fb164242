"""Servers that answer 500 and 429, for a while or until they are mended: no half of a model ever loads."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from molstream import load_pretrained
from molstream.errors import MolstreamError, RemoteError
from molstream.training.hubs.source import push_target
from tests.support.failing_server import failing_server
from tests.support.loaded import loaded
from tests.support.mlflow_server import requires_mlflow
from tests.support.object_store import endpoint

pytestmark = pytest.mark.slow

Failing = Callable[[Callable[[int], int | None]], AbstractContextManager[list[int]]]
"""Puts a server that fails in front of a hub; yields the statuses that it answered with."""
HUBS = ["s3", pytest.param("mlflow", marks=requires_mlflow)]


@pytest.fixture(params=HUBS)
def hub_url(request: pytest.FixtureRequest) -> str:
    """An address at a hub that nothing was pushed to."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    return f"s3://data/{name}" if request.param == "s3" else f"mlflow://{name}"


@pytest.fixture
def failing(hub_url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Before the hub of ``hub_url``."""

    @contextmanager
    def to_object_store(answer: Callable[[int], int | None]) -> Iterator[list[int]]:
        store = request.getfixturevalue("object_store")
        with failing_server(store.port, answer) as (port, failed), endpoint(port):
            yield failed

    @contextmanager
    def to_mlflow(answer: Callable[[int], int | None]) -> Iterator[list[int]]:
        server = request.getfixturevalue("mlflow_server")
        with failing_server(int(server.uri.rpartition(":")[2]), answer) as (port, failed), monkeypatch.context() as own:
            own.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
            yield failed

    request.getfixturevalue("object_store" if hub_url.startswith("s3") else "mlflow_server")
    return to_object_store if hub_url.startswith("s3") else to_mlflow


def pushed(url: str, folder: Path) -> bool:
    return push_target(url, True, None).push(folder, True, None).changed


@pytest.mark.parametrize("status", [500, 429])
def test_a_push_survives_a_server_that_fails_now_and_then(hub_url, failing, exports, status):
    with failing(lambda number: status if number in (1, 6) else None) as failed:
        assert pushed(hub_url, exports[0])
    assert set(failed) == {status}
    assert loaded(hub_url, exports) == 0


@pytest.mark.parametrize("status", [500, 429])
@pytest.mark.parametrize("first", [0, 2, 4])
def test_a_push_that_a_server_ends_is_finished_by_the_same_push(hub_url, failing, exports, status, first):
    pushed(hub_url, exports[0])
    with failing(lambda number: status if number >= first else None) as failed:
        with pytest.raises(RemoteError) as error:
            pushed(hub_url, exports[1])
        assert failed
    assert hub_url in str(error.value)
    assert loaded(hub_url, exports) in (0, 1, None)
    pushed(hub_url, exports[1])
    assert loaded(hub_url, exports) == 1
    assert not pushed(hub_url, exports[1])


@pytest.mark.parametrize("status", [500, 429])
def test_a_server_that_fails_is_named_where_an_export_is_loaded(hub_url, failing, exports, status):
    pushed(hub_url, exports[0])
    with failing(lambda number: status), pytest.raises(MolstreamError) as error:
        load_pretrained(hub_url)
    assert hub_url in str(error.value)
    assert isinstance(error.value, RemoteError)

"""A home with an empty cache for every test, two exports that differ in their weights, and servers for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from molstream.io.remote import Retries
from molstream.training.checkpoint.exported import CARD_FILE
from molstream.training.hubs import cache, hugging_face, mlflow, urls
from tests.support.exports import write_export
from tests.support.hub_server import TOKEN, HubServer, hub_serving
from tests.support.mlflow_server import MLflowServer
from tests.support.object_store import Store, serving

FAST = Retries(attempts=3, first_wait_s=0.01, longest_wait_s=0.02)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home of a test, also of child processes; what fails is not waited for."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    for module in (cache, hugging_face, mlflow):
        monkeypatch.setattr(module, "RETRIES", FAST)
    for module in (urls, hugging_face, mlflow):
        monkeypatch.setattr(module, "PUSH_RETRIES", FAST)
    return folder


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two exports of the same sizes and other weights, with cards."""
    parent = tmp_path_factory.mktemp("exports")
    folders = write_export(parent / "first", seed=1), write_export(parent / "second", seed=2)
    for folder in folders:
        (folder / CARD_FILE).write_text(
            f"---\nlibrary_name: molstream\n---\n\n# {folder.name}\n\nAn encoder.\n\n## Use\n\nThus.\n", "utf-8"
        )
    return folders


@pytest.fixture
def hub(home: Path) -> Iterator[HubServer]:
    """A server that speaks what the client of Hugging Face calls."""
    with hub_serving(home / "hf") as server:
        yield server


@pytest.fixture
def token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token of the hub's owner, in the environment."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """An S3 server, with a bucket."""
    with serving(tmp_path_factory.mktemp("moto")) as store:
        store.put("made", b"")
        yield store


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    """An MLflow server."""
    server = MLflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def mlflow_server(tracking: MLflowServer, monkeypatch: pytest.MonkeyPatch) -> MLflowServer:
    """An MLflow server that the environment names."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.uri)
    return tracking

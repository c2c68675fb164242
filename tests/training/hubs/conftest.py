"""A home with an empty cache for every test, and two exports that differ in their weights."""

from pathlib import Path

import pytest

from molstream.io.remote import Retries
from molstream.training.checkpoint.exported import CARD_FILE
from molstream.training.hubs import cache, hugging_face, mlflow, urls
from tests.support.exports import write_export

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

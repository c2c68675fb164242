"""Fixtures of tests that run command lines in their own process; a ``conftest.py`` imports them."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_lines import Places
from tests.support.datasets import molecules, write_csv


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of six molecules."""
    return write_csv(tmp_path_factory.mktemp("csv") / "molecules.csv", molecules()[:6])


@pytest.fixture
def places(dataset: Path, small_run: Path, export: Path, csv: Path, tmp_path: Path) -> Places:
    """What the words in capitals of a command line stand for."""
    return Places(dataset, small_run, export, csv, tmp_path)


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """Commands that set handlers of signals do so for their process, which is this one."""
    kept = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, kept)

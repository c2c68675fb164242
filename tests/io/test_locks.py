"""Locks: one process at a time; they end with it, whatever ends it, and leave nothing behind."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from molstream.errors import DataError
from molstream.io.locks import claimed, exclusive
from tests.support.datasets import REPOSITORY

HOLDER = """
import sys
from pathlib import Path
from molstream.io import locks
from molstream.io.files import written_whole
with getattr(locks, sys.argv[1])(Path(sys.argv[2])):
    if sys.argv[1] == "claimed":
        context = written_whole(Path(sys.argv[2]))
        context.__enter__().write_text("half")
    print("holds", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(lock: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lock until it is killed."""
    command = [sys.executable, "-c", HOLDER, lock, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "holds\n"
            yield holder
        finally:
            holder.kill()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_second_writer_is_refused_until_the_first_one_is_killed(tmp_path):
    output = tmp_path / "new" / "v.parquet"
    with another_process("claimed", output) as holder:
        with pytest.raises(DataError, match=r"v\.parquet is being written by another process. Wait for it, or"):
            claimed(output).__enter__()
        with claimed(tmp_path / "new" / "w.parquet"):
            pass
        holder.kill()
        holder.wait()
        assert len(names(tmp_path / "new")) == 2
        with claimed(output):
            # What the killed process wrote is gone, its lock is ours.
            assert len(names(tmp_path / "new")) == 1
    assert names(tmp_path / "new") == []


def test_a_link_and_its_target_are_one_output(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "v.parquet")
    with claimed(tmp_path / "link"), pytest.raises(DataError, match="being written"):
        claimed(tmp_path / "v.parquet").__enter__()


def test_a_folder_is_locked_until_its_process_is_killed(tmp_path):
    folder = tmp_path / "a" / "run"
    with another_process("exclusive", folder) as holder:
        with pytest.raises(DataError, match=r"run is locked by another process"):
            exclusive(folder).__enter__()
        assert names(folder) == []
        holder.kill()
        holder.wait()
        with exclusive(folder):
            (folder / "file").touch()
    assert names(folder) == ["file"]


def test_a_new_folder_that_stays_empty_is_removed_with_its_new_parents(tmp_path):
    with exclusive(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert names(tmp_path) == []
    (tmp_path / "kept").mkdir()
    with exclusive(tmp_path / "kept"):
        pass
    assert names(tmp_path) == ["kept"]


def test_a_lock_of_a_file_that_was_removed_meanwhile_is_not_taken_for_one(tmp_path, monkeypatch):
    """The process that held the lock removes its file after this one has opened it."""
    really, calls = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not calls:
            next(tmp_path.iterdir()).unlink()
        calls.append(descriptor)
        really(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with claimed(tmp_path / "v"):
        assert len(calls) == 2
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == []


def test_without_locks_the_work_goes_on_with_a_warning_and_removes_nothing(tmp_path, monkeypatch, capsys):
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr(fcntl, "flock", flock)
    other = tmp_path / ".writing-0123456789ab-v"
    other.touch()
    with claimed(tmp_path / "v"):
        assert f"warning: {tmp_path} has no file locks" in capsys.readouterr().err
    assert names(tmp_path) == [other.name]

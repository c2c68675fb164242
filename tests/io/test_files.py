"""Atomic writes: old or new content, never a part, and nothing else beside it."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from molstream.errors import DataError
from molstream.io.files import folder_written_whole, temporaries, write_atomically, written_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_folder(path: Path, **content: str) -> None:
    with folder_written_whole(path) as temporary:
        for name, text in content.items():
            (temporary / name).write_text(text)


def test_a_folder_takes_the_place_of_another_and_nothing_is_left(tmp_path):
    write_folder(tmp_path / "export", a="1", b="1")
    write_folder(tmp_path / "export", a="2")
    assert names(tmp_path) == ["export"]
    assert names(tmp_path / "export") == ["a"]
    assert (tmp_path / "export" / "a").read_text() == "2"


def test_the_old_folder_is_there_until_the_new_one_is_complete(tmp_path):
    write_folder(tmp_path / "export", a="1")
    with suppress(InterruptedError), folder_written_whole(tmp_path / "export") as temporary:
        (temporary / "a").write_text("2")
        assert (tmp_path / "export" / "a").read_text() == "1"
        raise InterruptedError
    assert names(tmp_path) == ["export"]
    assert (tmp_path / "export" / "a").read_text() == "1"


def test_a_system_that_cannot_exchange_folders_renames_them(tmp_path, monkeypatch):
    write_folder(tmp_path / "export", a="1")
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    write_folder(tmp_path / "export", b="2")
    assert names(tmp_path) == ["export"]
    assert names(tmp_path / "export") == ["b"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "far").mkdir()
    write_folder(tmp_path / "far" / "export", a="1")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "export")
    write_folder(tmp_path / "link", a="2")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "export" / "a").read_text() == "2"
    assert names(tmp_path) == ["far", "link"]


def test_what_is_no_file_or_no_folder_stays(tmp_path):
    (tmp_path / "file").write_text("1")
    with pytest.raises(NotADirectoryError, match="file"):
        write_folder(tmp_path / "file", a="2")
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, b"2")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe is a device or pipe: expected the path of a file"):
        write_atomically(tmp_path / "pipe", b"2")
    assert names(tmp_path) == ["file", "pipe"]


def test_a_folder_on_a_full_disk_is_named_and_the_old_one_stays(disk):
    write_folder(disk.folder / "export", a="1")
    (disk.folder / "filler").write_bytes(bytes(1 << 14))
    disk.fill()
    with pytest.raises(OSError, match="No space left") as failed:
        write_folder(disk.folder / "export", a="2" * 100_000)
    assert failed.value.errno == errno.ENOSPC
    assert failed.value.filename == str(disk.folder / "export")
    assert (disk.folder / "export" / "a").read_text() == "1"
    assert names(disk.folder) == ["export", "filler"]


def test_temporaries_are_those_of_one_name(tmp_path):
    with written_whole(tmp_path / "b") as ours, written_whole(tmp_path / "a-b") as other:
        ours.touch()
        other.touch()
        assert temporaries(tmp_path / "b") == [ours]
        assert temporaries(tmp_path / "a-b") == [other]

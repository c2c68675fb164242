"""A folder of this user alone in the folder that all users share: whatever else has its name is refused."""

import os
import tempfile
from pathlib import Path

import pytest

from molstream.errors import DataError
from molstream.io.private import private_folder
from molstream.training.checkpoint.store import local_folder, open_store


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_made_for_this_user_alone_and_found_again(temporary):
    before = os.umask(0)
    try:
        folder = private_folder("mine")
    finally:
        os.umask(before)
    assert folder.parent == temporary
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "kept").touch()
    assert private_folder("mine") == folder
    assert private_folder("other") != folder


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o750, 0o701])
def test_one_that_others_can_enter_is_refused(mode):
    private_folder("mine").chmod(mode)
    with pytest.raises(DataError, match=rf"-mine has the mode {mode:04o}: expected a folder of this user alone"):
        private_folder("mine")


def test_a_link_or_a_file_is_refused(temporary):
    target = temporary / "target"
    target.mkdir(mode=0o700)
    private_folder("mine").rmdir()
    name = temporary / f"molstream-{os.getuid()}-mine"
    name.symlink_to(target)
    with pytest.raises(DataError, match="-mine is a link"):
        private_folder("mine")
    name.unlink()
    name.symlink_to(temporary / "nowhere")
    with pytest.raises(DataError, match="-mine is a link"):
        private_folder("mine")
    name.unlink()
    name.touch()
    with pytest.raises(DataError, match="-mine is no folder"):
        private_folder("mine")
    assert list(target.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_one_of_another_user_is_refused():
    os.chown(private_folder("mine"), 12345, -1)
    with pytest.raises(DataError, match="-mine belongs to the user 12345"):
        private_folder("mine")


def test_checkpoints_of_a_url_are_kept_in_one(temporary):
    open_store("memory://mine", temporary / "run")
    with pytest.raises(Exception, match="is not a checkpoint"):
        local_folder("memory://mine/step_00000001")
    folders = [path for path in temporary.iterdir() if "checkpoints" in path.name]
    assert len(folders) == 2
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)
    for folder in folders:
        folder.chmod(0o755)
    with pytest.raises(DataError, match="has the mode 0755"):
        open_store("memory://mine", temporary / "run")
    with pytest.raises(DataError, match="has the mode 0755"):
        local_folder("memory://mine/step_00000001")

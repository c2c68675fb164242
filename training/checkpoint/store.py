"""Stores of a run's checkpoints: a folder on a shared file system, or a URL of an object store.

Both commit a checkpoint atomically. In a folder, a checkpoint has a temporary name until its marker is written. Objects
cannot be renamed: at a URL a checkpoint exists once its marker exists, so the marker is written last and removed first.
"""

import fcntl
import hashlib
import os
import shutil
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from molstream.errors import CheckpointError, DataError, in_words
from molstream.io.files import sync, write_atomically
from molstream.io.names import is_file_name
from molstream.io.private import private_folder
from molstream.io.remote import Retries, copy, exists, is_url, names_below, read, remove, shown, upload, write
from molstream.training.checkpoint.format import MARKER, checkpoints, damage, drop, is_name, name_of, step_of

REMOTE_RETRIES = Retries()


class CheckpointStore(ABC):
    """Base class of the stores of a run's checkpoints, which are addressed by step."""

    where: str
    """Folder or URL, for messages; without credentials."""

    @abstractmethod
    def clean(self, done: int) -> None:
        """Remove unfinished and damaged checkpoints of earlier launches, before any process writes.

        Args:
            done: step of the newest intact checkpoint; later ones are damaged. 0 if there is none.
        """

    @abstractmethod
    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, ascending; their content is not verified."""

    @abstractmethod
    def staging(self, step: int) -> Path:
        """Create and return the local folder to which this process writes its files of a checkpoint."""

    @abstractmethod
    def publish(self, step: int) -> None:
        """Move this process's staged files, which are synced, to where the first process reads them."""

    @abstractmethod
    def read(self, step: int, name: str) -> bytes:
        """Read a published file of a checkpoint, committed or not.

        Raises:
            FileNotFoundError: the file does not exist.
        """

    @abstractmethod
    def commit(self, step: int, marker: bytes) -> None:
        """Commit the files that all processes have published: write the marker."""

    @abstractmethod
    def discard(self, step: int) -> None:
        """Remove the published files of a checkpoint that is not committed."""

    @abstractmethod
    def drop(self, step: int) -> None:
        """Remove a committed checkpoint."""

    @abstractmethod
    def fetch(self, step: int) -> Path:
        """Return a local folder with all files of a committed checkpoint; a remote store downloads them."""

    def latest(self, warn: Callable[[str], None]) -> int | None:
        """Step of the newest intact checkpoint, or None; ``warn`` is called with a message for each damaged one."""
        for step in reversed(self.steps()):
            try:
                problem = damage(self.fetch(step))
            except (DataError, CheckpointError, OSError) as error:
                problem = in_words(error)
            if problem is None:
                return step
            warn(f"checkpoint {self.where}/{name_of(step)} is damaged ({problem}); trying the previous one")
        return None


class FolderStore(CheckpointStore):
    """Checkpoints in a folder on a file system that all processes of the run share.

    Args:
        folder: holds one folder per checkpoint.
    """

    def __init__(self, folder: Path):
        self.where, self._folder = str(folder), folder

    def clean(self, done: int) -> None:
        for stale in self._folder.glob(".*-step_*"):
            shutil.rmtree(stale)
        for step in self.steps():
            if step > done:
                self.drop(step)

    def steps(self) -> list[int]:
        return [step_of(path) for path in checkpoints(self._folder)]

    def staging(self, step: int) -> Path:
        folder = self._written(step)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(self, step: int) -> None:
        """Do nothing: the staging folder is shared already."""

    def read(self, step: int, name: str) -> bytes:
        committed = self._folder / name_of(step)
        return ((committed if committed.is_dir() else self._written(step)) / name).read_bytes()

    def commit(self, step: int, marker: bytes) -> None:
        temporary, target = self._written(step), self._folder / name_of(step)
        write_atomically(temporary / MARKER, marker)
        temporary.rename(target)
        sync(self._folder)

    def discard(self, step: int) -> None:
        shutil.rmtree(self._written(step), ignore_errors=True)

    def drop(self, step: int) -> None:
        drop(self._folder / name_of(step))

    def fetch(self, step: int) -> Path:
        return self._folder / name_of(step)

    def _written(self, step: int) -> Path:
        return self._folder / f".writing-{name_of(step)}"


class RemoteStore(CheckpointStore):
    """Checkpoints at a URL of fsspec.

    The scratch folder of a machine holds only the checkpoint that is being written and the one that was read last.

    Args:
        url: the folder of checkpoints.
        scratch: a local folder, which the processes of a machine share.
        process: unique name of this process, part of the name of its staging folder.
        retries: how often requests that failed at the server are repeated.
    """

    def __init__(self, url: str, scratch: Path, process: str, retries: Retries = REMOTE_RETRIES):
        self._url, self.where = url.rstrip("/"), shown(url.rstrip("/"))
        self._scratch, self._process, self._retries = scratch, process, retries

    def clean(self, done: int) -> None:
        committed = set(self.steps())
        for step in self._all_steps():
            if step not in committed:
                self.discard(step)
            elif step > done:
                self.drop(step)

    def steps(self) -> list[int]:
        return [
            step for step in self._all_steps() if self._retries.call(lambda step=step: exists(self._at(step, MARKER)))
        ]

    def staging(self, step: int) -> Path:
        folder = self._scratch / f".writing-{name_of(step)}-{self._process}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(self, step: int) -> None:
        folder = self.staging(step)
        for file in sorted(folder.iterdir()):
            self._retries.call(lambda file=file: upload(file, self._at(step, file.name)))
        shutil.rmtree(folder)

    def read(self, step: int, name: str) -> bytes:
        return self._retries.call(lambda: read(self._at(step, name)))

    def commit(self, step: int, marker: bytes) -> None:
        self._retries.call(lambda: write(self._at(step, MARKER), marker))

    def discard(self, step: int) -> None:
        self._retries.call(lambda: remove(f"{self._url}/{name_of(step)}"))

    def drop(self, step: int) -> None:
        self._retries.call(lambda: remove(self._at(step, MARKER)))
        self.discard(step)

    def fetch(self, step: int) -> Path:
        """Download a checkpoint once per machine; other processes of the machine wait for the download."""
        target = self._scratch / name_of(step)
        self._scratch.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._scratch, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Equal markers mean equal files, since the marker has all checksums: the URL may have held another run.
            if _marker(target) != self.read(step, MARKER):
                for old in self._scratch.glob("step_*"):
                    shutil.rmtree(old)
                arriving = self._scratch / f".fetching-{name_of(step)}"
                shutil.rmtree(arriving, ignore_errors=True)
                arriving.mkdir()
                for name in self._files(step):
                    self._retries.call(lambda name=name: copy(self._at(step, name), arriving / name))
                arriving.rename(target)
        finally:
            os.close(lock)
        return target

    def _files(self, step: int) -> list[str]:
        """Names of the objects of a checkpoint, each of which can be the name of a local file."""
        names = self._retries.call(lambda: names_below(f"{self._url}/{name_of(step)}"))
        if strange := [name for name in names if not is_file_name(name)]:
            raise DataError(
                f"{self.where}/{name_of(step)} has an object called {strange[0]!r}, which is no file of a checkpoint: "
                "remove it there."
            )
        return names

    def _all_steps(self) -> list[int]:
        return sorted(int(n.removeprefix("step_")) for n in self._names() if is_name(n))

    def _names(self) -> list[str]:
        return self._retries.call(lambda: names_below(self._url))

    def _at(self, step: int, name: str) -> str:
        return f"{self._url}/{name_of(step)}/{name}"


def _marker(folder: Path) -> bytes | None:
    """The marker of a downloaded checkpoint; None if there is none."""
    try:
        return (folder / MARKER).read_bytes()
    except OSError:
        return None


def open_store(url: str | None, folder: Path) -> CheckpointStore:
    """Open the store of a run's checkpoints: at ``url``, or in ``folder`` if ``url`` is None."""
    if url is None:
        return FolderStore(folder)
    return RemoteStore(url, _scratch(f"{url}\n{folder.resolve()}"), f"{socket.gethostname()}-{os.getpid()}")


def is_checkpoint_url(name: str) -> bool:
    """Whether ``name`` is a URL that ends as those of checkpoints do."""
    return is_url(name) and is_name(name.rstrip("/").rpartition("/")[2])


def local_folder(name: str) -> Path:
    """Return a local folder for a path or the URL of a checkpoint, which is downloaded.

    Args:
        name: a local path, which is returned unchanged, or the URL of one checkpoint.

    Raises:
        CheckpointError: there is no checkpoint at the URL.
        DataError: the URL cannot be reached.
    """
    if not is_url(name):
        return Path(name)
    url, _, last = name.rstrip("/").rpartition("/")
    store = RemoteStore(url, _scratch(url), f"{socket.gethostname()}-{os.getpid()}")
    found = store.steps()
    if not is_name(last) or (step := step_of(Path(last))) not in found:
        names = ", ".join(map(name_of, found[-3:])) or "no checkpoint"
        raise CheckpointError(
            f"{shown(name)} is not a checkpoint; {store.where} has {names}. Give the URL of one of them."
        )
    return store.fetch(step)


def _scratch(mark: str) -> Path:
    """The local scratch folder for a store, one per user and ``mark``.

    Raises:
        DataError: another user has made one of that name.
    """
    return private_folder(f"checkpoints-{hashlib.sha256(mark.encode()).hexdigest()[:16]}")

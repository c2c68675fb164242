"""Where the checkpoints of a run are: a folder that all its processes see, or the URL of an object store.

Both commit by what is written last. A folder has a temporary name until its marker is in it; objects have no other
names, so at a URL a checkpoint is none until its marker is there, and is none any more when that goes first.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from molstream.errors import CheckpointError, DataError
from molstream.io.files import sync, write_atomically
from molstream.io.remote import Retries, copy, exists, is_url, names_below, read, remove, shown, upload, write
from molstream.training.checkpoint.format import MARKER, checkpoints, damage, drop, is_name, name_of, step_of

REMOTE_RETRIES = Retries()


class CheckpointStore(ABC):
    """The checkpoints of a run, by step."""

    where: str
    """Folder or URL, to be shown."""

    @abstractmethod
    def clean(self, done: int) -> None:
        """Remove what processes that died while they wrote have left, and damaged checkpoints; nobody writes yet.

        Args:
            done: step of the newest whole checkpoint, beyond which all are damaged; 0 if there is none.
        """

    @abstractmethod
    def steps(self) -> list[int]:
        """Of the committed checkpoints, ascending; their content is not checked."""

    @abstractmethod
    def staging(self, step: int) -> Path:
        """The folder that this process writes its share to, made."""

    @abstractmethod
    def publish(self, step: int) -> None:
        """Bring what this process has staged, all of it synced, to where the first process finds it."""

    @abstractmethod
    def read(self, step: int, name: str) -> bytes:
        """A published file of a checkpoint, committed or not.

        Raises:
            FileNotFoundError: it is not there.
        """

    @abstractmethod
    def commit(self, step: int, marker: bytes) -> None:
        """Make a checkpoint of what all processes have published."""

    @abstractmethod
    def discard(self, step: int) -> None:
        """Remove what was published and is not to be committed."""

    @abstractmethod
    def drop(self, step: int) -> None:
        """Remove a checkpoint."""

    @abstractmethod
    def fetch(self, step: int) -> Path:
        """A folder of this machine with the whole checkpoint."""

    def latest(self, warn: Callable[[str], None]) -> int | None:
        """The newest checkpoint whose files are as written; damaged ones are named through ``warn`` and passed over."""
        for step in reversed(self.steps()):
            try:
                problem = damage(self.fetch(step))
            except DataError as error:
                problem = str(error)
            if problem is None:
                return step
            warn(f"checkpoint {self.where}/{name_of(step)} is damaged ({problem}); trying the one before it")
        return None


class FolderStore(CheckpointStore):
    """A folder on a file system that all processes of the run share."""

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
        """All write to the same folder."""

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
    """A URL of fsspec; nothing but what is being written, or was last read, is in the scratch folder of a machine.

    Args:
        url: of the folder of checkpoints.
        scratch: a local folder; the processes of a machine may share it.
        process: tells this process from all others, in its staging folder's name.
        retries: of what fails at the server.
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
        """By the first process of a machine that asks; the others wait and find it."""
        target = self._scratch / name_of(step)
        self._scratch.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._scratch, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Whatever else was at this URL once: the marker has the checksums of all files.
            if not (target.exists() and (target / MARKER).read_bytes() == self.read(step, MARKER)):
                for old in self._scratch.glob("step_*"):
                    shutil.rmtree(old)
                arriving = self._scratch / f".fetching-{name_of(step)}"
                shutil.rmtree(arriving, ignore_errors=True)
                arriving.mkdir()
                for name in self._retries.call(lambda: names_below(f"{self._url}/{name_of(step)}")):
                    self._retries.call(lambda name=name: copy(self._at(step, name), arriving / name))
                arriving.rename(target)
        finally:
            os.close(lock)
        return target

    def _all_steps(self) -> list[int]:
        return sorted(int(n.removeprefix("step_")) for n in self._names() if is_name(n))

    def _names(self) -> list[str]:
        return self._retries.call(lambda: names_below(self._url))

    def _at(self, step: int, name: str) -> str:
        return f"{self._url}/{name_of(step)}/{name}"


def open_store(url: str | None, folder: Path) -> CheckpointStore:
    """The checkpoints of a run: at a URL if one is given, else in the folder."""
    if url is None:
        return FolderStore(folder)
    return RemoteStore(url, _scratch(f"{url}\n{folder.resolve()}"), f"{socket.gethostname()}-{os.getpid()}")


def local_folder(name: str) -> Path:
    """What a user names, a folder or the URL of a checkpoint, as a folder of this machine.

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
        raise CheckpointError(f"{shown(name)} is no checkpoint; at {store.where} there is {names}.")
    return store.fetch(step)


def _scratch(mark: str) -> Path:
    """A folder of this machine for what is read from, or written to, one place."""
    digest = hashlib.sha256(mark.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"molstream-checkpoints-{os.getuid()}-{digest}"

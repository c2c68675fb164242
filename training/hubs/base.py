"""What every hub does: it gives the files of an export, and takes one."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from molstream.errors import CheckpointError, ConfigError
from molstream.io.remote import Retries
from molstream.training.checkpoint.exported import (
    CONFIG_FILE,
    ENCODER_FILES,
    EXPORT_FILES,
    LIBRARY,
    SEALED_FILES,
    WEIGHTS_FILE,
    read_config,
    require_intact,
)

RETRIES = Retries(attempts=4)
"""Of a download: about seven seconds in total, since someone waits for it."""
PUSH_RETRIES = Retries(attempts=6)
"""Of a push: about half a minute."""
SMALL_FILES = tuple(name for name in EXPORT_FILES if name not in SEALED_FILES)
"""Those that are not large."""


class Located(NamedTuple):
    """An encoder on this machine, and where it is from."""

    folder: Path
    """Local folder: an export, or a run if the user named one."""
    address: str
    """For messages and logs: what the user named, with the commit or version that it was."""


class Pushed(NamedTuple):
    """What a push did."""

    address: str
    """The address of this very content, with its commit or version."""
    changed: bool
    """False if the hub had it already."""


class Hub(ABC):
    """One place of one export.

    Messages name it by ``where``, which has no credentials.
    """

    where: str

    @abstractmethod
    def fetch(self, files: Sequence[str] = ENCODER_FILES) -> Located:
        """Return a local folder with those of the files that there are; what is here already is not downloaded.

        With the weights among them, they are compared with the checksums in config.json.

        Raises:
            CheckpointError: there is no export, none of this revision, or it is damaged.
            ConfigError: access is denied, or a package is missing.
            RemoteError: the hub does not answer.
        """

    @abstractmethod
    def check(self, private: bool, tag: str | None) -> None:
        """Check, before the work begins, what of a push can be checked without the hub; arguments are :meth:`push`'s.

        Raises:
            ConfigError: this hub has no such option, or there is no token.
        """

    @abstractmethod
    def push(self, folder: Path, private: bool, tag: str | None) -> Pushed:
        """Bring an export to the hub; readers see the old one, the new one or none, but never a mixture.

        Args:
            folder: the export.
            private: whether what is created is private, and what exists has to be.
            tag: a further name of this very content.

        Raises:
            ConfigError: access is denied, the hub holds something else there, or the tag is taken.
            RemoteError: the hub does not answer; the same push again finishes it.
        """


def own_files(folder: Path) -> list[Path]:
    """The files of an export that are published; nothing else of its folder is."""
    return [folder / name for name in EXPORT_FILES if (folder / name).is_file()]


def require_export(folder: Path, address: str, files: Sequence[str]) -> None:
    """Check the downloaded files of an export.

    Args:
        folder: where they are.
        address: where they are from.
        files: which ones; without the weights, config.json alone is checked.

    Raises:
        CheckpointError: they are no export, or damaged.
    """
    with naming(folder, address):
        config = read_config(folder)
        if WEIGHTS_FILE not in files:
            return
        if not (folder / WEIGHTS_FILE).is_file():
            raise CheckpointError(f"{folder} has a {CONFIG_FILE}, but no {WEIGHTS_FILE}: it is no complete export.")
        require_intact(folder, config, files)


@contextmanager
def naming(folder: Path, address: str) -> Iterator[None]:
    """Has errors about a downloaded copy name the place that it is from."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(folder), address)) from error


def require_ours(config: Any, where: str) -> None:
    """Check that what a push would overwrite is an export.

    Args:
        config: the content of the config.json that is there, None if it is no JSON.
        where: its place.

    Raises:
        ConfigError: it is the configuration of something else.
    """
    if not isinstance(config, dict) or config.get("library") != LIBRARY:
        raise ConfigError(
            f"{where} holds something else: its {CONFIG_FILE} is not one of molstream. Push to another place, or "
            "remove it there."
        )

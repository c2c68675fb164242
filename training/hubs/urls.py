"""Exports at URLs of fsspec: object stores, web servers, shared folders."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from molstream.errors import CheckpointError, ConfigError, DataError, RemoteError
from molstream.io.remote import copy, exists, read, remove, shown, upload, write
from molstream.training.checkpoint.exported import CONFIG_FILE, ENCODER_FILES, REQUIRED_FILES, SEALED_FILES
from molstream.training.hubs.base import PUSH_RETRIES, SMALL_FILES, Hub, Located, Pushed, own_files, require_ours
from molstream.training.hubs.cache import cached_export


class UrlHub(Hub):
    """A prefix of an object store, or a folder of another file system.

    Nothing is listed, since web servers cannot do that: the files have known names.

    Args:
        url: the folder of the export.
        revision: must be None.

    Raises:
        ConfigError: a revision is given.
    """

    def __init__(self, url: str, revision: str | None = None):
        self._url, self.where = url.rstrip("/"), shown(url.rstrip("/"))
        if revision is not None:
            raise ConfigError(
                f"revision={revision}: {self.where} has no revisions, which are of hf:// and mlflow://. Give each "
                "export a URL of its own."
            )

    def fetch(self, files: Sequence[str] = ENCODER_FILES) -> Located:
        return Located(cached_export(self.where, files, self._copy), self.where)

    def check(self, private: bool, tag: str | None) -> None:
        if tag is not None:
            raise ConfigError(
                f"push_tag={tag}: {self.where} has no tags. Give the version in the URL, or leave it out."
            )
        if not private:
            raise ConfigError(
                f"push_private=false: who can read {self.where} is set at the store itself. Leave it out."
            )
        if self._url.startswith(("http://", "https://")):
            raise ConfigError(
                f"push={self.where}: nothing is written to a web server. Give the store's own URL, s3://..."
            )

    def push(self, folder: Path, private: bool, tag: str | None) -> Pushed:
        """Upload what differs. config.json is removed first and written last: without it, there is no export."""
        self.check(private, tag)
        config, there = (folder / CONFIG_FILE).read_bytes(), self._read(CONFIG_FILE)
        # A file system, unlike an object store, can have the beginning of what a push that was killed wrote.
        if there is not None and not config.startswith(there):
            require_ours(_parsed(there), self.where)
        large = [name for name in SEALED_FILES if (folder / name).is_file()]
        is_same = there == config and all(self._exists(name) for name in large)
        changed = not is_same
        if not is_same:
            if there is not None:
                self._remove(CONFIG_FILE)
            for name in SEALED_FILES:
                self._bring_large(name, folder / name)
        own = {file.name: file.read_bytes() for file in own_files(folder) if file.name in SMALL_FILES}
        for name in (name for name in SMALL_FILES if name != CONFIG_FILE):
            changed |= self._brought(name, own.get(name))
        if not is_same:
            PUSH_RETRIES.call(lambda: write(self._at(CONFIG_FILE), config))
        return Pushed(self.where, changed)

    def _bring_large(self, name: str, file: Path) -> None:
        """Upload a file, or remove what an earlier export had if there is none."""
        if file.is_file():
            PUSH_RETRIES.call(lambda: upload(file, self._at(name)))
        elif self._exists(name):
            self._remove(name)

    def _brought(self, name: str, content: bytes | None) -> bool:
        """Write a file, or remove it if there is no content; returns whether that was necessary."""
        if self._read(name) == content:
            return False
        if content is None:
            self._remove(name)
        else:
            PUSH_RETRIES.call(lambda: write(self._at(name), content))
        return True

    def _read(self, name: str) -> bytes | None:
        try:
            return PUSH_RETRIES.call(lambda: read(self._at(name)))
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def _exists(self, name: str) -> bool:
        return PUSH_RETRIES.call(lambda: exists(self._at(name)))

    def _remove(self, name: str) -> None:
        PUSH_RETRIES.call(lambda: remove(self._at(name)))

    def _copy(self, name: str, local: Path) -> None:
        """Download a file; those that are not required may be missing.

        Raises:
            CheckpointError: there is no such file.
            RemoteError: the server does not answer.
        """
        try:
            copy(self._at(name), local)
        except RemoteError:
            raise
        except DataError as error:
            local.unlink(missing_ok=True)
            if name in REQUIRED_FILES:
                raise CheckpointError(f"{self.where} is no export, whole and readable: {error}") from error

    def _at(self, name: str) -> str:
        return f"{self._url}/{name}"


def _parsed(content: bytes) -> object:
    with suppress(ValueError):
        return json.loads(content)
    return None

"""Lists, reads, writes and downloads objects at URLs through fsspec.

Credentials and endpoints come from fsspec's own configuration and environment (``AWS_PROFILE``, ``FSSPEC_S3_KEY``,
``~/.config/fsspec``, ...); molstream has no configuration keys for them.
"""

import hashlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.registry import known_implementations

from molstream.errors import ConfigError, DataError, RemoteError
from molstream.io.credentials import redacted, without_credentials
from molstream.io.files import FULL, written_whole

T = TypeVar("T")

EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Extras of molstream that install the backend of a protocol."""

BACKEND_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)
"""Module and name of the backends' exceptions for network and server errors that are not an OSError."""

Kind = Literal["file", "glob", "folder"]
"""Kinds of inputs at a URL."""

CONTENT_MARKS = ("size", "ETag", "Content-MD5", "Digest", "Last-Modified")
"""Metadata that change with an object's content; fsspec's ``ukey`` of HTTP only depends on the URL."""


def is_url(name: str) -> bool:
    """Whether ``name`` is a URL, which is read through fsspec."""
    return "://" in name


def shown(url: str) -> str:
    """Remove secrets from a URL or path, for messages: user and password, and the query of a signed web address."""
    return without_credentials(url) if is_url(url) else url


def file_name(url: str) -> str:
    """Return the last part of a URL's path, whose ending gives the format."""
    return shown(url).split("::")[0].rstrip("/").rpartition("/")[2]


def find(url: str) -> tuple[list[str], Kind]:
    """List the objects that a URL, folder or glob pattern stands for, sorted, and return its kind.

    Raises:
        DataError: the server does not answer or denies access.
        ConfigError: no backend for the protocol is installed.
    """
    system, path = _open(url)
    web = urlsplit(url).scheme in ("http", "https")
    with _data_errors(url, "listed"):
        system.invalidate_cache()
        if "*" in path or "[" in path:
            found: Any = system.glob(path, detail=True)
            found, kind = found.values(), "glob"
        elif url.endswith("/") or (not web and system.isdir(path)):
            found, kind = system.ls(path, detail=True), "folder"
        else:
            return [url], "file"
    return sorted(system.unstrip_protocol(item["name"]) for item in found if item["type"] == "file"), kind


def exists(url: str) -> bool:
    """Whether an object exists at a URL."""
    system, path = _open(url)
    with _data_errors(url, "looked up"):
        return system.exists(path)


def identity(url: str) -> str:
    """Hash of an object's metadata that changes with its content."""
    system, path = _open(url)
    with _data_errors(url, "looked up"):
        # The metadata of an object in a listing differ from those of the object itself.
        system.invalidate_cache()
        info = system.info(path)
        marks = [url, system.ukey(path), *(str(info.get(mark)) for mark in CONTENT_MARKS)]
    return hashlib.sha256("\n".join(marks).encode()).hexdigest()[:32]


def fetch(url: str, expected: str, local: Path) -> None:
    """Download an object to a local file, unless the file exists.

    Args:
        url: the object.
        expected: its :func:`identity`.
        local: the file to write.

    Raises:
        DataError: the object cannot be downloaded completely, or has changed.
    """
    if local.exists():
        return
    system, path = _open(url)
    local.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {shown(url)}", file=sys.stderr)
    with written_whole(local) as temporary, _data_errors(url, "downloaded"):
        system.get_file(path, str(temporary))
        if identity(url) != expected:
            raise DataError(f"{shown(url)} changed while it was downloaded. Run the same command again.")
        size = system.info(path).get("size")
        if size is not None and temporary.stat().st_size != size:
            raise DataError(
                f"{shown(url)}: {temporary.stat().st_size} of {size} bytes arrived. Run the same command again."
            )


def read(url: str) -> bytes:
    """Read the content of an object.

    Raises:
        DataError: the object does not exist; RemoteError if a retry may help.
    """
    system, path = _open(url)
    with _data_errors(url, "read"):
        content: Any = system.cat_file(path)
    return content


def copy(url: str, local: Path) -> None:
    """Download an object to a local file, which is overwritten; the caller must check that it is complete.

    Raises:
        DataError: the object does not exist; RemoteError if a retry may help.
    """
    system, path = _open(url)
    with _data_errors(url, "downloaded"):
        system.get_file(path, str(local))


def names_below(url: str) -> list[str]:
    """List the names of the objects and folders directly below a URL, sorted; empty if there are none.

    Raises:
        DataError: the server denies access; RemoteError if a retry may help.
    """
    system, path = _open(url)
    with _data_errors(url, "listed"):
        system.invalidate_cache()
        try:
            found: Any = system.ls(path, detail=False)
        except FileNotFoundError:
            return []
    return sorted(name.rstrip("/").rpartition("/")[2] for name in found)


def upload(local: Path, url: str) -> None:
    """Upload a local file to an object, which is overwritten.

    Raises:
        DataError: the server denies access; RemoteError if a retry may help.
    """
    system, path = _open(url)
    with _data_errors(url, "written"):
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        system.put_file(str(local), path)


def write(url: str, content: bytes) -> None:
    """Write bytes to an object, which is overwritten.

    Raises:
        DataError: the server denies access; RemoteError if a retry may help.
    """
    system, path = _open(url)
    with _data_errors(url, "written"):
        system.pipe_file(path, content)


def remove(url: str) -> None:
    """Remove an object, or a folder with its contents, if it exists.

    Raises:
        DataError: the server denies access; RemoteError if a retry may help.
    """
    system, path = _open(url)
    with _data_errors(url, "removed"):
        system.invalidate_cache()
        try:
            system.rm(path, recursive=True)
        except FileNotFoundError:
            return


@dataclass(frozen=True)
class Retries:
    """Retry policy for requests that fail at a server."""

    attempts: int = 8
    """Maximum number of attempts, the first one included."""
    first_wait_s: float = 1.0
    """Seconds before the second attempt; doubled before each further one, about two minutes in total by default."""
    longest_wait_s: float = 60.0
    """Upper limit of the wait between two attempts, in seconds."""

    def call(self, action: Callable[[], T]) -> T:
        """Call ``action`` until it does not raise a :class:`RemoteError`; returns its result.

        Raises:
            RemoteError: all attempts failed; has the number of attempts and the last error.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                return action()
            except RemoteError as error:
                if attempt == self.attempts:
                    raise RemoteError(f"given up after {attempt} attempts; last error: {error}") from error
                # Randomised, so that the processes of a cluster do not all retry at the same time.
                wait = min(self.first_wait_s * 2 ** (attempt - 1), self.longest_wait_s) * random.uniform(0.5, 1.0)
                print(f"attempt {attempt} of {self.attempts}: {error} Next in {wait:.1f} s.", file=sys.stderr)
                time.sleep(wait)
        raise AssertionError(f"attempts={self.attempts}")


def _open(url: str) -> tuple[AbstractFileSystem, str]:
    """Open the file system of a URL; returns it and the path in it."""
    protocol = url.split("::")[-1].split("://")[0]
    try:
        return url_to_fs(url)
    except ImportError as error:
        known = known_implementations.get(protocol, {}).get("err", str(error))
        advice = f"pip install 'molstream[{EXTRAS[protocol]}]'" if protocol in EXTRAS else known
        raise ConfigError(f"{shown(url)}: {protocol}:// needs a package that is not installed: {advice}") from error
    except ValueError as error:
        raise ConfigError(
            f"{shown(url)}: fsspec cannot open it ({redacted(str(error))}). It supports, among others, s3://, gs://, "
            "az://, https:// and memory://."
        ) from error


def _backend_errors() -> tuple[type[Exception], ...]:
    """The exceptions of :data:`BACKEND_ERRORS` that can have been raised: those of modules that are imported.

    Another thread may be importing one of the modules at this moment; it has not raised anything yet.
    """
    found = (getattr(sys.modules.get(module), name, None) for module, name in BACKEND_ERRORS)
    return tuple(error for error in found if error is not None)


@contextmanager
def _data_errors(url: str, done: str) -> Iterator[None]:
    """Convert a backend's exceptions to a :class:`DataError` that names the URL."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{shown(url)} does not exist, or these credentials do not allow access.") from error
    except Exception as error:
        if not isinstance(error, (OSError, *_backend_errors())) or getattr(error, "errno", None) in FULL:
            raise
        reason = redacted(" ".join(str(error).split())) or type(error).__name__
        refused = isinstance(error, PermissionError)
        raise (DataError if refused else RemoteError)(
            f"{shown(url)} cannot be {done}: {reason}. Check the address, the network and the credentials (from the "
            "environment, as fsspec's backend reads them), then run the same command again; downloaded files are kept."
        ) from error

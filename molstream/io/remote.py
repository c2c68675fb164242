"""Inputs and datasets that are URLs: found, told apart and fetched through fsspec.

Credentials and endpoints are those of fsspec's own configuration and environment (``AWS_PROFILE``, ``FSSPEC_S3_KEY``,
``~/.config/fsspec``, ...): there are no keys of ours for them.
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
from molstream.io.files import FULL, written_whole

T = TypeVar("T")

EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Our extras that bring the backend of a protocol."""

BACKEND_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)
"""Module and name of what backends raise of a network or a server, where that is not an OSError."""

Kind = Literal["file", "glob", "folder"]
"""What an input is."""

CONTENT_MARKS = ("size", "ETag", "Content-MD5", "Digest", "Last-Modified")
"""What a server says of an object's content. ``ukey`` should know, but that of HTTP knows the URL alone."""


def is_url(name: str) -> bool:
    """Whether an input is reached through fsspec."""
    return "://" in name


def shown(url: str) -> str:
    """The URL (or path) without what may be secret: user and password, and the query of a signed web address."""
    if not is_url(url):
        return url
    scheme, rest = url.split("://", 1)
    host, slash, path = rest.partition("/")
    if scheme.endswith(("http", "https")):
        path = path.partition("?")[0]
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def file_name(url: str) -> str:
    """The last part of the path, which tells the format."""
    return shown(url).split("::")[0].rstrip("/").rpartition("/")[2]


def find(url: str) -> tuple[list[str], Kind]:
    """The objects that a URL stands for, sorted, and what it is.

    Raises:
        DataError: the server does not answer or denies it.
        ConfigError: there is no backend for such URLs.
    """
    system, path = _open(url)
    web = urlsplit(url).scheme in ("http", "https")
    with _told(url, "listed"):
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
    """Whether there is such an object."""
    system, path = _open(url)
    with _told(url, "looked up"):
        return system.exists(path)


def identity(url: str) -> str:
    """What changes with the object that a URL names."""
    system, path = _open(url)
    with _told(url, "looked up"):
        # What a listing says of an object differs from what the object says of itself.
        system.invalidate_cache()
        info = system.info(path)
        marks = [url, system.ukey(path), *(str(info.get(mark)) for mark in CONTENT_MARKS)]
    return hashlib.sha256("\n".join(marks).encode()).hexdigest()[:32]


def fetch(url: str, expected: str, local: Path) -> None:
    """Copy an object to a local file, unless it is there already.

    Args:
        expected: its :func:`identity`.

    Raises:
        DataError: it cannot be fetched whole, or changed.
    """
    if local.exists():
        return
    system, path = _open(url)
    local.parent.mkdir(parents=True, exist_ok=True)
    print(f"fetching {shown(url)}", file=sys.stderr)
    with written_whole(local) as temporary, _told(url, "fetched"):
        system.get_file(path, str(temporary))
        if identity(url) != expected:
            raise DataError(f"{shown(url)} changed while it was fetched: give the same command again.")
        size = system.info(path).get("size")
        if size is not None and temporary.stat().st_size != size:
            raise DataError(
                f"{shown(url)}: {temporary.stat().st_size} of {size} bytes arrived. Give the same command again."
            )


def read(url: str) -> bytes:
    """The content of an object.

    Raises:
        DataError: there is none; as RemoteError, where trying again may help.
    """
    system, path = _open(url)
    with _told(url, "read"):
        content: Any = system.cat_file(path)
    return content


def copy(url: str, local: Path) -> None:
    """Copy an object to a local file, over what that holds; whether all of it arrived is for the caller to check.

    Raises:
        DataError: there is none; as RemoteError, where trying again may help.
    """
    system, path = _open(url)
    with _told(url, "fetched"):
        system.get_file(path, str(local))


def names_below(url: str) -> list[str]:
    """The names of the objects and folders directly below a URL, sorted; none where there is nothing.

    Raises:
        DataError: the server denies it; as RemoteError, where trying again may help.
    """
    system, path = _open(url)
    with _told(url, "listed"):
        system.invalidate_cache()
        try:
            found: Any = system.ls(path, detail=False)
        except FileNotFoundError:
            return []
    return sorted(name.rstrip("/").rpartition("/")[2] for name in found)


def upload(local: Path, url: str) -> None:
    """Copy a local file to an object, over what that holds.

    Raises:
        DataError: the server denies it; as RemoteError, where trying again may help.
    """
    system, path = _open(url)
    with _told(url, "written"):
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        system.put_file(str(local), path)


def write(url: str, content: bytes) -> None:
    """Make an object of some bytes, over what it holds.

    Raises:
        DataError: the server denies it; as RemoteError, where trying again may help.
    """
    system, path = _open(url)
    with _told(url, "written"):
        system.pipe_file(path, content)


def remove(url: str) -> None:
    """Remove an object, or a folder and all below it; nothing where there is none.

    Raises:
        DataError: the server denies it; as RemoteError, where trying again may help.
    """
    system, path = _open(url)
    with _told(url, "removed"):
        system.invalidate_cache()
        try:
            system.rm(path, recursive=True)
        except FileNotFoundError:
            return


@dataclass(frozen=True)
class Retries:
    """How often, and after what time, something that failed at a server is tried again."""

    attempts: int = 8
    first_wait_s: float = 1.0
    """Seconds before the second attempt; twice as many before each further one, about two minutes in all."""
    longest_wait_s: float = 60.0

    def call(self, action: Callable[[], T]) -> T:
        """What ``action`` returns, as soon as it does not raise a :class:`RemoteError`.

        Raises:
            RemoteError: the last attempt's, with their number.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                return action()
            except RemoteError as error:
                if attempt == self.attempts:
                    raise RemoteError(f"given up after {attempt} attempts; the last one: {error}") from error
                # Spread, so that the processes of a cluster do not all come back at once.
                wait = min(self.first_wait_s * 2 ** (attempt - 1), self.longest_wait_s) * random.uniform(0.5, 1.0)
                print(f"attempt {attempt} of {self.attempts}: {error} Next in {wait:.1f} s.", file=sys.stderr)
                time.sleep(wait)
        raise AssertionError(f"attempts={self.attempts}")


def _open(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path in it."""
    protocol = url.split("::")[-1].split("://")[0]
    try:
        return url_to_fs(url)
    except ImportError as error:
        known = known_implementations.get(protocol, {}).get("err", str(error))
        advice = f"pip install 'molstream[{EXTRAS[protocol]}]'" if protocol in EXTRAS else known
        raise ConfigError(f"{shown(url)}: {protocol}:// needs a package that is not installed: {advice}") from error
    except ValueError as error:
        raise ConfigError(
            f"{shown(url)}: fsspec cannot open it ({error}). It knows, among others, s3://, gs://, az://, "
            "https:// and memory://."
        ) from error


@contextmanager
def _told(url: str, done: str) -> Iterator[None]:
    """Turns what a backend raises into a :class:`DataError` that names the URL."""
    backend = tuple(getattr(sys.modules[m], name) for m, name in BACKEND_ERRORS if m in sys.modules)
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{shown(url)} is not there, or must not be seen with these credentials.") from error
    except (OSError, *backend) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        refused = isinstance(error, PermissionError)
        raise (DataError if refused else RemoteError)(
            f"{shown(url)} cannot be {done}: {reason}. Check the address, the network and the credentials (from the "
            "environment, as fsspec's backend reads them), then give the same command again; what was fetched is kept."
        ) from error

"""Finds the encoder that a user names: shipped, a folder, or at a hub or URL."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from molstream.errors import ConfigError, MolstreamError
from molstream.io.credentials import credentials_in
from molstream.io.remote import is_url, shown
from molstream.training.checkpoint.exported import ENCODER_FILES
from molstream.training.hubs.base import Hub, Located
from molstream.training.hubs.hugging_face import HuggingFaceHub
from molstream.training.hubs.mlflow import MLflowHub
from molstream.training.hubs.urls import UrlHub
from molstream.training.shipped import SHIPPED, located

HUBS: dict[str, Callable[[str, str | None], Hub]] = {"hf": HuggingFaceHub, "mlflow": MLflowHub}
"""Hubs by scheme, built from URL and revision; every other scheme is one of fsspec."""
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""What the name of a repository of Hugging Face looks like."""


def resolved(
    source: str | Path, key: str, revision: str | None = None, files: Sequence[str] = ENCODER_FILES
) -> Located:
    """Find the encoder that ``source`` names; one at a hub or URL is downloaded, unless a cache has it.

    In this order: the name of a shipped encoder; a URL (``hf://``, ``mlflow://``, or one of fsspec); a file or folder
    that exists, also where its path looks like the name of a repository; ``org/name``, a repository of Hugging Face;
    any other text is the path of a folder, and a ``Path`` always is.

    Args:
        source: what the user gave.
        key: names ``source`` in messages.
        revision: branch, tag or commit of ``hf://``; version or alias of ``mlflow://``.
        files: those of an export that are needed.

    Raises:
        ConfigError: ``source`` has no revisions, has credentials in it, or could mean two things; access is denied.
        CheckpointError: there is no export at the hub or URL, or it is damaged. A folder is not looked into.
        RemoteError: the hub does not answer.
    """
    try:
        hub = hub_of(source, key, revision)
        return Located(located(source, key), str(source)) if hub is None else hub.fetch(files)
    except MolstreamError as error:
        if is_url(str(source)) or not is_remote(source):
            raise
        raise type(error)(
            f"{key}={source}: there is no such file or folder here, and as a repository of Hugging Face: {error}"
        ) from error


def hub_of(source: str | Path, key: str, revision: str | None = None) -> Hub | None:
    """The hub that ``source`` names; None for what is on this machine.

    Raises:
        ConfigError: a revision of what has none; credentials in a URL; a name or scheme that there is not.
    """
    if not is_remote(source):
        if revision is not None:
            what = "is an encoder that travels in molstream" if source in SHIPPED else "is a path on this machine"
            raise ConfigError(
                f"revision={revision}: {key}={source} {what}, which has no revisions. Leave it out, or give "
                "hf://ORG/NAME for a repository of Hugging Face."
            )
        return None
    url = str(source) if is_url(str(source)) else f"hf://{source}"
    if credentials_in(url):
        raise ConfigError(
            f"{key}={shown(url)}: this address was given with credentials in it. Give it without them, and the "
            "credentials by the environment, as the backend reads them (AWS_ACCESS_KEY_ID, HF_TOKEN, ...)."
        )
    return _hub(url, None if revision is None else str(revision))


def push_target(url: str, private: bool, tag: str | None) -> Hub:
    """The hub of a URL, to push to, checked as far as it can be without being contacted.

    Raises:
        ConfigError: the hub does not have such options, or there are credentials in the URL, or no token.
    """
    hub = hub_of(url, "push")
    if hub is None:
        raise ConfigError(f"push={url}: expected a URL.")
    hub.check(private, tag)
    return hub


def is_remote(source: str | Path) -> bool:
    """Whether ``source`` names a hub or URL, and nothing on this machine."""
    if isinstance(source, Path) or source in SHIPPED:
        return False
    return is_url(source) or (REPOSITORY.fullmatch(source) is not None and not Path(source).exists())


def is_hub(url: str) -> bool:
    """Whether a URL is one of a model hub, which holds exports and nothing else of molstream."""
    return url.partition("://")[0] in HUBS


def _hub(url: str, revision: str | None) -> Hub:
    return HUBS.get(url.partition("://")[0], UrlHub)(url, revision)

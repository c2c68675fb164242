"""Exports in repositories of Hugging Face, through its own client, cache and login."""

import hashlib
import importlib.metadata
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molstream.errors import CheckpointError, ConfigError, DataError, MolstreamError, RemoteError, in_words
from molstream.io.credentials import redacted
from molstream.io.hashing import file_sha256
from molstream.training.checkpoint.exported import CONFIG_FILE, ENCODER_FILES, EXPORT_FILES, WEIGHTS_FILE
from molstream.training.hubs.base import (
    PUSH_RETRIES,
    RETRIES,
    SMALL_FILES,
    Hub,
    Located,
    Pushed,
    own_files,
    require_export,
    require_ours,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAIN = "main"
LOGIN = "Log in with `hf auth login`, or set HF_TOKEN"


class HuggingFaceHub(Hub):
    """A repository of models.

    The client reads its settings from the environment: HF_TOKEN, HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT. Nothing but the
    files of an export is downloaded: no code, no pickle.

    Args:
        url: ``hf://org/name``, with ``@REVISION`` behind it if wanted.
        revision: branch, tag or commit; ``main`` by default.

    Raises:
        ConfigError: this is no such URL, or the URL has another revision.
    """

    def __init__(self, url: str, revision: str | None = None):
        from huggingface_hub import parse_hf_uri
        from huggingface_hub.errors import HfUriError

        try:
            uri = parse_hf_uri(url)
        except HfUriError as error:
            raise ConfigError(f"{url}: expected hf://ORG/NAME or hf://ORG/NAME@REVISION: {in_words(error)}.") from error
        if uri.type != "model" or uri.path_in_repo:
            raise ConfigError(
                f"{url}: expected hf://ORG/NAME or hf://ORG/NAME@REVISION, a repository of a model. A revision with a "
                "slash is given as revision=, or with %2F."
            )
        if revision is not None and uri.revision not in (None, revision):
            raise ConfigError(f"revision={revision}: {url} has another one. Give one of them.")
        self._repository, self._revision = uri.id, revision or uri.revision
        self.where = f"hf://{uri.id}" + (f"@{self._revision}" if self._revision else "")

    # --- pull ---------------------------------------------------------------------------------------------------------

    def fetch(self, files: Sequence[str] = ENCODER_FILES) -> Located:
        # The small files say first whether this is an export: other models can be large.
        folder = self._downloaded(self._revision, [name for name in files if name in SMALL_FILES])
        commit = folder.name
        address = f"hf://{self._repository}@{commit}"
        require_export(folder, address, (CONFIG_FILE,))
        if WEIGHTS_FILE in files:
            self._downloaded(commit, files)
            try:
                require_export(folder, address, files)
            except CheckpointError as error:
                self._download_again(folder, commit, files, error)
                require_export(folder, address, files)
        return Located(folder, address)

    def _download_again(self, folder: Path, commit: str, files: Sequence[str], problem: CheckpointError) -> None:
        """Replace a damaged copy of the cache.

        Raises:
            CheckpointError: the hub cannot be reached.
        """
        try:
            self._downloaded(commit, files, again=True)
        except MolstreamError as error:
            raise CheckpointError(f"{problem} Its copy is {folder}; downloading it again failed: {error}") from error

    def _downloaded(self, revision: str | None, files: Sequence[str], again: bool = False) -> Path:
        """The folder of a commit in the client's cache, with these files."""

        def download() -> Path:
            with self._in_words("downloaded"):
                return Path(
                    self._client().snapshot_download(
                        self._repository, revision=revision, allow_patterns=list(files), force_download=again
                    )
                )

        return RETRIES.call(download)

    # --- push ---------------------------------------------------------------------------------------------------------

    def check(self, private: bool, tag: str | None) -> None:
        from huggingface_hub import get_token
        from huggingface_hub.constants import is_offline_mode

        if is_offline_mode():
            raise ConfigError(f"push={self.where}: HF_HUB_OFFLINE is set. Unset it to push.")
        if not get_token():
            raise ConfigError(
                f"push={self.where}: there is no token of Hugging Face. {LOGIN}, with a token that writes."
            )

    def push(self, folder: Path, private: bool, tag: str | None) -> Pushed:
        """Make one commit of what differs; none if nothing does. A file that arrived already is not sent again."""
        self.check(private, tag)

        def push() -> Pushed:
            with self._in_words("written"):
                return self._push(folder, private, tag)

        return PUSH_RETRIES.call(push)

    def _push(self, folder: Path, private: bool, tag: str | None) -> Pushed:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        client, branch = self._client(), self._revision or MAIN
        client.create_repo(self._repository, private=private, exist_ok=True)
        self._require_privacy(private)
        if branch != MAIN:
            client.create_branch(self._repository, branch=branch, exist_ok=True)
        info = client.model_info(self._repository, revision=branch, files_metadata=True)
        there = {file.rfilename: file for file in info.siblings or () if file.rfilename in EXPORT_FILES}
        if CONFIG_FILE in there:
            self._require_ours(str(info.sha))
        own = {file.name: file for file in own_files(folder)}
        changes: list[Any] = [
            CommitOperationAdd(name, file) for name, file in own.items() if not _is_same(file, there.get(name))
        ]
        changes += [CommitOperationDelete(name) for name in there if name not in own]
        taken = self._tagged(tag)
        if taken is not None and (changes or taken != info.sha):
            raise ConfigError(
                f"push_tag={tag}: {self.where} has this tag at the commit {taken}, which is another content, and a tag "
                "stays where it is. Give another one."
            )
        commit = str(info.sha)
        if changes:
            # With its parent, so that a commit whose answer was lost is not made twice.
            done = client.create_commit(
                self._repository,
                changes,
                commit_message="Upload an export of molstream",
                revision=branch,
                parent_commit=info.sha,
            )
            commit = done.oid
        if tag is not None and taken is None:
            client.create_tag(self._repository, tag=tag, revision=commit)
        return Pushed(f"hf://{self._repository}@{commit}", bool(changes))

    def _require_privacy(self, private: bool) -> None:
        """Check that a repository that exists is not a public one if it has to be private.

        Raises:
            ConfigError: it is public.
        """
        if private and not self._client().model_info(self._repository).private:
            raise ConfigError(
                f"hf://{self._repository} is public, and push_private=true. Give push_private=false to publish there."
            )

    def _require_ours(self, commit: str) -> None:
        file = self._client().hf_hub_download(self._repository, CONFIG_FILE, revision=commit)
        try:
            config = json.loads(Path(file).read_bytes())
        except ValueError:
            config = None
        require_ours(config, self.where)

    def _tagged(self, tag: str | None) -> str | None:
        """The commit of a tag; None if there is no such tag."""
        if tag is None:
            return None
        refs = self._client().list_repo_refs(self._repository)
        return next((ref.target_commit for ref in refs.tags if ref.name == tag), None)

    # --- the client ---------------------------------------------------------------------------------------------------

    def _client(self) -> "HfApi":
        from huggingface_hub import HfApi

        # Of requests that fail it logs the address, which for large files gives access to the storage.
        logging.getLogger("huggingface_hub.utils._http").addFilter(_without_signatures)
        return HfApi(library_name="molstream", library_version=importlib.metadata.version("molstream"))

    @contextmanager
    def _in_words(self, done: str) -> Iterator[None]:
        """Convert the client's exceptions to errors that name the repository, and never the token."""
        from httpx2 import HTTPError
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, XetDownloadError

        try:
            yield
        except MolstreamError:
            raise
        except HFValidationError as error:
            raise ConfigError(f"{self.where}: {self._safe(error)}.") from None
        except UnicodeEncodeError:
            raise ConfigError(f"{self.where}: the token has characters that no token has. {LOGIN}.") from None
        except json.JSONDecodeError:
            raise RemoteError(f"{self.where} cannot be {done}: the server gives an answer that is no JSON.") from None
        except (HTTPError, OSError, RuntimeError, XetDownloadError) as error:
            # The client looks into its cache before it gives up, and says that there is nothing; and an upload that
            # failed is a RuntimeError. The cause is what keeps it from the hub.
            cause = error.__cause__
            is_outer = isinstance(error, LocalEntryNotFoundError | RuntimeError)
            raise self._said(cause if is_outer and isinstance(cause, Exception) else error, done) from None
        except ValueError as error:
            # Metadata of the card that the hub does not accept.
            raise DataError(f"{self.where} cannot be {done}: {self._safe(error)}.") from None

    def _said(self, error: BaseException, done: str) -> MolstreamError:
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
            return CheckpointError(
                f"{self.where} is not in the cache of Hugging Face, and HF_HUB_OFFLINE is set. Unset it, or download "
                "it where there is a network."
            )
        if isinstance(error, GatedRepoError):
            return CheckpointError(
                f"{self.where} is gated: its owners grant access on its page. {LOGIN} of an account that they let in."
            )
        if isinstance(error, RepositoryNotFoundError):
            return self._missing()
        if isinstance(error, RevisionNotFoundError):
            return CheckpointError(
                f"{self.where} has no such revision: expected a branch, a tag or a whole commit. {self._revisions()}"
            )
        if isinstance(error, HfHubHTTPError):
            return self._answered(error.response.status_code, self._safe(error.server_message or ""), done)
        # What follows the first line is advice about the client's own options.
        reason = self._safe(str(error).partition("\n")[0]) or type(error).__name__
        return RemoteError(
            f"{self.where} cannot be {done}: {reason}. Check the network and run the same command again; what is in "
            "the cache is used with HF_HUB_OFFLINE=1."
        )

    def _missing(self) -> MolstreamError:
        return CheckpointError(
            f"{self.where} does not exist, or is private. Check the name; for a private one: {LOGIN} of an account "
            "that may read it."
        )

    def _answered(self, status: int, words: str, done: str) -> MolstreamError:
        """The error for a status that has no class of its own."""
        from huggingface_hub import get_token

        answer = f"{self.where} cannot be {done}: the server answers {status}" + (f" ({words})" if words else "")
        if status == 401:
            # Without a token, this is the answer for a missing repository, too.
            return ConfigError(f"{answer}: it does not know the token. {LOGIN}.") if get_token() else self._missing()
        if status == 403:
            return ConfigError(
                f"{answer}: the token has no right to this. {LOGIN} of an account, or a token, that has."
            )
        if status == 429:
            return RemoteError(f"{answer}: too many requests. Run the same command again later.")
        # 412: somebody else has made a commit since.
        if status >= 500 or status in (408, 412):
            return RemoteError(f"{answer}. Run the same command again.")
        return DataError(f"{answer}.")

    def _revisions(self) -> str:
        """The branches and tags that there are, as a sentence; empty if that is not known."""
        from httpx2 import HTTPError

        try:
            refs = self._client().list_repo_refs(self._repository)
        except (HTTPError, OSError, ValueError):
            return ""
        return f"It has {', '.join(ref.name for ref in (*refs.branches, *refs.tags)[:10])}."

    def _safe(self, problem: object) -> str:
        """What the client says, without the token and without what signs an address."""
        from huggingface_hub import get_token

        text, token = re.sub(r"Bearer [^\s']+", "Bearer ...", in_words(problem)), get_token()
        # The end of a long address is not known as one.
        return redacted(re.sub(r"\?[^\s)]+=[^\s)]+", "", text.replace(token, "...") if token else text))


def _without_signatures(record: logging.LogRecord) -> bool:
    """Has a line of a log show no address that gives access; keeps every line."""
    record.msg, record.args = redacted(record.getMessage()), ()
    return True


def _is_same(file: Path, there: Any) -> bool:
    """Whether the repository has this very file."""
    if there is None or there.size != file.stat().st_size:
        return False
    if there.lfs is not None:
        return there.lfs.sha256 == file_sha256(file)
    # What git calls a blob.
    content = file.read_bytes()
    return there.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

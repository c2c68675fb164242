"""Exports in the model registry of an MLflow server, whose address is in MLFLOW_TRACKING_URI."""

import hashlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molstream.errors import CheckpointError, ConfigError, RemoteError, in_words
from molstream.io.credentials import redacted
from molstream.io.hashing import file_sha256
from molstream.io.mlflow import require_server, set_defaults
from molstream.training.checkpoint.exported import ENCODER_FILES, REQUIRED_FILES
from molstream.training.hubs.base import PUSH_RETRIES, RETRIES, Hub, Located, Pushed, own_files
from molstream.training.hubs.cache import cached_export

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

URL = re.compile(r"mlflow://([\w.-]+)(?:/([\w.-]+))?")
EXPERIMENT = "molstream exports"
"""Holds a run for every export, whose artifacts are the files."""
ARTIFACTS = "export"
"""Folder of the files among a run's artifacts."""
CONTENT_TAG = "molstream.export"
"""Tag of runs and versions: the checksum of the files."""
DENIED = ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED")


class MLflowHub(Hub):
    """A registered model, of which every version is an export.

    Args:
        url: ``mlflow://NAME``, with ``/VERSION`` or ``/ALIAS`` behind it if wanted.
        revision: version or alias; the newest version by default.

    Raises:
        ConfigError: this is no such URL, the URL has another revision, or there is no client or no address of a server.
    """

    def __init__(self, url: str, revision: str | None = None):
        match = URL.fullmatch(url.rstrip("/"))
        if match is None:
            raise ConfigError(f"{url}: expected mlflow://NAME, mlflow://NAME/VERSION or mlflow://NAME/ALIAS.")
        if revision is not None and match[2] not in (None, revision):
            raise ConfigError(f"revision={revision}: {url} has another one. Give one of them.")
        require_server(f"{url} needs")
        self._name, self._revision = match[1], revision or match[2]
        self.where = f"mlflow://{self._name}" + (f"/{self._revision}" if self._revision else "")

    # --- pull ---------------------------------------------------------------------------------------------------------

    def fetch(self, files: Sequence[str] = ENCODER_FILES) -> Located:
        with self._in_words("downloaded"):
            client = self._client()
        address, uri, there = RETRIES.call(lambda: self._found(client))

        def copy(name: str, local: Path) -> None:
            if name in there:
                self._copy(f"{uri}/{name}", local)
            elif name in REQUIRED_FILES:
                raise CheckpointError(
                    f"{address} is no export: it has no {name}, but {', '.join(there) or 'no files'}."
                )

        return Located(cached_export(address, files, copy), address)

    def _found(self, client: "MlflowClient") -> tuple[str, str, list[str]]:
        """Address and artifacts' URI of the version, and the names of its files."""
        from mlflow.artifacts import list_artifacts

        with self._in_words("looked up"):
            version = self._version(client)
            uri = client.get_model_version_download_uri(self._name, version)
            files = list_artifacts(artifact_uri=uri) or []
        return f"mlflow://{self._name}/{version}", uri, [file.path.rpartition("/")[2] for file in files]

    def _version(self, client: "MlflowClient") -> str:
        """The version that is meant.

        Raises:
            CheckpointError: there is none.
        """
        from mlflow.exceptions import MlflowException

        versions = self._versions(client, f"name = '{self._name}'")
        if not versions:
            raise CheckpointError(f"{self.where}: the server has no model of this name, or it has no version.")
        numbers = [version.version for version in versions]
        if self._revision is None or self._revision in numbers:
            return self._revision or numbers[0]
        try:
            return str(client.get_model_version_by_alias(self._name, self._revision).version)
        except MlflowException as error:
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                raise
            raise CheckpointError(
                f"{self.where}: the model has no such version or alias. Its versions are {', '.join(numbers[:10])}."
            ) from error

    def _versions(self, client: "MlflowClient", query: str) -> list["ModelVersion"]:
        """Versions that answer a query, the newest first."""
        found = list(client.search_model_versions(query))
        return sorted(found, key=lambda version: int(version.version), reverse=True)

    def _copy(self, uri: str, local: Path) -> None:
        from mlflow.artifacts import download_artifacts

        with self._in_words("downloaded"), tempfile.TemporaryDirectory(dir=local.parent.parent) as folder:
            Path(download_artifacts(artifact_uri=uri, dst_path=folder)).rename(local)

    # --- push ---------------------------------------------------------------------------------------------------------

    def check(self, private: bool, tag: str | None) -> None:
        if not private:
            raise ConfigError(f"push_private=false: who can read {self.where} is set at the server. Leave it out.")
        if self._revision is not None:
            raise ConfigError(f"push={self.where}: the server numbers the versions. Give push=mlflow://{self._name}.")
        if tag is not None and (tag.isdigit() or tag == "latest"):
            raise ConfigError(f"push_tag={tag}: expected an alias of MLflow, a word that is no version.")

    def push(self, folder: Path, private: bool, tag: str | None) -> Pushed:
        """Register a version when all its files have arrived; none if there is one of this very content."""
        self.check(private, tag)

        def push() -> Pushed:
            with self._in_words("written"):
                return self._push(self._client(), folder, tag)

        return PUSH_RETRIES.call(push)

    def _push(self, client: "MlflowClient", folder: Path, tag: str | None) -> Pushed:
        content = _content(folder)
        same = self._versions(client, f"name = '{self._name}' and tags.`{CONTENT_TAG}` = '{content}'")
        if same:
            version = str(same[0].version)
        else:
            self._register(client)
            run = self._run_of(client, content)
            for file in own_files(folder):
                client.log_artifact(run, str(file), ARTIFACTS)
            client.set_terminated(run)
            source = f"runs:/{run}/{ARTIFACTS}"
            created = client.create_model_version(self._name, source, run, tags={CONTENT_TAG: content})
            version = str(created.version)
        if tag is not None:
            client.set_registered_model_alias(self._name, tag, version)
        return Pushed(f"mlflow://{self._name}/{version}", not same)

    def _register(self, client: "MlflowClient") -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(self._name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _run_of(self, client: "MlflowClient", content: str) -> str:
        """The run of an export, which a push that broke off may have made."""
        from mlflow.exceptions import MlflowException

        experiment: Any = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            try:
                client.create_experiment(EXPERIMENT)
            except MlflowException:
                # Another process may have made it at this moment.
                if client.get_experiment_by_name(EXPERIMENT) is None:
                    raise
            experiment = client.get_experiment_by_name(EXPERIMENT)
        found = client.search_runs([experiment.experiment_id], f"tags.`{CONTENT_TAG}` = '{content}'", max_results=1)
        if found:
            return found[0].info.run_id
        run = client.create_run(experiment.experiment_id, tags={CONTENT_TAG: content}, run_name=self._name)
        return run.info.run_id

    # --- the client ---------------------------------------------------------------------------------------------------

    def _client(self) -> "MlflowClient":
        set_defaults()
        from mlflow.tracking import MlflowClient

        return MlflowClient()

    @contextmanager
    def _in_words(self, done: str) -> Iterator[None]:
        """Convert the client's exceptions to errors that name the model."""
        set_defaults()
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        try:
            yield
        except MlflowException as error:
            reason = f"{self.where} cannot be {done}: {redacted(in_words(error.message))}"
            if error.error_code in DENIED:
                raise ConfigError(f"{reason}. Check MLFLOW_TRACKING_USERNAME or MLFLOW_TRACKING_TOKEN.") from None
            raise RemoteError(f"{reason}. Check MLFLOW_TRACKING_URI and run the same command again.") from None
        except (RequestException, OSError) as error:
            raise RemoteError(
                f"{self.where} cannot be {done}: {redacted(in_words(error))}. Check MLFLOW_TRACKING_URI and the "
                "network, then run the same command again."
            ) from None


def _content(folder: Path) -> str:
    """The checksum of the files of an export, with their names."""
    lines = [f"{file.name} {file_sha256(file)}\n" for file in own_files(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()

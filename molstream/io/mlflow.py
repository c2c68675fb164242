"""What every use of an MLflow server shares: which server, and the settings of its client."""

import importlib.util
import os

from molstream.errors import ConfigError
from molstream.io.credentials import redacted

ENVIRONMENT = {
    # The client's own retries would block a request for minutes and log the address.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # one for every file, however small
    # molstream connects to the user's server only.
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Defaults of the client's environment variables; the user's environment takes precedence."""


def set_defaults() -> None:
    """Set what the client reads when it is imported; call it before that."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def require_server(what: str) -> None:
    """Check that there is a client, and the address of a server for it.

    Args:
        what: needs them; begins the messages.

    Raises:
        ConfigError: the client is not installed, or MLFLOW_TRACKING_URI is no address of a server.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError(f"{what} mlflow, which is not installed: pip install 'molstream[mlflow]'.")
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        raise ConfigError(f"{what} mlflow, but MLFLOW_TRACKING_URI is not set: export the tracking server's address.")
    if address.startswith("file:") or not ("://" in address or address.startswith("databricks")):
        # MLflow has no more than maintenance for this store and refuses it when the first record comes.
        raise ConfigError(
            f"MLFLOW_TRACKING_URI={redacted(address)} is a folder, which MLflow does not write to any more. Export the "
            "address of a server, as `mlflow server --backend-store-uri sqlite:///mlflow.db` prints it, or of a "
            "database: sqlite:////FOLDER/mlflow.db."
        )

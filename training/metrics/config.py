"""The configuration of where a run's numbers go."""

from pydantic import PositiveFloat

from molstream.config import configuration, free


@configuration
class LogConfig:
    """Where a run's numbers go besides metrics.jsonl, which is always written and has all of them.

    Servers and secrets come from the environment alone: MLFLOW_TRACKING_URI, WANDB_API_KEY and what else these read.
    """

    loggers: list[str] = free(default_factory=lambda: ["tensorboard"])
    """Any of tensorboard, mlflow and wandb."""
    project: str = free(default="molstream")
    """Experiment of MLflow, project of W&B."""


@configuration
class SyncConfig:
    """Send a finished run's records to loggers that have missed some."""

    run_dir: str
    """The pretraining run."""
    loggers: list[str] | None = None
    """Any of tensorboard, mlflow and wandb; those of the run by default."""
    timeout_s: PositiveFloat = 600.0
    """Seconds after which it gives up."""

"""The configuration of the loggers."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LogConfig:
    """Where a run's numbers go besides metrics.jsonl, which is always written and has all of them.

    Servers and secrets come from the environment alone: MLFLOW_TRACKING_URI, WANDB_API_KEY and what else these read.
    """

    loggers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Any of tensorboard, mlflow and wandb."""
    project: str = "molstream"
    """Experiment of MLflow, project of W&B."""

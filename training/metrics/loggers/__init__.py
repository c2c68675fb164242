"""Loggers, which show the records of metrics.jsonl elsewhere; ``log.loggers`` chooses them by name."""

from collections.abc import Sequence

from molstream.errors import ConfigError
from molstream.training.metrics.loggers.base import Logger, RunDescription
from molstream.training.metrics.loggers.delivery import Delivery, finish_all
from molstream.training.metrics.loggers.mlflow import MLflowLogger
from molstream.training.metrics.loggers.tensorboard import TensorBoardLogger
from molstream.training.metrics.loggers.wandb import WandbLogger

__all__ = ["LOGGERS", "Delivery", "Logger", "RunDescription", "check_loggers", "finish_all"]

LOGGERS: dict[str, type[Logger]] = {
    "tensorboard": TensorBoardLogger,
    "mlflow": MLflowLogger,
    "wandb": WandbLogger,
}


def check_loggers(names: Sequence[str]) -> None:
    """Check that the loggers exist and can be used in this environment.

    Raises:
        ConfigError: a name is unknown, or a package, address or key is missing.
    """
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(f"log.loggers names '{name}'. Choose any of: {', '.join(LOGGERS)}.")
        LOGGERS[name].check()

"""Where a run's numbers are shown beside metrics.jsonl: the table of sinks, chosen by name in ``log.sinks``."""

from collections.abc import Sequence

from molstream.errors import ConfigError
from molstream.training.metrics.loggers.base import RunDescription, Sink
from molstream.training.metrics.loggers.config import LogConfig
from molstream.training.metrics.loggers.delivery import Delivery, finish_all
from molstream.training.metrics.loggers.mlflow import MLflowSink
from molstream.training.metrics.loggers.tensorboard import TensorBoardSink
from molstream.training.metrics.loggers.wandb import WandbSink

__all__ = ["SINKS", "Delivery", "LogConfig", "RunDescription", "Sink", "check_sinks", "finish_all"]

SINKS: dict[str, type[Sink]] = {
    "tensorboard": TensorBoardSink,
    "mlflow": MLflowSink,
    "wandb": WandbSink,
}


def check_sinks(names: Sequence[str]) -> None:
    """Make sure that the sinks exist and can be used here.

    Raises:
        ConfigError: an unknown name; or a package, address or key is missing.
    """
    for name in names:
        if name not in SINKS:
            raise ConfigError(f"log.sinks names '{name}'. Choose any of: {', '.join(SINKS)}.")
        SINKS[name].check()

"""`molstream sync`: hands the records of a run that has ended to loggers that have not got them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from omegaconf import MISSING

from molstream.config import compose
from molstream.errors import ConfigError, DataError, MolstreamError
from molstream.training.metrics.loggers import check_loggers, finish_all
from molstream.training.metrics.recorder import open_deliveries
from molstream.training.metrics.records import last_step
from molstream.training.run.directory import RunDirectory
from molstream.training.run.history import read_launches


@dataclass(frozen=True)
class SyncConfig:
    """`molstream sync`: what is handed over, and to whom."""

    run_dir: str = MISSING
    """The pretraining run."""
    loggers: list[str] | None = None
    """Any of tensorboard, mlflow and wandb; those of the run by default."""
    timeout_s: float = 600.0
    """Seconds after which it gives up."""


def sync(config: SyncConfig) -> bool:
    """Hand over what is missing; whether everything is there now.

    Raises:
        ConfigError: ``run_dir`` is no run, or a logger cannot be used here.
        DataError: the run has no recorded step yet.
    """
    run = RunDirectory(config.run_dir)
    log = run.config().log
    log = log if config.loggers is None else replace(log, loggers=config.loggers)
    check_loggers(log.loggers)
    if not (last := last_step(run.path)):
        raise DataError(f"{run.path} has no recorded step yet: there is nothing to hand over.")
    launches = read_launches(run.path)
    deliveries = open_deliveries(run, log, last)
    for delivery in deliveries:
        delivery.start()
    return finish_all(deliveries, (launches[-1].ended if launches else None) or "stopped", config.timeout_s)


def main(argv: Sequence[str]) -> int:
    """The command: exit code 1 where something is still missing, which is told."""
    try:
        config = compose("sync", SyncConfig, argv)
        complete = sync(config)
    except MolstreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    if complete:
        print(f"{config.run_dir}: all records are handed over")
    return 0 if complete else 1

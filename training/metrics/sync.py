"""`molstream sync`: hands the records of a run that has ended to loggers that have not got them."""

from dataclasses import replace

from molstream.errors import DataError
from molstream.io.locks import exclusive
from molstream.training.metrics.config import SyncConfig
from molstream.training.metrics.loggers import check_loggers, finish_all
from molstream.training.metrics.recorder import open_deliveries
from molstream.training.metrics.records import last_step
from molstream.training.run.directory import RunDirectory
from molstream.training.run.history import read_launches


def sync(config: SyncConfig) -> bool:
    """Hand over what is missing; whether everything is there now.

    Raises:
        ConfigError: ``run_dir`` is no run, or a logger cannot be used here.
        DataError: the run has no recorded step yet, or is being trained.
    """
    run = RunDirectory(config.run_dir)
    log = run.config().log
    log = log if config.loggers is None else replace(log, loggers=config.loggers)
    check_loggers(log.loggers)
    if not (last := last_step(run.path)):
        raise DataError(f"{run.path} has no recorded step yet: there is nothing to hand over.")
    # A launch delivers its records itself.
    with exclusive(run.path):
        launches = read_launches(run.path)
        deliveries = open_deliveries(run, log, last)
        for delivery in deliveries:
            delivery.start()
        return finish_all(deliveries, (launches[-1].ended if launches else None) or "stopped", config.timeout_s)

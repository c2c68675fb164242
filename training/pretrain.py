"""Pretraining script: ``deepspeed training/pretrain.py data.path=... run_dir=...``, or the same with ``python``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # If run by path, as by the deepspeed launcher, sys.path has this folder instead of the package's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from molstream.cli.pretrain import main

    sys.exit(main())

from molstream.errors import TrainingError
from molstream.io.files import FULL
from molstream.pipeline.order.mixture import Mixture
from molstream.training.config import PretrainConfig
from molstream.training.data.datasets import open_data, open_validation
from molstream.training.distributed.context import DistributedContext
from molstream.training.run.directory import RunDirectory
from molstream.training.trainer import Trainer


def pretrain(config: PretrainConfig, context: DistributedContext) -> bool:
    """Start or resume the run that ``config`` describes; returns False if a signal stopped it.

    Raises:
        ConfigError, DataError, CheckpointError: configuration, data and run do not match; raised before training.
        TrainingError: too many steps have no finite gradient, the disk of the run is full, or it is trained elsewhere.
    """
    data = open_data(config.data)
    run = RunDirectory(config.run_dir)
    with run.locked(context):
        run.check(config, data)
        return _train(config, context, data, run)


def _train(config: PretrainConfig, context: DistributedContext, data: Mixture, run: RunDirectory) -> bool:
    trainer = Trainer(config, context, data, open_validation(config.data, data), run)
    context.barrier()
    if context.rank == 0:
        run.begin(config, data, context)
    context.barrier()
    try:
        return trainer.fit()
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise TrainingError(
            f"{error.strerror}: {error.filename}. Free space there and run the same command again to resume from the "
            "newest checkpoint."
        ) from error

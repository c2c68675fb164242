"""Pretraining: ``deepspeed training/pretrain.py data.path=... run_dir=...``, or the same under plain ``python``."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):
    # Run by path, as the deepspeed launcher does: the repository is not on sys.path then, its training/ folder is.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pipeline.config import compose
from preprocessing.errors import ConfigError, MolstreamError
from training.config import PretrainConfig
from training.data.sources import open_data, open_validation
from training.processes import Place, start_processes, stop_processes
from training.run import RunDirectory
from training.sinks import check_sinks
from training.trainer import Trainer


def pretrain(config: PretrainConfig, place: Place) -> bool:
    """Run, or continue, the pretraining that ``config`` describes; False when a signal stopped it.

    Raises:
        ConfigError, DataError, CheckpointError: before any training, when something does not fit.
        TrainingError: the loss is lost.
    """
    data = open_data(config.data)
    run = RunDirectory(config.run_dir)
    run.check(config, data)
    trainer = Trainer(config, place, data, open_validation(config.data, data), run)
    place.barrier()
    if place.rank == 0:
        run.begin(config, data, place)
    place.barrier()
    return trainer.fit()


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit code 0 done, 1 failed, 2 usage, 130 interrupted with a checkpoint."""
    arguments = [a for a in (sys.argv[1:] if argv is None else argv) if not a.startswith("--local_rank")]
    loud = os.environ.get("RANK", "0") == "0"
    try:
        config = compose("pretrain", PretrainConfig, arguments)
        if loud:
            # The only process that has sinks, and whose environment matters to them.
            check_sinks(config.log.sinks)
        place = start_processes(config.deepspeed.timeout_s)
        finished = pretrain(config, place)
        stop_processes()
    except MolstreamError as error:
        if loud:
            print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return 0 if finished else 130


if __name__ == "__main__":
    sys.exit(main())

"""Pretraining: ``deepspeed training/pretrain.py data.path=... run_dir=...``, or the same under plain ``python``."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):
    # Run by path, as the deepspeed launcher does: the repository is not on sys.path then, its training/ folder is.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pipeline.config import compose
from pipeline.shards.reader import ShardDataset
from preprocessing.errors import ConfigError, MolstreamError
from training.config import PretrainConfig
from training.engine import Place, end_process, start_processes, stop_processes
from training.run import RunDirectory
from training.trainer import Trainer


def pretrain(config: PretrainConfig, place: Place) -> bool:
    """Run, or continue, the pretraining that ``config`` describes; False when a signal stopped it.

    Raises:
        ConfigError, DataError, CheckpointError: before any training, when something does not fit.
        TrainingError: the loss is lost.
    """
    dataset = ShardDataset(config.data.path)
    run = RunDirectory(config.run_dir)
    run.check(config, dataset.manifest)
    trainer = Trainer(config, place, dataset, run)
    trainer.engine.barrier()
    if place.rank == 0:
        run.begin(config, dataset.manifest, place)
    trainer.engine.barrier()
    return trainer.fit()


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit code 0 done, 1 failed, 2 usage, 130 interrupted with a checkpoint."""
    arguments = [a for a in (sys.argv[1:] if argv is None else argv) if not a.startswith("--local_rank")]
    loud = os.environ.get("RANK", "0") == "0"
    try:
        config = compose("pretrain", PretrainConfig, arguments)
        place = start_processes(config.deepspeed)
        code = 0 if pretrain(config, place) else 130
        stop_processes()
    except MolstreamError as error:
        if loud:
            print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    if place.world_size > 1:
        end_process(code)
    return code


if __name__ == "__main__":
    sys.exit(main())

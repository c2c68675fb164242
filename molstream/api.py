"""Preparing datasets and pretraining from Python: what the commands of the same names do."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molstream.compose import configure
from molstream.pipeline.config import PreprocessConfig
from molstream.training.config import PretrainConfig

if TYPE_CHECKING:
    from molstream.pipeline.shards.manifest import Manifest


def preprocess(input: Any, output: str | Path, **settings: Any) -> "Manifest":
    """Prepare a dataset from molecule files, or what is missing of it, as ``molstream preprocess`` does.

    ::

        manifest = preprocess("molecules.csv", "datasets/mine", conformers="ten", featurize={"hydrogens": "all"})
        print(manifest.counts)

    Args:
        input: file, glob, folder or URL; a mapping of one, as ``path``, and options of its own; or a list of these.
        output: folder of the dataset.
        settings: keys of ``molstream preprocess --help``; a section takes a mapping, a config group a name.

    Returns:
        What the dataset holds: counts, shards, schema and fingerprint.

    Raises:
        ConfigError: a setting that cannot be used, or ``output`` holds something else.
        DataError: an unusable input, or too many rejected rows.
    """
    config = configure("preprocess", PreprocessConfig, {"input": input, "output": str(output), **settings})
    from molstream.pipeline.build import build

    return build(config)


def pretrain(data: str | Path | Mapping[str, Any], run_dir: str | Path, **settings: Any) -> Path:
    """Pretrain on a dataset, or continue the run in ``run_dir``, as ``molstream pretrain`` does.

    ::

        run = pretrain("datasets/mine", "runs/mine", model="small", steps=10_000, optim={"lr": 1e-3})

    A program that calls this under the ``deepspeed`` or ``torchrun`` launcher trains on all their processes.

    Args:
        data: folder or URL of a dataset, or the keys of the section ``data``.
        run_dir: folder of the run.
        settings: keys of ``molstream pretrain --help``; a section takes a mapping, a config group a name or a list.

    Returns:
        The folder of the run.

    Raises:
        ConfigError: a setting that cannot be used, or ``run_dir`` holds another run.
        DataError, CheckpointError: the dataset, or what ``init_from`` names, cannot be used.
        TrainingError: the loss is lost, or the disk is full.
        KeyboardInterrupt: a signal stopped the run, with a checkpoint; the same call continues it.
    """
    stream = dict(data) if isinstance(data, Mapping) else {"path": str(data)}
    config = configure("pretrain", PretrainConfig, {"data": stream, "run_dir": str(run_dir), **settings})
    from molstream.training.distributed.context import start_processes
    from molstream.training.metrics.loggers import check_loggers
    from molstream.training.pretrain import pretrain as train

    check_loggers(config.log.loggers)
    # The process group stays, for the next run of the same program.
    if not train(config, start_processes(config.deepspeed.timeout_s)):
        raise KeyboardInterrupt
    return Path(config.run_dir)

"""A pretraining run's checkpoint as a module that computes: what generating, evaluating and diagnosing begin with."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from molstream.config import load
from molstream.errors import CheckpointError
from molstream.preprocessing.config import FeaturizeConfig
from molstream.training.checkpoint.format import RunState, load_checkpoint
from molstream.training.checkpoint.load import load_weights
from molstream.training.config import PretrainConfig
from molstream.training.module import PretrainingModule, build_module
from molstream.training.run.directory import RunDirectory


@dataclass(frozen=True)
class Trained:
    """The encoders and the objective of a run, as they were at a checkpoint."""

    module: PretrainingModule
    """In evaluation mode."""
    config: PretrainConfig
    """Of the run."""
    featurize: FeaturizeConfig
    """How the molecules of its dataset were made."""
    state: RunState
    """Of the checkpoint."""
    device: torch.device


def load_trained(run_dir: str | Path, step: int | None, device: torch.device) -> Trained:
    """The newest whole checkpoint of a run, or the one of ``step``.

    Raises:
        ConfigError: there is no run.
        CheckpointError: the run has no whole checkpoint, or not the one of ``step``.
    """
    run = RunDirectory(run_dir)
    config = run.config()
    checkpoint = load_checkpoint(checkpoint_path(run, config, step))
    module = build_module(config.model, config.objective, config.seed)
    load_weights(module, checkpoint.published)
    featurize = load(FeaturizeConfig, run.dataset()["config"]["featurize"], str(run.path / "dataset.json"))
    return Trained(module.eval().to(device), config, featurize, checkpoint.state, device)


def checkpoint_path(run: RunDirectory, config: PretrainConfig, step: int | None) -> Path:
    """A local folder with the newest whole checkpoint, or of the one of ``step``.

    Raises:
        CheckpointError: there is none.
    """
    store = run.checkpoints(config)
    if step is None:
        step = store.latest(lambda text: print(f"warning: {text}", file=sys.stderr))
        if step is None:
            raise CheckpointError(f"{run.path} has no whole checkpoint. Train it for at least one step.")
    elif step not in (found := store.steps()):
        raise CheckpointError(f"{store.where} has no checkpoint of step {step}; there are {found}.")
    return store.fetch(step)

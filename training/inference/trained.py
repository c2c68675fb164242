"""Loads a checkpoint of a pretraining run for generation, evaluation and diagnostics."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from molstream.errors import CheckpointError
from molstream.preprocessing.config import FeaturizeConfig
from molstream.training.checkpoint.exported import check_schema
from molstream.training.checkpoint.format import RunState, load_checkpoint
from molstream.training.checkpoint.load import load_weights
from molstream.training.config import PretrainConfig
from molstream.training.data.labels import Labels
from molstream.training.inference.featurizing import model_featurizer
from molstream.training.memory import require_room_to_use
from molstream.training.module import PretrainingModule, build_module
from molstream.training.run.directory import RunDirectory


@dataclass(frozen=True)
class Generative:
    """Encoders and objective with trained weights, of a run or of an export that has its heads."""

    module: PretrainingModule
    """Encoders and objective, in evaluation mode."""
    featurize: FeaturizeConfig
    """Featurizer of the dataset that they were trained on, without descriptors."""
    device: torch.device
    """Device of the module's weights."""


@dataclass(frozen=True)
class Trained(Generative):
    """The same of a checkpoint of a run."""

    config: PretrainConfig
    """Configuration of the run."""
    state: RunState
    """State of the run at the checkpoint."""


def load_trained(run_dir: str | Path, step: int | None, device: torch.device) -> Trained:
    """Load the newest intact checkpoint of a run, or the one of ``step``.

    Raises:
        ConfigError: ``run_dir`` is not a run.
        CheckpointError: the run has no intact checkpoint, or none of ``step``, or was trained on records of another
            schema.
    """
    run = RunDirectory(run_dir)
    config = run.config()
    path = checkpoint_path(run, config, step)
    checkpoint = load_checkpoint(path)
    dataset = run.dataset()
    labels = Labels.of(dataset)
    require_room_to_use(config.model, config.objective, labels, f"loading {run.path}")
    check_schema(run.path, dataset["schema_version"])
    module = build_module(config.model, config.objective, config.seed, labels)
    load_weights(module, checkpoint.published, str(path))
    featurize = model_featurizer(dataset["config"]["featurize"], str(run.path / "dataset.json"))
    return Trained(module.eval().to(device), featurize, device, config, checkpoint.state)


def checkpoint_path(run: RunDirectory, config: PretrainConfig, step: int | None) -> Path:
    """Return a local folder with the newest intact checkpoint of a run, or with the one of ``step``.

    Raises:
        ConfigError: the run's configuration names a URL that the user does not trust.
        CheckpointError: the run has no such checkpoint.
    """
    store = run.stored_checkpoints(config)
    if step is None:
        step = store.latest(lambda text: print(f"warning: {text}", file=sys.stderr))
        if step is None:
            raise CheckpointError(f"{run.path} has no intact checkpoint. Train it for at least one step.")
    elif step not in (found := store.steps()):
        raise CheckpointError(f"{store.where} has no checkpoint of step {step}; there are {found}.")
    return store.fetch(step)

"""Loads what generates: the encoders and the objective of a run, or of an export that has its heads."""

from pathlib import Path

import torch

from molstream.config import load
from molstream.errors import CheckpointError, ConfigError
from molstream.io.reading import mismatch
from molstream.training.checkpoint.exported import (
    CONFIG_FILE,
    ENCODER_FILES,
    FILES,
    HEADS_FILE,
    WEIGHTS_FILE,
    read_weights,
    require_intact,
)
from molstream.training.checkpoint.format import ANOTHER, read_safetensors
from molstream.training.checkpoint.load import load_weights
from molstream.training.extended import ModelConfig, ObjectiveConfig
from molstream.training.hubs.source import resolved
from molstream.training.inference.export import as_checkpoint_error, read_export, warn_of_use
from molstream.training.inference.heads import HEADS, labels_of
from molstream.training.inference.trained import Generative, load_trained
from molstream.training.memory import require_room_to_use
from molstream.training.module import build_module


def load_generative(source: str | Path, step: int | None, device: torch.device) -> Generative:
    """Load the encoders and the objective of a run, or of an export that has its heads.

    Args:
        source: a run directory, or an export: a folder, or at a hub or URL, as
            :func:`~molstream.training.hubs.source.resolved` finds it.
        step: step of a run's checkpoint; by default the newest intact one.
        device: where to.

    Raises:
        ConfigError: ``source`` is neither a run nor an export, or a step is given for an export.
        CheckpointError: the run has no intact checkpoint, or none of ``step``; the export has no heads, or is damaged.
        RemoteError: a hub does not answer.
    """
    folder, address = resolved(source, "run_dir", files=(*ENCODER_FILES, HEADS_FILE))
    if not (folder / CONFIG_FILE).is_file():
        return load_trained(folder, step, device)
    if step is not None:
        raise ConfigError(f"step={step}: {address} is an export, which has one step. Give the run directory instead.")
    return _load_export(folder, address, device)


def _load_export(folder: Path, address: str, device: torch.device) -> Generative:
    described = read_export(folder)
    config, file = described.config, folder / HEADS_FILE
    if HEADS_FILE not in config.get(FILES, ()):
        raise CheckpointError(
            f"{address} has no {HEADS_FILE}: it can embed, but not generate. Export the run again with "
            "include=[heads], or give the run directory."
        )
    if unlike := mismatch(config, {HEADS: {"model": dict}}):
        raise CheckpointError(f"{folder / CONFIG_FILE} cannot be used: {unlike}. {ANOTHER}")
    heads, weights = read_safetensors(file), read_weights(folder)
    require_intact(folder, config, (WEIGHTS_FILE, HEADS_FILE))
    labels = labels_of(file)
    with as_checkpoint_error():
        model = load(ModelConfig, {**config["model"], **config[HEADS]["model"]}, f"{folder / CONFIG_FILE}, model")
        where = f"{folder / CONFIG_FILE}, training.objective"
        objective = load(ObjectiveConfig, config["training"]["objective"], where)
        require_room_to_use(model, objective, labels, f"loading {folder}")
        module = build_module(model, objective, 0, labels)
    load_weights(module.encoders, weights, str(folder / WEIGHTS_FILE))
    load_weights(module.objective, heads, str(file))
    warn_of_use(folder, config)
    return Generative(module.eval().to(device), described.featurize, device)

"""Writes exports (config.json, model.safetensors and a model card) from runs, and loads them strictly."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from molstream.config import load, tree_of
from molstream.errors import CheckpointError, ConfigError, DataError
from molstream.io.files import folder_written_whole
from molstream.io.locks import claimed
from molstream.io.reading import read_bounded, read_json
from molstream.preprocessing.config import FeaturizeConfig
from molstream.training.checkpoint.exported import (
    CARD_FILE,
    CONFIG_FILE,
    FINGERPRINT,
    FORMAT_VERSION,
    LIBRARY,
    WEIGHTS_FILE,
    check_schema,
    read_config,
    read_weights,
    require_intact,
    sealed,
)
from molstream.training.checkpoint.format import ANOTHER, load_checkpoint, write_safetensors
from molstream.training.checkpoint.load import forms, load_weights, require_same
from molstream.training.checkpoint.upgrade import upgraded_model, upgraded_objective
from molstream.training.extended import ModelConfig
from molstream.training.inference.card import EVALUATION, model_card
from molstream.training.inference.config import ExportConfig
from molstream.training.inference.featurizing import model_featurizer
from molstream.training.memory import on_meta, require_room
from molstream.training.models.encoders import Encoders


@dataclass(frozen=True)
class Export:
    """A loaded export: encoders in evaluation mode, with their configurations."""

    encoders: Encoders
    """The 2D and 3D encoder, in evaluation mode."""
    model: ModelConfig
    """Configuration of the encoders."""
    featurize: FeaturizeConfig
    """Featurizer of the molecules that they were trained on, without descriptors."""
    config: dict[str, Any]
    """Complete content of config.json."""


def export_run(config: ExportConfig) -> Path:
    """Export a checkpoint of a run to a folder, atomically; returns the folder.

    Raises:
        CheckpointError: the run has no intact checkpoint, or none of ``step``.
        ConfigError: ``run_dir`` is not a run, or the folder holds other files.
        DataError: another process writes the folder, or ``sources`` or the run's eval.json cannot be read.
    """
    from molstream.training.inference.trained import checkpoint_path
    from molstream.training.run.directory import RunDirectory

    run = RunDirectory(config.run_dir)
    pretrain = run.config()
    checkpoint = load_checkpoint(checkpoint_path(run, pretrain, config.step))
    dataset = run.dataset()
    check_schema(run.path, dataset["schema_version"])
    description = {
        "format_version": FORMAT_VERSION,
        "library": LIBRARY,
        "purpose": config.purpose,
        "model": _encoders_of(pretrain.model),
        "featurizer": {
            "schema_version": dataset["schema_version"],
            "rdkit": dataset["versions"]["rdkit"],
            "config": tree_of(model_featurizer(dataset["config"]["featurize"], str(run.path / "dataset.json"))),
        },
        "training": {
            "objective": tree_of(pretrain.objective),
            "steps": checkpoint.state.step,
            "global_batch": checkpoint.state.lanes * checkpoint.state.micro_batch,
            "seed": checkpoint.state.seed,
            "dataset_fingerprint": checkpoint.state.dataset_fingerprint,
            "dataset_molecules": dataset["counts"]["written"],
        },
    }
    weights = {
        name.removeprefix("encoders."): tensor
        for name, tensor in checkpoint.published.items()
        if name.startswith("encoders.")
    }
    output = Path(config.output) if config.output else run.path / "export"
    sources = _text_of(config.sources) if config.sources else None

    def card(content: bytes) -> str:
        found = json.loads(content)
        evaluation = _evaluation_of(found[FINGERPRINT], run.path / "eval.json")
        count = sum(tensor.numel() for tensor in weights.values())
        return model_card(output.name, found, sorted(pretrain.model.encoders()), count, evaluation, sources)

    _write(output, description, weights, card)
    return output


def _text_of(file: str) -> str:
    """The text of the file that ``sources`` names.

    Raises:
        DataError: it cannot be read or is not UTF-8.
    """
    advice = "Give the path of a Markdown file as sources=FILE."
    try:
        return read_bounded(Path(file), advice).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} cannot be read: it is not UTF-8. {advice}") from error


def _evaluation_of(fingerprint: str, file: Path) -> dict[str, Any] | None:
    """The evaluation in a run's folder, if it is one of an export with this fingerprint.

    Raises:
        DataError: it is damaged.
    """
    if not file.is_file():
        return None
    found = read_json(file, EVALUATION, "Write it again with `molstream evaluate vectors`, or remove it.")
    return found if found["export_fingerprint"] == fingerprint else None


def _encoders_of(model: ModelConfig) -> dict[str, Any]:
    """Configuration of the encoders alone: exports contain no score networks."""
    return {name: tree_of(getattr(model, name)) for name in model.encoders().values()}


def load_export(path: str | Path) -> Export:
    """Load an export folder strictly.

    Raises:
        CheckpointError: ``path`` is not an export, has another format or schema version, unknown settings, or weights
            that do not match the model (the message names the tensors).
    """
    folder = Path(path)
    config = read_config(folder)
    file = folder / CONFIG_FILE
    if config["format_version"] == 1:
        _upgrade(config, file)
    try:
        model = load(ModelConfig, config["model"], f"{file}, model")
        featurize = model_featurizer(config["featurizer"]["config"], f"{file}, featurizer.config")
        form = on_meta(lambda: Encoders(model))
        require_room(form, model, f"loading {folder}")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    weights = read_weights(folder)
    # Before the seal: what differs is said by name where it can be.
    require_same(forms(form.state_dict()), weights, str(folder / WEIGHTS_FILE))
    require_intact(folder, config)
    encoders = Encoders(model)
    load_weights(encoders, weights, str(folder / WEIGHTS_FILE))
    if config["purpose"] == "test":
        _warn_of_test(folder.resolve())
    check_schema(folder, config["featurizer"]["schema_version"])
    return Export(encoders.eval(), model, featurize, config)


@cache
def _warn_of_test(folder: Path) -> None:
    """Say, once in a process, that an export must not be used in earnest."""
    print(f"warning: {folder} is an export for tests only (purpose: test)", file=sys.stderr)


def _upgrade(config: dict[str, Any], file: Path) -> None:
    """Give a config.json of format 1 today's keys."""
    try:
        config["model"] = upgraded_model(config["model"])
        config["training"]["objective"] = upgraded_objective(config["training"]["objective"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be used: the key {error} is missing. {ANOTHER}") from error


def _write(output: Path, description: dict[str, Any], weights: dict[str, Any], card: Callable[[bytes], str]) -> None:
    """Write the files of an export; ``card`` makes the card of config.json."""
    known = {CONFIG_FILE, WEIGHTS_FILE, CARD_FILE}
    with claimed(output):
        if output.is_dir() and (foreign := sorted({p.name for p in output.iterdir()} - known)):
            raise ConfigError(f"output={output} holds other files ({', '.join(foreign[:5])}): give another folder.")
        with folder_written_whole(output) as temporary:
            write_safetensors(temporary / WEIGHTS_FILE, weights, {"format": "pt"})
            config = sealed(description, temporary / WEIGHTS_FILE)
            (temporary / CONFIG_FILE).write_bytes(config)
            (temporary / CARD_FILE).write_bytes(card(config).encode())

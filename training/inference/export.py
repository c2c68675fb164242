"""Writes exports (config.json, weights and a model card) from runs, and loads them strictly."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from molstream.config import load, tree_of
from molstream.errors import CheckpointError, ConfigError
from molstream.io.files import folder_written_whole
from molstream.io.locks import claimed
from molstream.preprocessing.config import FeaturizeConfig
from molstream.training.checkpoint.exported import (
    CARD_FILE,
    CONFIG_FILE,
    EVALUATION_FILE,
    EXPORT_FILES,
    FORMAT_VERSION,
    HEADS_FILE,
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
from molstream.training.inference.card import model_card
from molstream.training.inference.config import ExportConfig
from molstream.training.inference.facts import facts_of
from molstream.training.inference.featurizing import model_featurizer
from molstream.training.inference.heads import HEADS, heads_of, write_heads
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

    An eval.json of the run about the same weights becomes part of it.

    Raises:
        CheckpointError: the run has no intact checkpoint, or none of ``step``.
        ConfigError: ``run_dir`` is not a run, the folder holds other files, or the model cannot be written as a program
            that ``include`` asks for.
        DataError: another process writes the folder, or ``sources`` or the run's eval.json cannot be read.
    """
    from molstream.training.inference.programs import require_programs, write_programs
    from molstream.training.inference.trained import checkpoint_path
    from molstream.training.run.directory import RunDirectory

    run = RunDirectory(config.run_dir)
    pretrain = run.config()
    require_programs(config.include, pretrain.model)
    checkpoint = load_checkpoint(checkpoint_path(run, pretrain, config.step))
    dataset = run.dataset()
    check_schema(run.path, dataset["schema_version"])
    description: dict[str, Any] = {
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
    if "heads" in config.include:
        description[HEADS] = heads_of(pretrain.model)
    output = Path(config.output) if config.output else run.path / "export"
    with _new_export(output) as folder:
        write_safetensors(folder / WEIGHTS_FILE, weights, {"format": "pt"})
        if "heads" in config.include:
            write_heads(folder / HEADS_FILE, checkpoint.published, dataset)
        write_programs(config.include, pretrain.model, weights, folder)
        content = sealed(description, folder)
        (folder / CONFIG_FILE).write_bytes(content)
        facts = facts_of(run, config, output, json.loads(content))
        if facts.evaluation is not None:
            shutil.copyfile(run.path / EVALUATION_FILE, folder / EVALUATION_FILE)
        (folder / CARD_FILE).write_bytes(model_card(facts).encode())
    return output


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
    described = read_export(folder)
    with as_checkpoint_error():
        form = on_meta(lambda: Encoders(described.model))
        require_room(form, described.model, f"loading {folder}")
    weights = read_weights(folder)
    # Before the seal: what differs is said by name where it can be.
    require_same(forms(form.state_dict()), weights, str(folder / WEIGHTS_FILE))
    require_intact(folder, described.config)
    encoders = Encoders(described.model)
    load_weights(encoders, weights, str(folder / WEIGHTS_FILE))
    warn_of_use(folder, described.config)
    return Export(encoders.eval(), *described)


class Described(NamedTuple):
    """What the config.json of an export says, checked."""

    model: ModelConfig
    """Configuration of the encoders."""
    featurize: FeaturizeConfig
    """Featurizer of the molecules that they were trained on, without descriptors."""
    config: dict[str, Any]
    """Complete content of config.json, in today's keys."""


def read_export(folder: Path) -> Described:
    """Read what an export is, without its weights.

    Raises:
        CheckpointError: ``folder`` is not an export, has another format or schema version, or unknown settings.
    """
    config, file = read_config(folder), folder / CONFIG_FILE
    if config["format_version"] == 1:
        _upgrade(config, file)
    with as_checkpoint_error():
        model = load(ModelConfig, config["model"], f"{file}, model")
        featurize = model_featurizer(config["featurizer"]["config"], f"{file}, featurizer.config")
    return Described(model, featurize, config)


@contextmanager
def as_checkpoint_error() -> Iterator[None]:
    """A configuration that an export brings is no mistake of the user's."""
    try:
        yield
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def warn_of_use(folder: Path, config: dict[str, Any]) -> None:
    """Warn, once in a process, of an export for tests, and of one that learnt from other records.

    Raises:
        CheckpointError: the records that it learnt from are laid out in another way.
    """
    if config["purpose"] == "test":
        _warn_of_test(folder.resolve())
    check_schema(folder, config["featurizer"]["schema_version"])


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


@contextmanager
def _new_export(output: Path) -> Iterator[Path]:
    """A folder for the files of an export, which replaces ``output`` when the body is done.

    Raises:
        ConfigError: ``output`` holds other files.
        DataError: another process writes it.
    """
    with claimed(output):
        if output.is_dir() and (foreign := sorted({p.name for p in output.iterdir()} - set(EXPORT_FILES))):
            raise ConfigError(f"output={output} holds other files ({', '.join(foreign[:5])}): give another folder.")
        with folder_written_whole(output) as temporary:
            yield temporary

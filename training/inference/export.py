"""Writes exports (config.json, model.safetensors and a model card) from runs, and loads them strictly."""

import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rdkit

from molstream.config import load, tree_of
from molstream.errors import CheckpointError, ConfigError
from molstream.io.files import UNFINISHED_NAME, naming
from molstream.io.reading import mismatch, read_json
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.fields import SCHEMA_VERSION
from molstream.training.checkpoint.format import ANOTHER, load_checkpoint, read_safetensors, write_safetensors
from molstream.training.checkpoint.load import load_weights
from molstream.training.checkpoint.upgrade import upgraded_model, upgraded_objective
from molstream.training.extended import ModelConfig
from molstream.training.inference.config import ExportConfig
from molstream.training.models.encoders import Encoders

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Format versions that can be loaded; format 1 also has the sizes of unused networks."""
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
VERSIONS = {"format_version": int, "featurizer": {"schema_version": int}}
"""What the config.json of every version has."""
CONFIG = {
    "purpose": str,
    "model": dict,
    "featurizer": {"config": dict},
    "training": {"objective": dict, "dataset_fingerprint": str},
}
"""What of the config.json of a readable version is used."""


@dataclass(frozen=True)
class Export:
    """A loaded export: encoders in evaluation mode, with their configurations."""

    encoders: Encoders
    """The 2D and 3D encoder, in evaluation mode."""
    model: ModelConfig
    """Configuration of the encoders."""
    featurize: FeaturizeConfig
    """Featurizer of the molecules that they were trained on."""
    config: dict[str, Any]
    """Complete content of config.json."""


def export_run(config: ExportConfig) -> Path:
    """Export a checkpoint of a run to a folder, atomically; returns the folder.

    Raises:
        CheckpointError: the run has no intact checkpoint, or none of ``step``.
        ConfigError: ``run_dir`` is not a run.
    """
    from molstream.training.inference.trained import checkpoint_path
    from molstream.training.run.directory import RunDirectory

    run = RunDirectory(config.run_dir)
    pretrain = run.config()
    checkpoint = load_checkpoint(checkpoint_path(run, pretrain, config.step))
    dataset = run.dataset()
    description = {
        "format_version": FORMAT_VERSION,
        "library": "molstream",
        "purpose": config.purpose,
        "model": _encoders_of(pretrain.model),
        "featurizer": {
            "schema_version": SCHEMA_VERSION,
            "rdkit": rdkit.__version__,
            "config": dataset["config"]["featurize"],
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
    _write(output, description, weights)
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
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"{folder} is not an export: expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, "
            "as written by `molstream export`."
        )
    file = folder / CONFIG_FILE
    config = read_json(file, VERSIONS, ANOTHER, CheckpointError)
    version, schema = config["format_version"], config["featurizer"]["schema_version"]
    if version not in READABLE_VERSIONS or schema != SCHEMA_VERSION:
        raise CheckpointError(
            f"{folder} has format version {version} and schema version {schema}, this molstream reads formats "
            f"{' and '.join(map(str, READABLE_VERSIONS))} with schema {SCHEMA_VERSION}. Install the molstream "
            "that wrote it."
        )
    if unlike := mismatch(config, CONFIG):
        raise CheckpointError(f"{file} cannot be used: {unlike}. {ANOTHER}")
    if version == 1:
        _upgrade(config, file)
    try:
        model = load(ModelConfig, config["model"], f"{file}, model")
        featurize = load(FeaturizeConfig, config["featurizer"]["config"], f"{file}, featurizer.config")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    encoders = Encoders(model)
    load_weights(encoders, read_safetensors(folder / WEIGHTS_FILE))
    if config["purpose"] == "test":
        print(f"warning: {folder} is an export for tests only (purpose: test)", file=sys.stderr)
    return Export(encoders.eval(), model, featurize, config)


def _upgrade(config: dict[str, Any], file: Path) -> None:
    """Give a config.json of format 1 today's keys."""
    try:
        config["model"] = upgraded_model(config["model"])
        config["training"]["objective"] = upgraded_objective(config["training"]["objective"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be used: the key {error} is missing. {ANOTHER}") from error


def _write(output: Path, description: dict[str, Any], weights: dict[str, Any]) -> None:
    known = {CONFIG_FILE, WEIGHTS_FILE, CARD_FILE}
    if output.exists() and (foreign := sorted({p.name for p in output.iterdir()} - known)):
        raise ConfigError(f"output={output} holds other files ({', '.join(foreign[:5])}): give another folder.")
    temporary = output.with_name(f"{UNFINISHED_NAME}{output.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with naming(output):
            temporary.mkdir(parents=True)
            (temporary / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n")
            write_safetensors(temporary / WEIGHTS_FILE, weights)
            card = _card(output.name, description, sum(w.numel() for w in weights.values()))
            (temporary / CARD_FILE).write_text(card)
            shutil.rmtree(output, ignore_errors=True)
            temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _card(name: str, description: dict[str, Any], num_values: int) -> str:
    """Write the model card: YAML front matter for hubs, then use, inputs, training and limits of the model."""
    model, training, featurizer = description["model"], description["training"], description["featurizer"]
    chemistry = featurizer["config"]
    hydrogens = "heavy atoms only" if chemistry["hydrogens"] == "heavy" else "all atoms, hydrogens included"
    title = re.sub(r"[^\w-]+", "-", name)
    return f"""---
library_name: molstream
tags: [chemistry, molecules, embeddings, 2d, 3d]
pipeline_tag: feature-extraction
---

# {title}

A 2D/3D molecular encoder ({", ".join(model)}; {num_values:,} values), purpose: **{description["purpose"]}**.

## Use

```python
from molstream import MoleculeEmbedder, load_pretrained

embedder = MoleculeEmbedder.from_pretrained("PATH_OF_THIS_FOLDER")
vectors = embedder.transform(["CCO", "c1ccccc1O"])  # float32 [2, d], row i belongs to input i

encoder = load_pretrained("PATH_OF_THIS_FOLDER", representation="2d")  # a torch.nn.Module, to fine-tune
```

## Inputs

SMILES; molstream standardizes them (schema {featurizer["schema_version"]}, RDKit {featurizer["rdkit"]}):
{hydrogens}, at most {chemistry["max_atoms"]} heavy atoms. The 3D part uses one seeded ETKDG conformer per molecule.

## Training

| | |
|---|---|
| objective | {", ".join(training["objective"])} |
| steps x global batch | {training["steps"]:,} x {training["global_batch"]:,} molecules |
| dataset | {training["dataset_molecules"]:,} molecules, fingerprint `{training["dataset_fingerprint"]}` |
| seed | {training["seed"]} |

## Limits

Organic molecules like those of the training set; no periodic systems, no proteins. Dummy atoms are rejected.
"""

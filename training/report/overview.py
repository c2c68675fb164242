"""Text overview of a dataset, run, checkpoint or export."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from molstream.errors import DataError
from molstream.io.remote import Retries, exists, shown
from molstream.pipeline.reports.inspect import inspect_dataset, inspect_shard
from molstream.pipeline.shards.manifest import NAME as MANIFEST
from molstream.training.checkpoint.exported import (
    CARD_FILE,
    CONFIG_FILE,
    EXPORT_FILES,
    FILES,
    SEALED_FILES,
    WEIGHTS_FILE,
    read_config,
    require_intact,
)
from molstream.training.checkpoint.format import MARKER, damage, load_checkpoint, name_of
from molstream.training.checkpoint.store import is_checkpoint_url, local_folder
from molstream.training.hubs.source import is_hub, resolved
from molstream.training.inference.export import load_export
from molstream.training.metrics.records import read_metrics
from molstream.training.run.directory import RunDirectory
from molstream.training.run.history import read_launches

STEP = "step_NNNNNNNN"
"""What the names of checkpoints look like."""


def overview_at(url: str) -> str:
    """Describe the dataset, checkpoint or export at a URL.

    Raises:
        DataError: the server does not answer, or the dataset is damaged.
        CheckpointError: there is none of them, or it is damaged.
        ConfigError: a hub denies access.
    """
    if is_hub(url):
        return _look_at_export(url)
    if Retries().call(lambda: exists(f"{url.rstrip('/')}/{MANIFEST}")):
        return inspect_dataset(url)
    if not is_checkpoint_url(url) and Retries().call(lambda: exists(f"{url.rstrip('/')}/{CONFIG_FILE}")):
        return _look_at_export(url)
    return overview(local_folder(url))


def overview(path: Path) -> str:
    """Describe the dataset, shard, run, checkpoint or export at ``path``.

    Raises:
        DataError: ``path`` is none of these.
        CheckpointError: the checkpoint or export is damaged.
    """
    if path.is_file():
        return inspect_shard(path)
    if (path / MANIFEST).is_file():
        return inspect_dataset(path)
    if (path / MARKER).is_file():
        return _inspect_checkpoint(path)
    if (path / CONFIG_FILE).is_file():
        return _inspect_export(path)
    if (path / "config.yaml").is_file():
        return _inspect_run(path)
    if (path / "plan.json").is_file():
        raise DataError(f"{path} is an unfinished dataset: run the same `molstream preprocess` command again.")
    found = "there is no such file or folder; " if not path.exists() else ""
    if path.is_dir() and not any(path.iterdir()):
        found = "it is an empty folder; "
    raise DataError(
        f"{path} is not written by molstream: {found}expected a dataset (manifest.json), a run (config.yaml), "
        f"a checkpoint ({MARKER}) or an export ({CONFIG_FILE})."
    )


def _inspect_checkpoint(path: Path) -> str:
    checkpoint = load_checkpoint(path)
    state = checkpoint.state
    values = sum(tensor.numel() for tensor in checkpoint.weights.values())
    size = sum(p.stat().st_size for p in path.iterdir())
    return "\n".join(
        [
            f"checkpoint {path}: intact, {size / 2**20:.1f} MiB",
            f"  step {state.step} ({state.step - state.optimizer_steps} skipped), seed {state.seed}, "
            f"{state.lanes} lanes x {state.micro_batch} molecules",
            f"  {len(checkpoint.weights)} tensors, {values:,} values; {len(checkpoint.moments)} optimizer moments, "
            f"{len(checkpoint.average)} averages",
            f"  written by {state.world_size} process(es) at ZeRO {state.zero_stage}; any number that divides "
            f"{state.lanes} can resume from it",
            f"  dataset {state.dataset_fingerprint}",
        ]
    )


def _inspect_export(path: Path) -> str:
    export = load_export(path)
    require_intact(path, export.config, SEALED_FILES)
    values = sum(tensor.numel() for tensor in export.encoders.state_dict().values())
    return "\n".join(
        [
            f"export {path}: intact, {values:,} values, purpose {export.config['purpose']}",
            "  encoders " + ", ".join(f"{name} ({side})" for side, name in export.model.encoders().items()),
            "  files " + ", ".join(name for name in EXPORT_FILES if (path / name).is_file()),
            f"  featurizer {json.dumps(export.config['featurizer']['config'])}",
            f"  training {json.dumps(export.config['training'])}",
        ]
    )


def _look_at_export(url: str) -> str:
    """Describe an export by its configuration and its card alone, however large its weights are."""
    folder, address = resolved(url, "path", files=(CONFIG_FILE, CARD_FILE))
    config = read_config(folder)
    sizes = {name: f"{each['bytes'] / 2**20:.1f} MiB" for name, each in config.get(FILES, {}).items()}
    lines = [
        f"export {address}: purpose {config['purpose']}, weights of {sizes.pop(WEIGHTS_FILE, 'unknown size')}, "
        "which were not downloaded",
        f"  encoders {', '.join(config['model'])}",
        *(f"  with {name}, {size}" for name, size in sizes.items()),
        f"  featurizer {json.dumps(config['featurizer']['config'])}",
        f"  training {json.dumps(config['training'])}",
    ]
    if (folder / CARD_FILE).is_file():
        lines += ["  card:", *(f"    {line}" for line in _beginning((folder / CARD_FILE).read_text("utf-8")))]
    return "\n".join(lines)


def _beginning(card: str) -> list[str]:
    """What a model card says before its first section, without its metadata."""
    metadata = re.match(r"---\n.*?\n---\n", card, re.DOTALL)
    text = card[metadata.end() :] if metadata else card
    return [line for line in text.partition("\n## ")[0].splitlines() if line.strip()]


def _inspect_run(path: Path) -> str:
    run = RunDirectory(path)
    config, records = run.config(), read_metrics(path)
    lines = [
        f"run {path}: objective {', '.join(config.objective.chosen())}, {config.steps} steps, "
        f"{config.data.lanes} lanes x {config.data.micro_batch} molecules, dataset {run.dataset()['fingerprint'][:12]}"
    ]
    if records:
        last = records[-1]
        lines.append(f"  recorded step {int(last['step'])}, loss {last['train/loss']:.4f}")
    for launch in read_launches(path):
        began = datetime.fromtimestamp(launch.time, UTC).strftime("%Y-%m-%d %H:%M:%S")
        ended = launch.ended or "no end recorded"
        lines.append(f"  began at step {launch.step} on {launch.where}, {began} UTC; {ended}")
    if config.checkpoint_url is None:
        store = run.checkpoints(config)
        lines += [f"  {name_of(step)}: {damage(store.fetch(step)) or 'intact'}" for step in store.steps()]
    else:
        # A look at a run contacts nobody: its configuration could name any address.
        url = shown(config.checkpoint_url)
        lines.append(f"  checkpoints at {url}, not looked up; see one of them with: molstream inspect {url}/{STEP}")
    if (path / "command.txt").is_file():
        lines.append(f"  resume with: {(path / 'command.txt').read_text('utf-8').splitlines()[-1]}")
    return "\n".join(lines)

"""Checkpoints free of topology: one tensor per name in safetensors, the rest in JSON, committed by one rename."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.files import sync
from preprocessing.errors import CheckpointError

FORMAT_VERSION = 1
MARKER = "COMPLETE"
_NAME = re.compile(r"step_(\d{8})")


@dataclass(frozen=True)
class RunState:
    """Everything besides tensors that continues a run; together with the weights and moments it is the whole state.

    Noise, masks, dropout and order are functions of (seed, step, lane), so there is no generator to save.
    """

    step: int
    """Steps done; the next one has this number."""
    seed: int
    lanes: int
    micro_batch: int
    world_size: int
    """Processes that wrote the checkpoint; any number that divides the lanes continues it."""
    zero_stage: int
    dataset_fingerprint: str
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory: weights and buffers by name, AdamW moments as ``exp_avg.<name>``, and the run's state."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    state: RunState


def save_checkpoint(folder: Path, checkpoint: Checkpoint, config_yaml: str, keep_last: int) -> Path:
    """Write ``folder/step_NNNNNNNN`` so that it is there whole or not at all, then drop all but the last ``keep_last``.

    Files go into a temporary folder and are synced; a marker with their checksums is written last; one rename commits.
    """
    target = folder / f"step_{checkpoint.state.step:08d}"
    if target.exists() and damage(target) is None:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".*-step_*"):
        shutil.rmtree(stale)
    if target.exists():
        _drop(target)
    temporary = folder / f".writing-{target.name}"
    temporary.mkdir()
    save_file(checkpoint.weights, temporary / "weights.safetensors")
    save_file(checkpoint.moments, temporary / "moments.safetensors")
    (temporary / "state.json").write_text(json.dumps(asdict(checkpoint.state), indent=1) + "\n")
    (temporary / "config.yaml").write_text(config_yaml)
    files = {p.name: {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in sorted(temporary.iterdir())}
    (temporary / MARKER).write_text(json.dumps(files, indent=1) + "\n")
    for path in (*temporary.iterdir(), temporary):
        sync(path)
    temporary.rename(target)
    sync(folder)
    for old in checkpoints(folder)[:-keep_last]:
        _drop(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Committed checkpoints of a run, oldest first; their content is not checked."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir())


def latest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files are as written; damaged ones are named through ``warn`` and passed over."""
    for path in reversed(checkpoints(folder)):
        problem = damage(path)
        if problem is None:
            return path
        warn(f"checkpoint {path} is damaged ({problem}); trying the one before it")
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        files = json.loads((path / MARKER).read_text())
    except (OSError, json.JSONDecodeError) as error:
        return f"no readable {MARKER} marker: {error}"
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected["bytes"]:
            return f"{name} has {file.stat().st_size} bytes, expected {expected['bytes']}"
        if _sha256(file) != expected["sha256"]:
            return f"{name} differs from its checksum"
    return None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: it is damaged or of another format version.
    """
    if problem := damage(path):
        raise CheckpointError(f"checkpoint {path} cannot be used: {problem}.")
    try:
        fields = json.loads((path / "state.json").read_text())
        if fields.get("format_version") != FORMAT_VERSION:
            raise CheckpointError(
                f"checkpoint {path} has format version {fields.get('format_version')}, this molstream reads "
                f"{FORMAT_VERSION}. Use the molstream that wrote it, or export it there."
            )
        state = RunState(**fields)
        return Checkpoint(load_file(path / "weights.safetensors"), load_file(path / "moments.safetensors"), state)
    except (OSError, TypeError, json.JSONDecodeError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}.") from error


def _drop(path: Path) -> None:
    """Remove a checkpoint; renamed first, so that one half removed is never taken for one that is there."""
    doomed = path.with_name(f".dropping-{path.name}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

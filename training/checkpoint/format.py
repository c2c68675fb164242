"""Checkpoints free of topology: what they are, which there are, what is wrong with one, and how it is read.

A checkpoint is a folder ``step_NNNNNNNN``: tensors by the names of the parameters that they belong to, whole, in
safetensors, spread over one file of each kind per process that wrote them; the run's state in JSON; its configuration;
and, written last, a marker with the size and SHA-256 of every file. Any number of processes at any ZeRO stage reads it.
Writing is the task of :mod:`~molstream.training.checkpoint.writer`.
"""

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from molstream.config import read_yaml
from molstream.errors import CheckpointError
from molstream.io.hashing import file_sha256
from molstream.training.checkpoint.upgrade import objective_name, upgraded_names

FORMAT_VERSION = 3
READABLE_VERSIONS = (2, 3)
"""Format 2 has other names for the tensors of the objective."""
MARKER = "COMPLETE"
KINDS = ("weights", "moments", "average")
"""Weights and buffers by name, optimizer moments as ``exp_avg.<name>``, and the moving average of the weights."""
_NAME = re.compile(r"step_(\d{8})")


@dataclass(frozen=True)
class RunState:
    """Everything besides tensors that continues a run; together with them it is the whole state.

    Noise, masks, dropout and order are functions of (seed, step, lane), so there is no generator to save.
    """

    step: int
    """Steps done; the next one has this number."""
    optimizer_steps: int
    """Those of them that the optimizer took; the others had no finite gradient."""
    seed: int
    lanes: int
    micro_batch: int
    world_size: int
    """Processes that wrote the checkpoint; any number that divides the lanes continues it."""
    zero_stage: int
    dataset_fingerprint: str
    loss_scale: float = 1.0
    """Of fp16."""
    finite_steps: int = 0
    """Steps since the loss scale changed last."""
    validation_loss: float | None = None
    """At this step, where there is a validation set."""
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, by :data:`KINDS`; the average is empty where the run keeps none."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    state: RunState
    average: dict[str, Tensor] = field(default_factory=dict)

    @property
    def published(self) -> dict[str, Tensor]:
        """What to compute with: the average of the weights where the run keeps one, buffers as they are."""
        return {**self.weights, **self.average}


def is_name(name: str) -> bool:
    """Whether a folder of this name is a checkpoint."""
    return _NAME.fullmatch(name) is not None


def name_of(step: int) -> str:
    """The folder of the checkpoint after so many steps."""
    return f"step_{step:08d}"


def step_of(path: Path) -> int:
    """The steps that a checkpoint's folder stands for."""
    return int(path.name.removeprefix("step_"))


def part_name(kind: str, rank: int, world_size: int) -> str:
    """The file of a kind of tensors that one process writes."""
    return f"{kind}-{rank:05d}-of-{world_size:05d}.safetensors"


def checksums(files: Iterable[Path]) -> dict[str, dict[str, int | str]]:
    """What the marker says of files, by name."""
    return {path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in files}


def checkpoints(folder: Path) -> list[Path]:
    """Committed checkpoints of a run, oldest first; their content is not checked."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if is_name(p.name) and p.is_dir())


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
        if file_sha256(file) != expected["sha256"]:
            return f"{name} differs from its checksum"
    return None


def read_state(path: Path) -> RunState:
    """The run's state in a checkpoint, without a look at its other files.

    Raises:
        CheckpointError: there is none, or it is of another format version.
    """
    try:
        return state_from((path / "state.json").read_bytes(), str(path))
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}.") from error


def state_from(content: bytes, path: str) -> RunState:
    """The run's state in the bytes of a state.json; ``path`` names its checkpoint in messages.

    Raises:
        CheckpointError: it is none, or of another format version.
    """
    try:
        fields = json.loads(content)
        if fields.get("format_version") not in READABLE_VERSIONS:
            raise CheckpointError(
                f"checkpoint {path} has format version {fields.get('format_version')}, this molstream reads "
                f"{' and '.join(map(str, READABLE_VERSIONS))}. Use the molstream that wrote it, or export it there."
            )
        return RunState(**fields)
    except (TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}.") from error


def read_tensors(path: Path, kind: str) -> dict[str, Tensor]:
    """All tensors of one of the :data:`KINDS`, by name, on the CPU.

    Raises:
        CheckpointError: a file cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    try:
        for file in sorted(path.glob(f"{kind}-*.safetensors")):
            tensors |= load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}.") from error
    if tensors and read_state(path).format_version < FORMAT_VERSION:
        return upgraded_names(tensors, objective_name(read_yaml(path / "config.yaml")["objective"]))
    return tensors


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint whole.

    Raises:
        CheckpointError: it is damaged or of another format version.
    """
    if problem := damage(path):
        raise CheckpointError(f"checkpoint {path} cannot be used: {problem}.")
    state = read_state(path)
    weights, moments, average = (read_tensors(path, kind) for kind in KINDS)
    return Checkpoint(weights, moments, state, average)


def drop(path: Path) -> None:
    """Remove a checkpoint; renamed first, so that one half removed is never taken for one that is there."""
    doomed = path.with_name(f".dropping-{path.name}")
    path.rename(doomed)
    shutil.rmtree(doomed)

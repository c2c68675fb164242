"""Format of a checkpoint, which does not depend on world size or ZeRO stage; functions to list, verify and read one.

A checkpoint is a folder ``step_NNNNNNNN`` with the run's tensors, state and configuration. Tensors are unpartitioned
and stored by parameter name in safetensors, in one file per kind and per process that wrote them. ``state.json`` has
the :class:`RunState`. The marker, written last, has the size and SHA-256 of every file. Any number of processes at any
ZeRO stage can read it. :mod:`~molstream.training.checkpoint.writer` writes it.
"""

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from molstream.config import read_tree
from molstream.errors import CheckpointError, in_words
from molstream.io.hashing import file_sha256
from molstream.io.reading import Natural, mismatch, parse_json, read_bounded, read_json
from molstream.training.checkpoint.upgrade import objective_name, upgraded_names

FORMAT_VERSION = 3
READABLE_VERSIONS = (2, 3)
"""Format 2 has other names for the tensors of the objective."""
MARKER = "COMPLETE"
ANOTHER = "Use another checkpoint or export, or a copy of this one."
"""What to do about one that is damaged."""
ALWAYS = ("state.json", "config.yaml")
"""Files of every checkpoint."""
KINDS = ("weights", "moments", "average")
"""Kinds of tensors: weights and buffers by name, moments as ``exp_avg.<name>``, and the EMA of the weights by name."""
Count = Annotated[int, Field(ge=1, lt=2**31)]
"""A number of lanes, processes or molecules."""
_NAME = re.compile(r"step_([0-9]{8})")
_PART = re.compile(rf"({'|'.join(KINDS)})-[0-9]{{5,}}-of-[0-9]{{5,}}\.safetensors")
_MARKED = {"bytes": Natural, "sha256": str}
"""What the marker says of a file."""


@dataclass(frozen=True)
class RunState:
    """Everything besides tensors that a run needs to resume.

    Noise, masks, dropout and order are functions of (seed, step, lane), so that no generator state is saved.
    """

    step: Natural
    """Number of steps done; also the number of the next step, counted from 0."""
    optimizer_steps: Natural
    """Number of steps that the optimizer took; the others were skipped because their gradient was not finite."""
    seed: Natural
    lanes: Count
    micro_batch: Count
    world_size: Count
    """Number of processes that wrote the checkpoint; any number that divides the lanes can resume from it."""
    zero_stage: Annotated[int, Field(ge=0, le=3)]
    dataset_fingerprint: str
    loss_scale: Annotated[float, Field(gt=0)] = 1.0
    """Loss scale of fp16; 1 in other precisions."""
    finite_steps: Natural = 0
    """Number of steps with a finite gradient since the loss scale last changed."""
    validation_loss: float | None = None
    """Validation loss at this step; None without a validation at it, or if the loss is not finite."""
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory: its tensors by :data:`KINDS`, and its state. Without an EMA ``average`` is empty."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    state: RunState
    average: dict[str, Tensor] = field(default_factory=dict)

    @property
    def published(self) -> dict[str, Tensor]:
        """Weights for inference: the EMA if the run keeps one, otherwise the weights; and the buffers."""
        return {**self.weights, **self.average}


def is_name(name: str) -> bool:
    """Whether ``name`` is the name of a checkpoint's folder."""
    return _NAME.fullmatch(name) is not None


def name_of(step: int) -> str:
    """Name of the folder of the checkpoint after ``step`` steps."""
    return f"step_{step:08d}"


def step_of(path: Path) -> int:
    """Number of steps in the name of a checkpoint's folder."""
    return int(path.name.removeprefix("step_"))


def part_name(kind: str, rank: int, world_size: int) -> str:
    """Name of the file with the tensors of one kind that one process writes."""
    return f"{kind}-{rank:05d}-of-{world_size:05d}.safetensors"


def checksums(files: Iterable[Path]) -> dict[str, dict[str, int | str]]:
    """Size and SHA-256 of files, by file name, as the marker stores them."""
    return {path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in files}


def checkpoints(folder: Path) -> list[Path]:
    """Folders of the committed checkpoints in ``folder``, oldest first; their content is not verified."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if is_name(p.name) and p.is_dir())


def damage(path: Path) -> str | None:
    """Verify a checkpoint's files against its marker, which must name all; returns the first problem, or None."""
    try:
        files = read_json(path / MARKER, dict, "", CheckpointError)
    except CheckpointError as error:
        return f"no readable {MARKER} marker: {in_words(error)}"
    if unlike := mismatch(files, dict.fromkeys((*ALWAYS, *files), _MARKED)):
        return f"no readable {MARKER} marker: {unlike}"
    if strange := [name for name in files if name not in ALWAYS and not _PART.fullmatch(name)]:
        return f"no readable {MARKER} marker: it names {strange[0]!r}, which is no file of a checkpoint"
    try:
        for name, expected in files.items():
            if found := _damage_of_file(path / name, expected):
                return f"{name} {found}"
        state = read_state(path)
        if is_name(path.name) and state.step != step_of(path):
            return f"state.json is of step {state.step}"
        return _missing_part(set(files), state)
    except OSError as error:
        return f"it cannot be read: {in_words(error)}"
    except CheckpointError as error:
        return in_words(str(error).removesuffix(ANOTHER))


def _damage_of_file(file: Path, expected: dict[str, Any]) -> str | None:
    if not file.is_file():
        return "is missing"
    if (size := file.stat().st_size) != expected["bytes"]:
        return f"has {size} bytes, expected {expected['bytes']}"
    return None if file_sha256(file) == expected["sha256"] else "differs from its checksum"


def _missing_part(names: set[str], state: RunState) -> str | None:
    """The first file of a process that is not among the names; None if all processes have one of every kind."""
    # There are no moments before the first step of the optimizer, and an EMA only if the run keeps one.
    wanted = ["weights"] if state.optimizer_steps == 0 else ["weights", "moments"]
    for kind in KINDS:
        expected = {part_name(kind, rank, state.world_size) for rank in range(state.world_size)}
        found = {name for name in names if name.startswith(f"{kind}-")}
        if (kind in wanted or found) and found != expected:
            return f"the {MARKER} marker does not name the {kind} of each of {state.world_size} processes"
    return None


def read_state(path: Path) -> RunState:
    """Read the run's state from a checkpoint, without verifying its other files.

    Raises:
        CheckpointError: state.json is missing, damaged or of another format version.
    """
    try:
        content = read_bounded(path / "state.json", ANOTHER, CheckpointError)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error
    return state_from(content, str(path))


def state_from(content: bytes, path: str) -> RunState:
    """Parse the run's state.

    Args:
        content: bytes of a state.json.
        path: its checkpoint, for error messages.

    Raises:
        CheckpointError: ``content`` is damaged or of another format version.
    """
    where = f"checkpoint {path}, state.json,"
    version = parse_json(content, where, {"format_version": int}, ANOTHER, CheckpointError)["format_version"]
    if version not in READABLE_VERSIONS:
        raise CheckpointError(
            f"checkpoint {path}: format version {version}, expected "
            f"{' or '.join(map(str, READABLE_VERSIONS))}. "
            "Use the version of molstream that wrote it, or export it with that version."
        )
    state = parse_json(content, where, RunState, ANOTHER, CheckpointError)
    if strange := sorted(state.keys() - {each.name for each in fields(RunState)}):
        raise CheckpointError(f"{where} cannot be used: unknown key '{strange[0]}'. {ANOTHER}")
    return RunState(**state)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file by name, to the CPU.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return load_file(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing. {ANOTHER}") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {in_words(error)}. {ANOTHER}") from error


def write_safetensors(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors by name, to a file that is not read before it is complete.

    Raises:
        OSError: the file cannot be written; safetensors itself reports that without a number.
    """
    file.touch()
    # safetensors makes files that only their owner can read; checkpoints and exports are shared as the umask says.
    permissions = file.stat().st_mode
    try:
        save_file(tensors, file, metadata)
        file.chmod(permissions)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error


def read_tensors(path: Path, kind: str) -> dict[str, Tensor]:
    """Read all tensors of one of the :data:`KINDS`, by name, to the CPU.

    Raises:
        CheckpointError: a file cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    for file in sorted(path.glob(f"{kind}-*.safetensors")):
        tensors |= read_safetensors(file)
    if tensors and read_state(path).format_version < FORMAT_VERSION:
        try:
            return upgraded_names(tensors, objective_name(read_tree(path / "config.yaml")["objective"]))
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"checkpoint {path}: config.yaml names no objective. {ANOTHER}") from error
    return tensors


def load_checkpoint(path: Path) -> Checkpoint:
    """Verify and read a checkpoint.

    Raises:
        CheckpointError: it is damaged or of another format version.
    """
    if problem := damage(path):
        raise CheckpointError(f"checkpoint {path} cannot be used: {problem}. {ANOTHER}")
    state = read_state(path)
    weights, moments, average = (read_tensors(path, kind) for kind in KINDS)
    return Checkpoint(weights, moments, state, average)


def drop(path: Path) -> None:
    """Remove a checkpoint; it is renamed first, so that a partly removed one never counts as a checkpoint."""
    doomed = path.with_name(f".dropping-{path.name}")
    path.rename(doomed)
    shutil.rmtree(doomed)

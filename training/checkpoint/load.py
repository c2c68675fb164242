"""Strict loading of weights by name: nothing missing, nothing unexpected, no shape that differs."""

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from molstream.errors import CheckpointError
from molstream.training.checkpoint.format import read_tensors
from molstream.training.checkpoint.store import local_folder


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights into a module, strictly.

    Raises:
        CheckpointError: a name is missing or unexpected, or a shape differs.
    """
    require_same(shapes(module.state_dict()), shapes(weights))
    module.load_state_dict(weights)


def require_same(own: dict[str, torch.Size], given: dict[str, torch.Size]) -> None:
    """Make sure that the shapes of given weights are those of the model's own, name by name.

    Raises:
        CheckpointError: a name is missing or unexpected, or a shape differs.
    """
    problems = [f"missing {name}" for name in own.keys() - given.keys()]
    problems += [f"unexpected {name}" for name in given.keys() - own.keys()]
    problems += [
        f"{name} has shape {tuple(given[name])}, the model {tuple(own[name])}"
        for name in own.keys() & given.keys()
        if own[name] != given[name]
    ]
    if problems:
        raise CheckpointError(
            f"weights do not fit the model: {'; '.join(sorted(problems)[:6])} ({len(problems)} differences). "
            "Use the model configuration that was saved beside them."
        )


def initial_weights(own: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], str]:
    """The weights that a new run begins with, and what was loaded: those of a checkpoint, or an export's encoders.

    Args:
        own: of the new module, which fill in what an export does not have.
        source: folder of a checkpoint or export, or the URL of a checkpoint.

    Raises:
        CheckpointError: ``source`` is neither, or does not fit the model.
    """
    path = local_folder(source)
    if (path / "model.safetensors").is_file():
        encoders = {f"encoders.{name}": tensor for name, tensor in load_file(path / "model.safetensors").items()}
        given = {name: tensor for name, tensor in own.items() if not name.startswith("encoders.")} | encoders
        loaded = f"the {len(encoders)} tensors of an export's encoders; heads are new"
    elif given := read_tensors(path, "weights"):
        loaded = f"all {len(given)} tensors of a checkpoint"
    else:
        raise CheckpointError(
            f"init_from={source} is neither a checkpoint (weights-*.safetensors) nor an export (model.safetensors)."
        )
    require_same(shapes(own), shapes(given))
    return given, loaded


def shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    """By name."""
    return {name: tensor.shape for name, tensor in tensors.items()}

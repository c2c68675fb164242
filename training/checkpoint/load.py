"""Strict loading of weights: every name and shape must match."""

import torch
from torch import Tensor, nn

from molstream.errors import CheckpointError
from molstream.training.checkpoint.format import read_safetensors, read_tensors
from molstream.training.checkpoint.store import local_folder


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights into a module, strictly.

    Raises:
        CheckpointError: a name is missing or unexpected, or a shape differs.
    """
    require_same(shapes(module.state_dict()), shapes(weights))
    module.load_state_dict(weights)


def require_same(own: dict[str, torch.Size], given: dict[str, torch.Size]) -> None:
    """Check that given weights have the names and shapes of the model's own.

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
            f"weights do not match the model: {'; '.join(sorted(problems)[:6])} ({len(problems)} differences). "
            "Use the model configuration that was saved with them."
        )


def initial_weights(own: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], str]:
    """Read the initial weights of a new run from a checkpoint, or those of its encoders from an export.

    Args:
        own: weights of the new module; they are kept for what an export does not contain.
        source: folder of a checkpoint or export, or URL of a checkpoint.

    Returns:
        Weights by name, and a phrase that says what was loaded, for the log.

    Raises:
        CheckpointError: ``source`` is neither a checkpoint nor an export, or does not match the model.
    """
    path = local_folder(source)
    if (path / "model.safetensors").is_file():
        encoders = {f"encoders.{name}": tensor for name, tensor in read_safetensors(path / "model.safetensors").items()}
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
    """Shapes of tensors by name."""
    return {name: tensor.shape for name, tensor in tensors.items()}

"""Strict loading of weights by name: nothing missing, nothing unexpected, no shape that differs."""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from preprocessing.errors import CheckpointError


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights into a module, strictly.

    Raises:
        CheckpointError: a name is missing or unexpected, or a shape differs.
    """
    own = module.state_dict()
    problems = [f"missing {name}" for name in own.keys() - weights.keys()]
    problems += [f"unexpected {name}" for name in weights.keys() - own.keys()]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, the model {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    ]
    if problems:
        raise CheckpointError(
            f"weights do not fit the model: {'; '.join(sorted(problems)[:6])} ({len(problems)} differences). "
            "Use the model configuration that was saved beside them."
        )
    module.load_state_dict(weights)


def load_initial_weights(module: nn.Module, source: str) -> str:
    """Copy the weights of a checkpoint, or the encoders of an export, into a new run's module; says what was loaded.

    Raises:
        CheckpointError: ``source`` is neither, or does not fit the model.
    """
    path = Path(source)
    if (path / "weights.safetensors").is_file():
        weights = load_file(path / "weights.safetensors")
        load_weights(module, weights)
        return f"all {len(weights)} tensors of a checkpoint"
    if (path / "model.safetensors").is_file():
        weights = load_file(path / "model.safetensors")
        load_weights(module.get_submodule("encoders"), weights)
        return f"the {len(weights)} tensors of an export's encoders; heads are new"
    raise CheckpointError(
        f"init_from={source} is neither a checkpoint (weights.safetensors) nor an export (model.safetensors)."
    )

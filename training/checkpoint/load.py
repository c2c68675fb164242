"""Strict loading of weights: names, shapes and dtypes must match, and the values can be those of a trained model."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from molstream.errors import CheckpointError
from molstream.training.checkpoint.exported import (
    CONFIG_FILE,
    FINGERPRINT,
    WEIGHTS_FILE,
    read_config,
    read_weights,
    require_intact,
)
from molstream.training.checkpoint.format import ANOTHER, MARKER, load_checkpoint
from molstream.training.checkpoint.store import is_checkpoint_url, local_folder
from molstream.training.hubs.base import Located
from molstream.training.hubs.source import resolved


class Form(NamedTuple):
    """Shape and dtype of a tensor."""

    shape: torch.Size
    dtype: torch.dtype

    def texts(self) -> tuple[str, str]:
        """Shape and dtype as messages show them."""
        return str(tuple(self.shape)), str(self.dtype).removeprefix("torch.")


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], where: str = "the checkpoint") -> None:
    """Copy weights into a newly made module, strictly.

    Args:
        module: with its initial weights.
        weights: by name.
        where: the file or folder that they are from, for messages.

    Raises:
        CheckpointError: see :func:`require_same`; or a matrix is zero, which in the module it is not.
    """
    own = module.state_dict()
    require_same(forms(own), weights, where)
    # Biases begin as zeros, and some last layers too. What begins with random numbers is never trained to zeros alone.
    zero = [name for name, tensor in weights.items() if tensor.ndim > 1 and not tensor.any() and own[name].any()]
    if zero:
        raise CheckpointError(f"{where} cannot be used: {_listed(zero)} zero everywhere. {ANOTHER}")
    module.load_state_dict(weights)


def require_same(own: Mapping[str, Form], given: Mapping[str, Tensor], where: str) -> None:
    """Check that given weights have the names, shapes and dtypes of the model's own, and can be those of a model.

    Args:
        own: what the model has.
        given: the weights.
        where: the file or folder that they are from, for messages.

    Raises:
        CheckpointError: a name is missing or unexpected, a shape or dtype differs, a value is NaN or infinite, or all
            are zero.
    """
    problems = [f"missing {name}" for name in own.keys() - given.keys()]
    problems += [f"unexpected {name}" for name in given.keys() - own.keys()]
    found = forms({name: given[name] for name in own.keys() & given.keys()})
    problems += [
        f"{name} has {what} {theirs}, the model {ours}"
        for name, form in found.items()
        for what, theirs, ours in zip(("shape", "dtype"), form.texts(), own[name].texts())
        if theirs != ours
    ]
    if problems:
        raise CheckpointError(
            f"{where}: the weights do not match the model: {'; '.join(sorted(problems)[:6])} "
            f"({len(problems)} differences). Use the model configuration that was saved with them."
        )
    numbers = {name: tensor for name, tensor in given.items() if tensor.is_floating_point()}
    if strange := [name for name, tensor in numbers.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"{where} cannot be used: {_listed(strange)} not finite everywhere. {ANOTHER}")
    if numbers and not any(tensor.any() for tensor in numbers.values()):
        raise CheckpointError(f"{where} cannot be used: all weights are zero. {ANOTHER}")


def _listed(names: list[str]) -> str:
    """The subject of a sentence with a predicate that follows."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} {'is' if len(names) == 1 else 'are'}"


def initial_weights(own: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], str]:
    """Read the initial weights of a new run from a checkpoint, or those of its encoders from an export.

    Args:
        own: weights of the new module; they are kept for what an export does not contain.
        source: folder or URL of a checkpoint, or an export as :func:`~molstream.training.hubs.source.resolved` finds
            it.

    Returns:
        Weights by name, and a phrase that says what was loaded, for the log.

    Raises:
        CheckpointError: ``source`` is neither a checkpoint nor an export, or does not match the model.
        ConfigError: access to it is denied.
        RemoteError: its hub does not answer.
    """
    is_checkpoint = is_checkpoint_url(source)
    path, address = Located(local_folder(source), source) if is_checkpoint else resolved(source, "init_from")
    if (path / CONFIG_FILE).is_file() or (path / WEIGHTS_FILE).is_file():
        config, tensors = read_config(path), read_weights(path)
        require_intact(path, config)
        encoders = {f"encoders.{name}": tensor for name, tensor in tensors.items()}
        given = {name: tensor for name, tensor in own.items() if not name.startswith("encoders.")} | encoders
        mark = str(config.get(FINGERPRINT, "of an old format"))[:12]
        loaded = f"the {len(encoders)} tensors of the encoders of an export ({address}, {mark}); heads are new"
    elif (path / MARKER).is_file():
        given = load_checkpoint(path).weights
        loaded = f"all {len(given)} tensors of a checkpoint"
    else:
        raise CheckpointError(f"init_from={source} is neither a checkpoint ({MARKER}) nor an export ({WEIGHTS_FILE}).")
    require_same(forms(own), given, f"init_from={source}")
    return given, loaded


def forms(tensors: Mapping[str, Tensor]) -> dict[str, Form]:
    """Shape and dtype of tensors by name."""
    return {name: Form(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}

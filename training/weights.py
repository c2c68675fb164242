"""Strict loading of weights by name: nothing missing, nothing unexpected, no shape that differs."""

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

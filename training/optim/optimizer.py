"""AdamW, or Muon with it, with one group per learning-rate scale; the learning rate as a pure function of the step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from molstream.training.optim.config import OptimConfig
from molstream.training.optim.muon import MuonAdamW

OPTIMIZERS = ("adamw", "muon")
NARROWEST = 16
"""Linear layers with fewer inputs or outputs take in features or give out quantities: they are no hidden ones."""
SCHEDULES = ("constant", "cosine", "wsd")


def build_optimizer(
    module: nn.Module, config: OptimConfig, scale_of: Callable[[str], float]
) -> tuple[torch.optim.AdamW, list[float]]:
    """The optimizer of the module's parameters, and the learning-rate scale of each of its groups.

    Args:
        scale_of: learning-rate scale of a parameter by its name.
    """
    muon = hidden_matrices(module) if config.name == "muon" else set()
    grouped: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        grouped.setdefault((scale_of(name), decay, parameter in muon), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay, "lr": config.lr * scale}
        | ({"momentum": config.momentum} if hidden else {})
        for (scale, decay, hidden), parameters in grouped.items()
    ]
    kind = MuonAdamW if muon else torch.optim.AdamW
    optimizer = kind(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps)
    return optimizer, [scale for scale, _, _ in grouped]


def hidden_matrices(module: nn.Module) -> set[Tensor]:
    """The weights that Muon is for: those of linear layers from many features to many."""
    weights = (layer.weight for layer in module.modules() if isinstance(layer, nn.Linear))
    return {weight for weight in weights if min(weight.shape) >= NARROWEST}

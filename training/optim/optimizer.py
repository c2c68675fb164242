"""Builds the optimizer: AdamW, or Muon and AdamW, with one group per learning-rate scale and weight decay."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from molstream.training.optim.config import OptimConfig
from molstream.training.optim.muon import MuonAdamW

OPTIMIZERS = ("adamw", "muon")
NARROWEST = 16
"""Fewest inputs and outputs of a hidden linear layer; narrower layers embed features or predict quantities."""
SCHEDULES = ("constant", "cosine", "wsd")


def build_optimizer(
    module: nn.Module, config: OptimConfig, scale_of: Callable[[str], float]
) -> tuple[torch.optim.AdamW, list[float]]:
    """Build the optimizer of a module.

    Args:
        module: with all its parameters, unpartitioned.
        config: optimizer, learning rate and weight decay.
        scale_of: maps the name of a parameter to the scale of its learning rate.

    Returns:
        The optimizer, and the learning-rate scale of each of its parameter groups.
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
    """The weights that Muon updates: those of linear layers with at least NARROWEST inputs and outputs."""
    weights = (layer.weight for layer in module.modules() if isinstance(layer, nn.Linear))
    return {weight for weight in weights if min(weight.shape) >= NARROWEST}

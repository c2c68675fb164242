"""AdamW, or Muon with it, with one group per learning-rate scale; the learning rate as a pure function of the step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from molstream.errors import ConfigError
from molstream.training.optim.muon import MuonAdamW

OPTIMIZERS = ("adamw", "muon")
NARROWEST = 16
"""Linear layers with fewer inputs or outputs take in features or give out quantities: they are no hidden ones."""
SCHEDULES = ("constant", "cosine", "wsd")


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its schedule."""

    name: str = "adamw"
    """adamw; or muon: Muon for the matrices of hidden layers, AdamW for embeddings, vectors, inputs and heads."""
    lr: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay; vectors and scalars (biases, norms) are exempt."""
    beta1: float = 0.9
    """Decay of the gradient's running mean."""
    beta2: float = 0.999
    """Decay of the gradient's running square."""
    momentum: float = 0.95
    """Decay of the gradient's running mean under Muon."""
    eps: float = 1e-8
    """Added to the root of the running square."""
    schedule: str = "constant"
    """After warm-up: constant; cosine, down to lr x final_lr_fraction at the last step; or wsd (warm-up, stable,
    decay), constant and then a straight line down to it."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    final_lr_fraction: float = 0.0
    """Where cosine and wsd end, as a fraction of lr."""
    decay_fraction: float = 0.2
    """The share of all steps in which wsd decays, at the end (Haegele et al. 2024, arXiv 2405.18392: 0.1 to 0.2)."""
    gradient_clipping: float = 0.0
    """Bound on the gradient's global L2 norm; 0 for none."""
    ema_decay: float = 0.0
    """Decay of a moving average of the weights, which exports then prefer; 0 for none."""
    max_skipped: int = 10
    """Most steps in a row without a finite gradient, which are left out, before training stops."""

    def __post_init__(self) -> None:
        for key, value, choices in (("name", self.name, OPTIMIZERS), ("schedule", self.schedule, SCHEDULES)):
            if value not in choices:
                raise ConfigError(f"optim.{key}={value}: expected one of {', '.join(choices)}.")
        for key in ("ema_decay", "decay_fraction", "momentum"):
            if not 0.0 <= (value := getattr(self, key)) < 1.0:
                raise ConfigError(f"optim.{key}={value}: expected a number from 0 to 1, not 1 itself.")


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

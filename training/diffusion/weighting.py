"""How much each noise level counts in a denoising loss |std * score + noise|^2."""

from collections.abc import Callable

import torch
from torch import Tensor

from molstream.training.diffusion.score_trunk import NoiseLevel
from molstream.training.diffusion.sde import SDE

MIN_SNR_GAMMA = 5.0
"""Signal-to-noise ratio above which :func:`min_snr` stops to weight by it (Hang et al. 2023, section 3.4)."""

Weighting = Callable[[SDE, Tensor, NoiseLevel], Tensor]
"""(sde, times [g], their levels) to weights [g]."""


def simple(sde: SDE, t: Tensor, level: NoiseLevel) -> Tensor:
    """All the same: the loss of DDPM, lambda(t) = std^2 of Song et al. 2021."""
    return torch.ones_like(t)


def likelihood(sde: SDE, t: Tensor, level: NoiseLevel) -> Tensor:
    """g(t)^2 / std^2, lambda(t) = g(t)^2: the loss bounds the negative log-likelihood (Song, Durkan et al. 2021)."""
    diffusion = sde.sde(torch.zeros_like(t), t)[1]
    return (diffusion / level.sigma) ** 2


def min_snr(sde: SDE, t: Tensor, level: NoiseLevel) -> Tensor:
    """min(snr, gamma) / snr with snr = (alpha / std)^2: levels with next to no noise count less (Hang et al. 2023)."""
    return (MIN_SNR_GAMMA * level.ratio**2).clamp(max=1.0)


WEIGHTINGS: dict[str, Weighting] = {"simple": simple, "likelihood": likelihood, "min_snr": min_snr}

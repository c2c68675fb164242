"""Weights of noise levels in the denoising loss |std * score + noise|^2."""

from collections.abc import Callable

import torch
from torch import Tensor

from molstream.training.diffusion.score_trunk import NoiseLevel
from molstream.training.diffusion.sde import SDE

MIN_SNR_GAMMA = 5.0
"""Signal-to-noise ratio gamma above which :func:`min_snr` lowers the weight (Hang et al. 2023, section 3.4)."""

Weighting = Callable[[SDE, Tensor, NoiseLevel], Tensor]
"""Function (sde, times [g], their levels) that returns weights [g]."""


def simple(sde: SDE, t: Tensor, level: NoiseLevel) -> Tensor:
    """Weight all levels equally: the loss of DDPM, lambda(t) = std^2 of Song et al. 2021."""
    return torch.ones_like(t)


def likelihood(sde: SDE, t: Tensor, level: NoiseLevel) -> Tensor:
    """Weight by g(t)^2 / std^2, i.e. lambda(t) = g(t)^2: a bound of the likelihood (Song, Durkan et al. 2021)."""
    diffusion = sde.sde(torch.zeros_like(t), t)[1]
    return (diffusion / level.sigma) ** 2


def min_snr(sde: SDE, t: Tensor, level: NoiseLevel) -> Tensor:
    """Weight by min(snr, gamma) / snr, snr = (alpha / std)^2: lowers levels with little noise (Hang et al. 2023)."""
    return (MIN_SNR_GAMMA * level.ratio**2).clamp(max=1.0)


WEIGHTINGS: dict[str, Weighting] = {"simple": simple, "likelihood": likelihood, "min_snr": min_snr}

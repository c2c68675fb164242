"""Parts shared by the transformer score networks: noise levels, their embedding, and preconditioning."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molstream.training.diffusion.sde import SDE
from molstream.training.models.relations import linear

NUM_FREQUENCIES = 32
"""Number of frequencies of the noise embedding."""


class NoiseLevel(NamedTuple):
    """Noise level of each molecule: x_t = alpha x_0 + sigma eps."""

    alpha: Tensor
    """[g]: factor of the data x_0."""
    sigma: Tensor
    """[g]: standard deviation of the noise."""

    @property
    def ratio(self) -> Tensor:
        """Noise-to-signal ratio sigma / alpha [g]: the standard deviation of the noise in x_t / alpha."""
        return self.sigma / self.alpha


def noise_level(sde: SDE, t: Tensor) -> NoiseLevel:
    """Compute the noise level of ``sde`` at times [g]."""
    return NoiseLevel(*sde.marginal_prob(torch.ones_like(t), t))


class NoiseEmbedding(nn.Module):
    """Embedding [g, width] of noise levels: sines and cosines of log(sigma / alpha), then one hidden layer.

    The wavelengths range from 2 pi / 16 to 2 pi * 4 in the logarithm, so that different levels have different
    embeddings for every SDE.
    """

    frequencies: Tensor

    def __init__(self, width: int):
        super().__init__()
        frequencies = torch.logspace(math.log10(0.25), math.log10(16.0), NUM_FREQUENCIES)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.hidden, self.out = linear(2 * NUM_FREQUENCIES, width, gain=math.sqrt(2.0)), linear(width, width)

    def forward(self, level: NoiseLevel) -> Tensor:
        """Embed the levels in the precision of the network; angles are computed in that of the levels."""
        angle = level.ratio.log().unsqueeze(1) * self.frequencies.to(level.sigma.dtype)
        return self.out(F.silu(self.hidden(torch.cat([angle.sin(), angle.cos()], dim=1).to(self.hidden.weight.dtype))))


class Preconditioning(NamedTuple):
    """Scales that keep a network's input and output near unit size at every noise level (Karras et al. 2022, table 1).

    With x = x_t / alpha = x_0 + s eps and data of standard deviation d, the noise is predicted as
    s / (s^2 + d^2) x - d / sqrt(s^2 + d^2) F(x / sqrt(s^2 + d^2)) with the network F: the best linear estimate of the
    noise, plus the correction by the network.
    """

    scale: Tensor
    """[m, 1]: scale of the network's input, 1 / sqrt(s^2 + d^2)."""
    of_input: Tensor
    """[m, 1]: factor of x in the prediction, s / (s^2 + d^2)."""
    of_network: Tensor
    """[m, 1]: factor of the network's output in the prediction, -d / sqrt(s^2 + d^2)."""


def precondition(ratio: Tensor, data_std: float) -> Preconditioning:
    """Compute the scales at noise s = ``ratio`` [m]."""
    s = ratio.unsqueeze(1)
    scale = 1.0 / torch.sqrt(s * s + data_std**2)
    return Preconditioning(scale, s * scale**2, -data_std * scale)

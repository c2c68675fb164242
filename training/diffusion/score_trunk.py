"""What the transformer score networks share: the noise level as a condition, and blocks that listen to it."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molstream.training.diffusion.sde import SDE
from molstream.training.models.relations import linear

NUM_FREQUENCIES = 32
"""Number of frequencies that the noise level is seen through."""


class NoiseLevel(NamedTuple):
    """x_t = alpha x_0 + sigma eps, for every molecule."""

    alpha: Tensor
    """[g]."""
    sigma: Tensor
    """[g]."""

    @property
    def ratio(self) -> Tensor:
        """sigma / alpha [g]: the noise in x_t / alpha."""
        return self.sigma / self.alpha


def noise_level(sde: SDE, t: Tensor) -> NoiseLevel:
    """The level of ``sde`` at the times [g]."""
    return NoiseLevel(*sde.marginal_prob(torch.ones_like(t), t))


class NoiseEmbedding(nn.Module):
    """[g, width] from noise levels: sines and cosines of log(sigma / alpha), then one hidden layer.

    The wavelengths run from 2 pi / 16 to 2 pi * 4 in the logarithm, so that no two levels of any SDE look the same.
    """

    frequencies: Tensor

    def __init__(self, width: int):
        super().__init__()
        frequencies = torch.logspace(math.log10(0.25), math.log10(16.0), NUM_FREQUENCIES)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.hidden, self.out = linear(2 * NUM_FREQUENCIES, width, gain=math.sqrt(2.0)), linear(width, width)

    def forward(self, level: NoiseLevel) -> Tensor:
        """In the precision of the network; the angles are computed in that of the levels."""
        angle = level.ratio.log().unsqueeze(1) * self.frequencies.to(level.sigma.dtype)
        return self.out(F.silu(self.hidden(torch.cat([angle.sin(), angle.cos()], dim=1).to(self.hidden.weight.dtype))))


class Preconditioning(NamedTuple):
    """Scales that keep a network's input and output near unit size at every noise level (Karras et al. 2022, table 1).

    With x = x_t / alpha = x_0 + s eps and data of standard deviation d, the noise is predicted as
    s / (s^2 + d^2) x - d / sqrt(s^2 + d^2) F(x / sqrt(s^2 + d^2)), F being the network: the share of x that is noise by
    size alone, and what the network knows better.
    """

    scale: Tensor
    """1 / sqrt(s^2 + d^2), [m, 1]."""
    of_input: Tensor
    """s / (s^2 + d^2), [m, 1]."""
    of_network: Tensor
    """-d / sqrt(s^2 + d^2), [m, 1]."""


def precondition(ratio: Tensor, data_std: float) -> Preconditioning:
    """The scales at noise s = ``ratio`` [m]."""
    s = ratio.unsqueeze(1)
    scale = 1.0 / torch.sqrt(s * s + data_std**2)
    return Preconditioning(scale, s * scale**2, -data_std * scale)

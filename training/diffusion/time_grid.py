"""Times at which a sampler stops on its way from noise to data, and the coefficients of the SDEs there."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from molstream.errors import ConfigError
from molstream.training.diffusion.sde import SDE

SIGNAL_FLOOR = 1e-3
"""Factor on x_0 below which noise counts as pure: prior and marginal then agree to this fraction of x_0."""


class Level(NamedTuple):
    """One SDE at one time: x_t = alpha x_0 + sigma z, dx = rate x dt + diffusion dw."""

    alpha: float
    sigma: float
    rate: float
    diffusion: float

    @property
    def angle(self) -> float:
        """arctan(sigma / alpha): 0 for data, pi / 2 for noise."""
        return math.atan2(self.sigma, self.alpha)

    @property
    def length(self) -> float:
        """sqrt(alpha^2 + sigma^2)."""
        return math.hypot(self.alpha, self.sigma)


class Point(NamedTuple):
    """One time of the grid."""

    time: float
    t: Tensor
    """``time`` for the score: 0-dim, with the type and device of the sample."""
    levels: tuple[Level, ...]
    """One per tensor."""


Spacing = Callable[[Tensor, Sequence[SDE]], Tensor]
"""An increasing function of time, of which the steps of a grid are equal parts."""


def uniform(t: Tensor, sdes: Sequence[SDE]) -> Tensor:
    """Equal steps in time."""
    return t


def angular(t: Tensor, sdes: Sequence[SDE]) -> Tensor:
    """Equal steps in arctan(sigma / alpha), on average over the SDEs.

    Time goes where noise is as large as data of size 1 (angstrom, one-hot, bond order). Steps equal in
    log(sigma / alpha), in (sigma / alpha)^(1/7) (Karras et al. 2022) or in time left 2 to 30 times the error on
    mixtures of Gaussians with the noise of VP02, VE03 and VP03.
    """
    return sum((_angle(sde, t) for sde in sdes), torch.zeros_like(t))


def time_grid(spacing: Spacing, sdes: Sequence[SDE], num_steps: int, eps: float) -> Tensor:
    """Falling times [num_steps + 1] in float64, the last one ``eps``, with steps equal in ``spacing``.

    The first is T, or the time where the signal of every SDE has sunk to the floor: VP with beta to 1000 is there at
    t = 0.17, and its steps before would be lost.

    Raises:
        ConfigError: ``eps`` is not before that time.
    """
    eps_time, end = (torch.tensor([t], dtype=torch.float64) for t in (eps, sdes[0].T))
    lost = _solve(lambda t: -_signal(t, sdes), torch.full_like(end, -SIGNAL_FLOOR), eps_time, end)
    if eps >= lost.item():
        raise ConfigError(
            f"sampler.eps={eps}: by that time noise has drowned the data, so no step is left. Give a smaller time."
        )
    first, last = (spacing(t, sdes).item() for t in (lost, eps_time))
    goal = torch.linspace(first, last, num_steps + 1, dtype=torch.float64)
    times = _solve(lambda t: spacing(t, sdes), goal, eps_time, lost)
    times[0], times[-1] = lost.item(), eps
    return times


def _solve(function: Callable[[Tensor], Tensor], goal: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where an increasing function reaches ``goal`` between ``low`` and ``high``, or the nearer end, by bisection."""
    low, high = low.expand_as(goal), high.expand_as(goal)
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = function(middle) > goal
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high


def _signal(t: Tensor, sdes: Sequence[SDE]) -> Tensor:
    """The largest alpha at ``t``."""
    return torch.stack([sde.marginal_prob(torch.ones_like(t), t)[0] for sde in sdes]).amax(0)


def _angle(sde: SDE, t: Tensor) -> Tensor:
    """arctan(sigma / alpha) at ``t`` [m]."""
    alpha, sigma = sde.marginal_prob(torch.ones_like(t), t)
    return torch.atan2(sigma, alpha)


def points(times: Tensor, sdes: Sequence[SDE], like: Tensor) -> list[Point]:
    """The coefficients of every SDE at ``times``, and the times with the type and device of ``like``."""
    columns = zip(*(_levels(sde, times) for sde in sdes), strict=True)
    return [Point(*row) for row in zip(times.tolist(), times.to(like).unbind(), columns, strict=True)]


def _levels(sde: SDE, times: Tensor) -> list[Level]:
    """``sde`` at ``times``; alpha stops at the floor, below which rounding would fill x_0 = (...) / alpha."""
    one = torch.ones_like(times)
    (alpha, sigma), (rate, diffusion) = sde.marginal_prob(one, times), sde.sde(one, times)
    return [Level(*row) for row in torch.stack([alpha.clamp(min=SIGNAL_FLOOR), sigma, rate, diffusion], 1).tolist()]

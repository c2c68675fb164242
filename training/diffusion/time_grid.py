"""Time grids of samplers from noise to data, and the coefficients of the SDEs at their times."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from molstream.errors import ConfigError
from molstream.training.diffusion.sde import SDE

SIGNAL_FLOOR = 1e-3
"""Factor of x_0 below which x_t counts as pure noise: prior and marginal then agree up to this fraction of x_0."""


class Level(NamedTuple):
    """Coefficients of an SDE at a time: x_t = alpha x_0 + sigma z, dx = rate x dt + diffusion dw."""

    alpha: float
    """Factor of the data x_0 in x_t."""
    sigma: float
    """Standard deviation of the noise in x_t."""
    rate: float
    """Factor of x in the drift."""
    diffusion: float
    """Diffusion coefficient g of the SDE."""

    @property
    def angle(self) -> float:
        """Angle arctan(sigma / alpha): 0 for data, pi / 2 for noise."""
        return math.atan2(self.sigma, self.alpha)

    @property
    def length(self) -> float:
        """Radius r = sqrt(alpha^2 + sigma^2)."""
        return math.hypot(self.alpha, self.sigma)


class Point(NamedTuple):
    """One time of a grid, with the coefficients of all SDEs."""

    time: float
    """The time, from 0 (data) to T (noise)."""
    t: Tensor
    """``time`` as argument of the score: 0-dim, with the dtype and device of the sample."""
    levels: tuple[Level, ...]
    """Coefficients of the SDE of each tensor."""


Spacing = Callable[[Tensor, Sequence[SDE]], Tensor]
"""Increasing function of time (times, SDEs) that the steps of a grid divide into equal parts."""


def uniform(t: Tensor, sdes: Sequence[SDE]) -> Tensor:
    """Spacing with equal steps in time."""
    return t


def angular(t: Tensor, sdes: Sequence[SDE]) -> Tensor:
    """Spacing with equal steps in arctan(sigma / alpha), averaged over the SDEs.

    Most steps are where noise is as large as data of size 1 (angstrom, one-hot, bond order). Equal steps in
    log(sigma / alpha), in (sigma / alpha)^(1/7) (Karras et al. 2022) or in time give 2 to 30 times the error on
    mixtures of Gaussians with the noise of VP02, VE03 and VP03.
    """
    return sum((_angle(sde, t) for sde in sdes), torch.zeros_like(t))


def time_grid(spacing: Spacing, sdes: Sequence[SDE], num_steps: int, eps: float) -> Tensor:
    """Compute falling times, float64 [num_steps + 1], with equal steps in ``spacing``; the last one is ``eps``.

    The first is T, or the time at which the signal of every SDE falls to the floor: VP with beta up to 1000 reaches it
    at t = 0.17, and steps at later times would have no effect.

    Raises:
        ConfigError: ``eps`` is not before the first time.
    """
    eps_time, end = (torch.tensor([t], dtype=torch.float64) for t in (eps, sdes[0].T))
    lost = _solve(lambda t: -_signal(t, sdes), torch.full_like(end, -SIGNAL_FLOOR), eps_time, end)
    if eps >= lost.item():
        raise ConfigError(
            f"sampler.eps={eps}: the data have vanished in noise at this time, so no step is left. Lower sampler.eps."
        )
    first, last = (spacing(t, sdes).item() for t in (lost, eps_time))
    goal = torch.linspace(first, last, num_steps + 1, dtype=torch.float64)
    times = _solve(lambda t: spacing(t, sdes), goal, eps_time, lost)
    times[0], times[-1] = lost.item(), eps
    return times


def _solve(function: Callable[[Tensor], Tensor], goal: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Find by bisection where an increasing function reaches ``goal`` in [low, high]; otherwise the nearer end."""
    low, high = low.expand_as(goal), high.expand_as(goal)
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = function(middle) > goal
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high


def _signal(t: Tensor, sdes: Sequence[SDE]) -> Tensor:
    """Largest alpha of the SDEs at times ``t``."""
    return torch.stack([sde.marginal_prob(torch.ones_like(t), t)[0] for sde in sdes]).amax(0)


def _angle(sde: SDE, t: Tensor) -> Tensor:
    """Compute arctan(sigma / alpha) at times ``t`` [m]."""
    alpha, sigma = sde.marginal_prob(torch.ones_like(t), t)
    return torch.atan2(sigma, alpha)


def points(times: Tensor, sdes: Sequence[SDE], like: Tensor) -> list[Point]:
    """Compute the coefficients of each SDE at ``times``, and the times with the dtype and device of ``like``."""
    columns = zip(*(_levels(sde, times) for sde in sdes), strict=True)
    return [Point(*row) for row in zip(times.tolist(), times.to(like).unbind(), columns, strict=True)]


def _levels(sde: SDE, times: Tensor) -> list[Level]:
    """Compute the levels of ``sde`` at ``times``; alpha is at least the floor, which bounds rounding in x_0."""
    one = torch.ones_like(times)
    (alpha, sigma), (rate, diffusion) = sde.marginal_prob(one, times), sde.sde(one, times)
    return [Level(*row) for row in torch.stack([alpha.clamp(min=SIGNAL_FLOOR), sigma, rate, diffusion], 1).tolist()]

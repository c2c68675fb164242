"""Samplers that integrate a reverse SDE or its probability-flow ODE from noise to data, for several tensors at once.

Every SDE here has the marginal x_t = alpha x_0 + sigma z, and g^2 = d(sigma^2)/dt - 2 f sigma^2, f = d(log alpha)/dt.
So alpha and sigma determine its probability-flow ODE, and the same code integrates VE, VP and sub-VP. With the data
x_0 = (x + sigma^2 score) / alpha and the noise z = -sigma score that the score predicts, the ODE has the two forms

    d(x / sigma) = x_0 d(alpha / sigma)    and    d(x / r) = (cos(phi) z - sin(phi) x_0) d(phi),

where (alpha, sigma) = r (cos(phi), sin(phi)). :func:`dpm_solver_pp` integrates the first, :func:`probability_flow` and
:func:`heun` the second, which is bounded from pure noise to pure data. Coefficients are float64 numbers on the host;
no step synchronises with the device.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from molstream.training.diffusion.config import SamplerConfig
from molstream.training.diffusion.sde import SDE
from molstream.training.diffusion.time_grid import Level, Point, Spacing, angular, points, time_grid, uniform

Tensors = tuple[Tensor, ...]

JointScore = Callable[[Tensors, Tensor], Tensors]
"""Function (x, t) that returns the gradient of log p_t at x for each tensor of ``x``; ``t`` is 0-dim, shared by all."""


@dataclass(frozen=True)
class Diffused:
    """One of the tensors that are sampled together: SDE, noise and norm."""

    sde: SDE
    """Forward process of the tensor."""
    noise: Callable[[], Tensor]
    """Draws standard normal noise in the subspace of x (zero mean per molecule, symmetric, masked), with the shape,
    dtype and device of the sample; the only source of randomness."""
    norm: Callable[[Tensor], Tensor]
    """Norm that sets the step size of the corrector, broadcastable to x. The mean over many molecules, as in the
    original, makes the step independent of a single score; a norm per molecule biases the corrector for few atoms."""


@dataclass(frozen=True)
class Run:
    """Inputs that all steps of a sampler share."""

    config: SamplerConfig
    """Sampling method, number of steps and their settings."""
    parts: Sequence[Diffused]
    """The tensors that are sampled together."""
    score: JointScore
    """Scores of all tensors at a time."""
    points: list[Point]
    """Times of the grid, falling, with the coefficients of all SDEs."""
    progress: Callable[[int, int], None]
    """Called with (steps done, total steps) after each step."""

    def steps(self) -> Iterator[tuple[Point, Point]]:
        """Yield both ends of each step, the noisier one first; reports progress after each step."""
        for done, ends in enumerate(pairwise(self.points), start=1):
            yield ends
            self.progress(done, len(self.points) - 1)

    def predicted_data(self, x: Tensors, at: Point) -> Tensors:
        """Compute E[x_0 | x_t] = (x + sigma^2 score) / alpha, Tweedie's formula."""
        columns = zip(x, self.score(x, at.t), at.levels, strict=True)
        return tuple((x_i + level.sigma**2 * s) / level.alpha for x_i, s, level in columns)

    def velocity(self, x: Tensors, at: Point) -> Tensors:
        """Compute cos(phi) z - sin(phi) x_0 = -sigma / alpha (r score + x / r)."""
        columns = zip(x, self.score(x, at.t), at.levels, strict=True)
        return tuple(-level.sigma / level.alpha * (level.length * s + x_i / level.length) for x_i, s, level in columns)


def euler_maruyama(run: Run, x: Tensors) -> Tensors:
    """Integrate the reverse SDE by Euler-Maruyama steps x - (f - g^2 score) dt + g sqrt(dt) z."""
    for here, there in run.steps():
        dt = here.time - there.time
        columns = zip(x, run.score(x, here.t), here.levels, run.parts, strict=True)
        x = tuple(
            (1.0 - level.rate * dt) * x_i + level.diffusion**2 * dt * s + level.diffusion * math.sqrt(dt) * part.noise()
            for x_i, s, level, part in columns
        )
    return x


def predictor_corrector(run: Run, x: Tensors) -> Tensors:
    """Reverse diffusion, then Langevin steps at the new time (Song et al. 2021, algorithms 2 and 3).

    With the forward transition x_t = a x_s + G z over a step, the predictor is (2 - a) x + G^2 score + G z. The
    original runs the corrector first, which only adds Langevin steps on the prior.
    """
    for here, there in run.steps():
        transitions = [_transition(early, late) for late, early in zip(here.levels, there.levels, strict=True)]
        columns = zip(x, run.score(x, here.t), transitions, run.parts, strict=True)
        x = tuple((2.0 - a) * x_i + G**2 * s + G * part.noise() for x_i, s, (a, G), part in columns)
        for _ in range(run.config.corrector_steps):
            columns = zip(x, run.score(x, there.t), transitions, run.parts, strict=True)
            x = tuple(_langevin(x_i, s, a, part, run.config.snr) for x_i, s, (a, _), part in columns)
    return x


def probability_flow(run: Run, x: Tensors) -> Tensors:
    """Euler's method for the probability-flow ODE in the angle phi: first order."""
    for here, there in run.steps():
        x = _turned(x, run.velocity(x, here), here, there)
    return x


def heun(run: Run, x: Tensors) -> Tensors:
    """Heun's method for the probability-flow ODE in the angle phi: second order, two scores a step."""
    for here, there in run.steps():
        velocity = run.velocity(x, here)
        velocity_there = run.velocity(_turned(x, velocity, here, there), there)
        mean = tuple(0.5 * (first + second) for first, second in zip(velocity, velocity_there, strict=True))
        x = _turned(x, mean, here, there)
    return x


def dpm_solver_pp(run: Run, x: Tensors) -> Tensors:
    """DPM-Solver++ (2M) (Lu et al. 2022, algorithm 2): second order, one score a step.

    x_0 at the middle of a step is extrapolated from the starts of this and the previous step. The middle is that
    of the angle phi, in which the steps of the grid are equal; the paper's is that of log(alpha / sigma), which on this
    grid has two to twenty times the error wherever alpha varies.
    """
    previous: Tensors | None = None
    for here, there in run.steps():
        data = run.predicted_data(x, here)
        middle = data if previous is None else tuple(1.5 * d - 0.5 * p for d, p in zip(data, previous, strict=True))
        x = tuple(
            early.sigma / late.sigma * x_i + (early.alpha - late.alpha * early.sigma / late.sigma) * d
            for x_i, d, late, early in zip(x, middle, here.levels, there.levels, strict=True)
        )
        previous = data
    return x


def _turned(x: Tensors, velocity: Tensors, here: Point, there: Point) -> Tensors:
    """Move x from ``here`` to ``there`` with a constant velocity of x / r."""
    return tuple(
        early.length * (x_i / late.length + (early.angle - late.angle) * v)
        for x_i, v, late, early in zip(x, velocity, here.levels, there.levels, strict=True)
    )


def _transition(early: Level, late: Level) -> tuple[float, float]:
    """Return a and G of the forward transition from the earlier to the later time."""
    a = late.alpha / early.alpha
    return a, math.sqrt(max(late.sigma**2 - (a * early.sigma) ** 2, 0.0))


def _langevin(x: Tensor, score: Tensor, a: float, part: Diffused, snr: float) -> Tensor:
    """One Langevin step of size 2 a^2 (snr |z| / |score|)^2; a^2 is 1 for VE and 1 - beta_i for VP (section 4.5).

    The original multiplies the noise by 0.9, which samples a sharper distribution than that of the score.
    """
    noise = part.noise()
    # A single atom at the centre has neither noise nor score, and does not move.
    ratio = part.norm(noise) / part.norm(score).clamp(min=torch.finfo(x.dtype).tiny)
    step = 2.0 * (a * snr * ratio) ** 2
    return x + step * score + torch.sqrt(2.0 * step) * noise


class Sampler(NamedTuple):
    """A sampling method and the spacing of its time grid."""

    method: Callable[[Run, Tensors], Tensors]
    """Integrates from the first time of the grid to the last one."""
    spacing: Spacing
    """Spacing of the grid for this method."""


SAMPLERS: dict[str, Sampler] = {
    "predictor_corrector": Sampler(predictor_corrector, uniform),
    "euler_maruyama": Sampler(euler_maruyama, uniform),
    "probability_flow": Sampler(probability_flow, angular),
    "heun": Sampler(heun, angular),
    "dpm_solver_pp": Sampler(dpm_solver_pp, angular),
}


def silent(done: int, total: int) -> None:
    """Ignore the progress of a sampler: the default callback."""


@torch.no_grad()
def sample(
    config: SamplerConfig,
    parts: Sequence[Diffused],
    score: JointScore,
    start: Tensors | None = None,
    progress: Callable[[int, int], None] = silent,
) -> Tensors:
    """Draw samples of all ``parts`` at t = 0 (at t = eps without ``denoise``).

    Without ``start`` the sampler starts at the prior, N(0, 1) for VP and sub-VP and N(0, sigma_max^2) for VE. That is
    the marginal at t = T only if no signal is left there: VP02, VP03, VE03, and VE02 for data much smaller than 10. The
    settings VE, VP and subVP keep signal at t = T (VP 74 % of it); from the prior they give x_0 biased towards the
    prior, which is harmless for VP on unit-variance data around zero and wrong otherwise. Start them at noised data: an
    approximate structure brought to t = T by ``marginal_prob``.

    Args:
        config: sampling method and number of steps.
        parts: SDE and noise of each tensor.
        score: scores of all tensors; called without gradients, at times in [eps, T].
        start: the tensors at t = T, one per part.
        progress: called with (steps done, total steps) after each step.
    """
    sdes = [part.sde for part in parts]
    x = tuple(part.noise() * part.sde.prior_std for part in parts) if start is None else start
    sampler = SAMPLERS[config.name]
    times = time_grid(sampler.spacing, sdes, config.num_steps, config.eps)
    run = Run(config, parts, score, points(times, sdes, x[0]), progress)
    x = sampler.method(run, x)
    return run.predicted_data(x, run.points[-1]) if config.denoise else x

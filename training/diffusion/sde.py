"""Stochastic differential equations of score-based generative models (Song et al. 2021), with the paper's names.

``x`` has shape [m, ...] and ``t`` shape [m] in [0, T]; coefficients have shape [m, 1, ...], which broadcasts to that of
``x``. Times and coefficients are float32 or float64, never half precision. Formulas: specification of
MoleculeSDE, section 4.1.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from molstream.training.diffusion.config import SDEConfig
from molstream.training.diffusion.draws import normal

Score = Callable[[Tensor, Tensor], Tensor]
"""Function (x, t) that returns the gradient of log p_t at x, same shape as x."""


class SDE(ABC):
    """Base class of SDEs dx = f(x, t) dt + g(t) dw on [0, T]."""

    T: float = 1.0

    def __init__(self, config: SDEConfig):
        self.config = config
        self.N = config.num_steps

    @abstractmethod
    def sde(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the drift f(x, t), same shape as ``x``, and the diffusion g(t) [m, 1, ...]."""

    @abstractmethod
    def marginal_prob(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean, same shape as ``x``, and standard deviation [m, 1, ...] of x_t given x_0 = ``x``."""

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior at t = T, whose mean is zero."""
        return 1.0

    def prior_sampling(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw a float32 sample of the prior, on the generator's device."""
        return normal(shape, generator) * self.prior_std

    def discretize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute f and G of x_{i+1} = x_i + f + G z, z ~ N(0, 1); by default Euler-Maruyama with step T / N."""
        drift, diffusion = self.sde(x, t)
        step = self.T / self.N
        return drift * step, diffusion * math.sqrt(step)

    def _step(self, t: Tensor) -> Tensor:
        """Index 0 to N - 1 of the discretisation step at ``t``; the small shift absorbs the rounding of ``t``."""
        return torch.floor(t * (self.N - 1) / self.T + 1e-4)

    def reverse(self, score: Score, probability_flow: bool = False) -> "ReverseSDE":
        """Return the reverse-time SDE, from t = T to 0, or with ``probability_flow`` the ODE."""
        return ReverseSDE(self, score, probability_flow)


class ReverseSDE:
    """Time reversal of an SDE, with drift f(x, t) - g(t)^2 score(x, t), to be integrated with negative time steps."""

    def __init__(self, forward: SDE, score: Score, probability_flow: bool):
        self.forward = forward
        self.score = score
        self.probability_flow = probability_flow

    def sde(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute drift and diffusion; the diffusion of the probability-flow ODE is zero."""
        drift, diffusion = self.forward.sde(x, t)
        return self._reverse(x, t, drift, diffusion)

    def discretize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute f and G of the update x_i = x_{i+1} - f + G z."""
        f, G = self.forward.discretize(x, t)
        return self._reverse(x, t, f, G)

    def _reverse(self, x: Tensor, t: Tensor, f: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
        weight = 0.5 if self.probability_flow else 1.0
        return f - weight * G**2 * self.score(x, t), torch.zeros_like(G) if self.probability_flow else G


class VESDE(SDE):
    """Variance exploding: sigma(t) = sigma_min (sigma_max / sigma_min)^t is the standard deviation at t."""

    def _sigma(self, x: Tensor, t: Tensor) -> Tensor:
        low, high = self.config.minimum, self.config.maximum
        return _like(low * (high / low) ** t, x)

    def sde(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute f = 0 and g = sigma(t) sqrt(2 ln(sigma_max / sigma_min))."""
        growth = math.sqrt(2.0 * math.log(self.config.maximum / self.config.minimum))
        return torch.zeros_like(x), self._sigma(x, t) * growth

    def marginal_prob(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean x_0 and standard deviation sigma(t), which is sigma_min, not zero, at t = 0."""
        return x, self._sigma(x, t)

    @property
    def prior_std(self) -> float:
        """Standard deviation sigma_max of the prior; the original code starts at N(0, 1) for any sigma_max."""
        return self.config.maximum

    def discretize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """f = 0, G^2 = sigma_i^2 - sigma_{i-1}^2 on N log-spaced sigmas, sigma_{-1} = 0, i = floor(t (N - 1) / T)."""
        i = self._step(t)
        sigma = self._sigma(x, i / (self.N - 1))
        previous = torch.where(_like(i, x) > 0, self._sigma(x, (i - 1) / (self.N - 1)), 0.0)
        return torch.zeros_like(x), torch.sqrt(sigma**2 - previous**2)


class VPSDE(SDE):
    """Variance preserving: beta(t) = beta_min + t (beta_max - beta_min)."""

    def _beta(self, t: Tensor) -> Tensor:
        return self.config.minimum + t * (self.config.maximum - self.config.minimum)

    def _log_mean(self, t: Tensor) -> Tensor:
        """Logarithm of the factor on x_0 in the mean: -1/2 times the integral of beta from 0 to t."""
        return -0.25 * t**2 * (self.config.maximum - self.config.minimum) - 0.5 * t * self.config.minimum

    def sde(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute f = -beta(t) x / 2 and g = sqrt(beta(t))."""
        beta = _like(self._beta(t), x)
        return -0.5 * beta * x, torch.sqrt(beta)

    def marginal_prob(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean exp(l) x_0 and variance 1 - exp(2 l), by ``expm1``, which is exact near t = 0."""
        log_mean = _like(self._log_mean(t), x)
        return torch.exp(log_mean) * x, torch.sqrt(-torch.expm1(2.0 * log_mean))

    def discretize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """DDPM: f = (sqrt(1 - beta_i) - 1) x, G = sqrt(beta_i), beta_i = beta(t_i) / N on N evenly spaced t_i."""
        beta = _like(self._beta(self._step(t) / (self.N - 1)) / self.N, x).clamp(max=1.0)
        return (torch.sqrt(1.0 - beta) - 1.0) * x, torch.sqrt(beta)


class SubVPSDE(VPSDE):
    """Sub-variance preserving: the mean of VP, with a smaller variance."""

    def sde(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute f of VP and g = sqrt(beta(t) (1 - exp(4 l(t))))."""
        drift, diffusion = super().sde(x, t)
        return drift, diffusion * torch.sqrt(-torch.expm1(4.0 * _like(self._log_mean(t), x)))

    def marginal_prob(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean exp(l) x_0 and standard deviation 1 - exp(2 l)."""
        log_mean = _like(self._log_mean(t), x)
        return torch.exp(log_mean) * x, -torch.expm1(2.0 * log_mean)

    def discretize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute f and G by Euler-Maruyama, unlike VP."""
        return SDE.discretize(self, x, t)


SDES: dict[str, type[SDE]] = {"ve": VESDE, "vp": VPSDE, "subvp": SubVPSDE}

POSITION_SDES: dict[str, SDEConfig] = {
    "VE": SDEConfig(kind="ve", minimum=0.2, maximum=1.0),
    "VP": SDEConfig(kind="vp", minimum=0.2, maximum=1.0),
    "VE02": SDEConfig(kind="ve", minimum=0.1, maximum=10.0),
    "VP02": SDEConfig(kind="vp", minimum=0.2, maximum=30.0),
    "VE03": SDEConfig(kind="ve", minimum=0.1, maximum=1000.0),
    "VP03": SDEConfig(kind="vp", minimum=0.2, maximum=1000.0),
    "subVP": SDEConfig(kind="subvp", minimum=0.2, maximum=1.0),
}
"""Named settings of 2D to 3D (section 4.2), sigma in angstrom. subVP is an addition: the original does not use it."""

GRAPH_SDES: dict[str, SDEConfig] = {
    "VE": SDEConfig(kind="ve", minimum=0.1, maximum=1.0),
    "VP": SDEConfig(kind="vp", minimum=0.2, maximum=1.0),
    "VE02": SDEConfig(kind="ve", minimum=0.1, maximum=10.0),
    "VP02": SDEConfig(kind="vp", minimum=0.1, maximum=30.0),
    "VE03": SDEConfig(kind="ve", minimum=0.1, maximum=1000.0),
    "VP03": SDEConfig(kind="vp", minimum=0.1, maximum=1000.0),
    "subVP": SDEConfig(kind="subvp", minimum=0.2, maximum=1.0),
}
"""Named settings of 3D to 2D (section 4.2); the numbers differ from those of the same names in 2D to 3D."""


def named_sde(settings: dict[str, SDEConfig], name: str) -> SDE:
    """Create the SDE called ``name`` in a table of settings."""
    return SDES[settings[name].kind](settings[name])


def _like(coefficient: Tensor, x: Tensor) -> Tensor:
    """Reshape a coefficient [m] to [m, 1, ...] with the number of dimensions of ``x``."""
    return coefficient.view(-1, *[1] * (x.dim() - 1))

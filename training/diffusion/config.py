"""The configuration of stochastic differential equations and of the samplers that run them back."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from molstream.config import PositiveInt, configuration

SDEKind = Literal["ve", "vp", "subvp"]
SamplerName = Literal["dpm_solver_pp", "heun", "probability_flow", "euler_maruyama", "predictor_corrector"]


@configuration
class SDEConfig:
    """One SDE: its kind and the range of its noise."""

    kind: SDEKind
    """Variance exploding (ve), variance preserving (vp) or sub-VP (subvp)."""
    minimum: NonNegativeFloat
    """sigma_min of VE, beta_min of VP and sub-VP (the value at t = 0)."""
    maximum: PositiveFloat
    """sigma_max of VE, beta_max of VP and sub-VP (the value at t = 1)."""
    num_steps: PositiveInt = 1000
    """Number N of discretisation steps; training draws its times from the same grid."""


@configuration
class SamplerConfig:
    """How generation integrates from noise to a sample: which sampler, in how many steps."""

    name: SamplerName = "dpm_solver_pp"
    """Method: heun, probability_flow and dpm_solver_pp take 20 to 100 steps, the others about 1000."""
    num_steps: PositiveInt = 50
    """Steps from noise to ``eps``."""
    corrector_steps: NonNegativeInt = 1
    """Langevin steps after each step of predictor_corrector; the other samplers have none."""
    snr: PositiveFloat = 0.2
    """Signal-to-noise ratio r of a Langevin step; in equilibrium it raises a variance by the factor 1 + r^2."""
    eps: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    """Time at which the steps end; where the times of training begin."""
    denoise: bool = True
    """Return the expected x_0 of the last state (Tweedie's formula, one more score) rather than the state itself."""

"""Configurations of stochastic differential equations for tests."""

from molstream.training.diffusion.config import SDEConfig


def noise(kind: str, minimum: float, maximum: float) -> SDEConfig:
    """Configure an SDE of a kind with the range of its noise."""
    return SDEConfig(kind=kind, minimum=minimum, maximum=maximum)

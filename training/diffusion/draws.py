"""Random draws of the diffusion objectives, from an explicit generator, on its device and in float32.

Draws do not depend on the precision of the network: callers convert them to the device and dtype of their data.
"""

import torch
from torch import Tensor


def normal(shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
    """Draw independent standard normal values, float32."""
    return torch.randn(shape, generator=generator, device=generator.device)


def symmetric_normal(num_graphs: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw symmetric standard normal matrices [g, size, size] with zero diagonal."""
    upper = normal((num_graphs, size, size), generator).triu(diagonal=1)
    return upper + upper.transpose(1, 2)


def antithetic_uniform_times(num_graphs: int, generator: torch.Generator, eps: float) -> Tensor:
    """Draw one time per molecule in [eps, 1), [g]: uniform draws, then their mirror images, truncated to g."""
    draws = torch.rand(num_graphs // 2 + 1, generator=generator, device=generator.device)
    return torch.cat([draws, 1.0 - draws])[:num_graphs] * (1.0 - eps) + eps


def antithetic_times(num_graphs: int, generator: torch.Generator, num_steps: int = 1000, eps: float = 1e-6) -> Tensor:
    """Draw one time per molecule in [eps, 1), [g]: steps k, then their mirror images ``num_steps`` - 1 - k, up to g.

    Pairing a time with its mirror image lowers the variance of the loss (specification of MoleculeSDE, 4.3 step 1).
    """
    steps = torch.randint(num_steps, (num_graphs // 2 + 1,), generator=generator, device=generator.device)
    mirrored = torch.cat([steps, num_steps - 1 - steps])[:num_graphs]
    return mirrored / num_steps * (1.0 - eps) + eps

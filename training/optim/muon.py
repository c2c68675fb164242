"""Muon for the matrices of hidden layers (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

A matrix moves by its momentum, orthogonalized. That takes whole matrices, and ZeRO hands its optimizer pieces; so there
are two halves, the same at every stage. :class:`Muon` puts updates in place of the mean gradients: each matrix is the
work of one process, which keeps its momentum, so that the update has the same bits on any number of them.
:class:`MuonAdamW`, which DeepSpeed calls, subtracts the updates and is AdamW for all other parameters.

DeepSpeed has a Muon of its own. Its momenta at the stages 1 and 2 are those of all parameters that a process has a
part of, not of the parts, so that they cannot be read by name; and it compiles its kernels, for shapes in the order in
which a process meets them.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from molstream.training.distributed.context import DistributedContext

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that five Newton-Schulz iterations repeat: singular values in (0, 1] end within 0.7 and 1.2."""
ITERATIONS = 5


def is_muon(group: dict[str, Any]) -> bool:
    """Whether a parameter group is Muon's; it then has a ``momentum``, the decay of the gradient's running mean."""
    return "momentum" in group


def orthogonalized(matrix: Tensor, precision: torch.dtype) -> Tensor:
    """About U V^T of a matrix U S V^T, scaled so that its entries are about as large as AdamW's updates.

    The factor 0.2 sqrt(max(rows, columns)) lets learning rate and weight decay be AdamW's (Liu et al. 2025, arXiv
    2502.16982, equation 4).

    Args:
        matrix: fp32 [rows, columns].
        precision: of the products.
    """
    rows, columns = matrix.shape
    a, b, c = COEFFICIENTS
    x = (matrix / (matrix.norm() + 1e-7)).to(precision)
    x = x.T if rows > columns else x
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.T if rows > columns else x
    return x.to(matrix.dtype) * (0.2 * math.sqrt(max(rows, columns)))


class MeanGradients(Protocol):
    """The mean gradients of a step, by parameter; reading is collective."""

    def read(self, parameter: Any) -> Tensor:
        """The mean of one parameter, whole, fp32."""
        ...

    def write(self, parameter: Any, value: Tensor) -> None:
        """Put something else, given whole, in place of the mean of one parameter."""
        ...


class Muon:
    """Momenta of matrices, one process's share of them, and the updates that follow.

    Args:
        groups: momentum and parameters of each of the optimizer's Muon groups.
        parameters, shapes: of the whole module by name, as they are without ZeRO.
        precision: of the products that orthogonalize.
        context: of this process.
    """

    def __init__(
        self,
        groups: Sequence[tuple[float, Sequence[nn.Parameter]]],
        parameters: dict[str, nn.Parameter],
        shapes: dict[str, torch.Size],
        precision: torch.dtype,
        context: DistributedContext,
    ):
        decays = {parameter: momentum for momentum, members in groups for parameter in members}
        self._matrices = {name: p for name, p in parameters.items() if p in decays}
        self._decays = {name: decays[p] for name, p in self._matrices.items()}
        self._shapes, self._precision, self._device = shapes, precision, context.device
        self._owners = {name: number % context.world_size for number, name in enumerate(self._matrices)}
        own = [name for name, owner in self._owners.items() if owner == context.rank]
        self._momenta = {name: torch.zeros(shapes[name], device=context.device) for name in own}

    def __contains__(self, name: str) -> bool:
        return name in self._matrices

    def bytes(self) -> int:
        """Of this process's momenta."""
        return sum(momentum.untyped_storage().nbytes() for momentum in self._momenta.values())

    @torch.no_grad()
    def replace(self, gradients: MeanGradients) -> None:
        """Put updates in place of the mean gradients (collective)."""
        updates: dict[str, Tensor] = {}
        for name, parameter in self._matrices.items():
            gradient = gradients.read(parameter)
            if name in self._momenta:
                momentum = self._momenta[name].lerp_(gradient, 1 - self._decays[name])
                updates[name] = gradient.lerp(momentum, self._decays[name])
        # All of them before the first is sent: processes would else wait for each other's, one after the other.
        updates = {name: orthogonalized(update, self._precision) for name, update in updates.items()}
        for name, parameter in self._matrices.items():
            gradients.write(parameter, self._from_owner(name, updates.pop(name, None)))

    def read(self, name: str) -> Tensor:
        """A parameter's momentum, whole, fp32 (collective)."""
        return self._from_owner(name, self._momenta.get(name))

    def write(self, name: str, value: Tensor) -> None:
        """Set a parameter's momentum."""
        if name in self._momenta:
            self._momenta[name].copy_(value)

    def _from_owner(self, name: str, value: Tensor | None) -> Tensor:
        value = torch.empty(self._shapes[name], device=self._device) if value is None else value.contiguous()
        dist.broadcast(value, self._owners[name])
        return value


class MuonAdamW(torch.optim.AdamW):
    """AdamW; groups of Muon's have updates for gradients, which are subtracted, with AdamW's weight decay."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Of all parameters that have gradients, whole ones or pieces."""
        every = self.param_groups
        for group in filter(is_muon, every):
            for parameter in group["params"]:
                # Rounded one operation at a time: a fused one might round otherwise at the end of a piece.
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(parameter.grad * group["lr"])
        self.param_groups = [group for group in every if not is_muon(group)]
        try:
            super().step()
        finally:
            self.param_groups = every

"""Muon for the matrices of hidden layers (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

Muon updates a matrix by its orthogonalized momentum. Orthogonalization needs the whole matrix, but ZeRO passes pieces
of flattened parameters to the optimizer. So Muon has two halves, the same at every stage. :class:`Muon` replaces the
mean gradients by updates: one process computes the update of a matrix and keeps its momentum, so that the update is
equal to the last bit at every world size. :class:`MuonAdamW`, which DeepSpeed calls, subtracts the updates, and applies
AdamW to all other parameters.

DeepSpeed has its own Muon. At the stages 1 and 2 a process keeps the momenta of all parameters that it has a part of,
not of the parts, so that they cannot be read by name; and it compiles its kernels for the shapes in the order in which
a process meets them.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from molstream.training.distributed.context import DistributedContext

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic polynomial of a Newton-Schulz iteration: five map singular values in (0, 1] to about 0.7
to 1.2."""
ITERATIONS = 5


def is_muon(group: dict[str, Any]) -> bool:
    """Whether Muon updates a parameter group; it then has a ``momentum``, the decay of the gradient's running mean."""
    return "momentum" in group


def orthogonalized(matrix: Tensor, precision: torch.dtype) -> Tensor:
    """Approximates U V^T of a matrix U S V^T, scaled so that the RMS of its entries is that of AdamW's updates.

    With the factor 0.2 sqrt(max(rows, columns)) AdamW's learning rate and weight decay fit Muon as well (Liu et al.
    2025, arXiv 2502.16982, equation 4).

    Args:
        matrix: fp32 [rows, columns].
        precision: data type of the matrix products.

    Returns:
        fp32 [rows, columns].
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
    """Access to the mean gradients of a step by parameter."""

    def read(self, parameter: Any) -> Tensor:
        """Mean gradient of one parameter, unpartitioned, fp32 (collective)."""
        ...

    def write(self, parameter: Any, value: Tensor) -> None:
        """Replace the mean gradient of one parameter by an unpartitioned tensor."""
        ...


class Muon:
    """Keeps the momenta of the matrices that this process owns, and computes their updates.

    Args:
        groups: momentum and parameters of each of the optimizer's Muon groups.
        parameters: all parameters of the module by name.
        shapes: shapes of these parameters, unpartitioned, by name.
        precision: data type of the matrix products in :func:`orthogonalized`.
        context: this process among its peers.
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
        """Bytes of the momenta on this process."""
        return sum(momentum.untyped_storage().nbytes() for momentum in self._momenta.values())

    @torch.no_grad()
    def replace(self, gradients: MeanGradients) -> None:
        """Replace the mean gradients of the matrices by updates (collective)."""
        updates: dict[str, Tensor] = {}
        for name, parameter in self._matrices.items():
            gradient = gradients.read(parameter)
            if name in self._momenta:
                momentum = self._momenta[name].lerp_(gradient, 1 - self._decays[name])
                updates[name] = gradient.lerp(momentum, self._decays[name])
        # Compute all own updates before the first broadcast: otherwise the processes would compute one after the other.
        updates = {name: orthogonalized(update, self._precision) for name, update in updates.items()}
        for name, parameter in self._matrices.items():
            gradients.write(parameter, self._from_owner(name, updates.pop(name, None)))

    def read(self, name: str) -> Tensor:
        """Momentum of one parameter, unpartitioned, fp32 (collective)."""
        return self._from_owner(name, self._momenta.get(name))

    def write(self, name: str, value: Tensor) -> None:
        """Set the momentum of one parameter, given unpartitioned, on the process that owns it."""
        if name in self._momenta:
            self._momenta[name].copy_(value)

    def _from_owner(self, name: str, value: Tensor | None) -> Tensor:
        value = torch.empty(self._shapes[name], device=self._device) if value is None else value.contiguous()
        dist.broadcast(value, self._owners[name])
        return value


class MuonAdamW(torch.optim.AdamW):
    """AdamW; in Muon's groups, gradients are updates of :class:`Muon`, subtracted with AdamW's weight decay."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all parameters, which may be pieces of flattened ones."""
        every = self.param_groups
        for group in filter(is_muon, every):
            for parameter in group["params"]:
                # Separate operations: a fused one may round differently at the end of a piece.
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(parameter.grad * group["lr"])
        self.param_groups = [group for group in every if not is_muon(group)]
        try:
            super().step()
        finally:
            self.param_groups = every

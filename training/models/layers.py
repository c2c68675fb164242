"""Layers that several encoders and heads share."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molstream.training.models.graph import in_float32

ROWS_OF_BLOCK = 1024
"""Rows that :func:`in_blocks` gives a CPU at a time."""


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of rows [m, d] that also accepts a training batch of no or one row.

    One row has no variance, so ``torch`` refuses it; here the running statistics normalise it and stay as they are.
    """

    def forward(self, input: Tensor, count: Tensor | None = None) -> Tensor:
        """Normalised rows, same shape; row k counts as ``count[k]`` (int64 [m]) equal rows, as one by default."""
        num_rows = input.shape[0] if count is None else int(count.sum())
        if self.training and num_rows < 2:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if not self.training or count is None:
            return super().forward(input)
        rows = in_float32(input)
        with torch.autocast(input.device.type, enabled=False):
            share = count.to(rows.dtype) / num_rows
            mean = share @ rows
            centred = rows - mean
            scale = self.scale(mean, share @ centred.square(), num_rows)
        return torch.addcmul(self.bias, centred, scale).to(input.dtype)

    def scale(self, mean: Tensor, variance: Tensor, num_rows: int) -> Tensor:
        """What centred rows of this variance [d] are multiplied by; the running statistics follow mean and variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            unbiased = variance * (num_rows / (num_rows - 1))
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
            self.num_batches_tracked += 1
        return self.weight * torch.rsqrt(variance + self.eps)


class Blockwise(nn.Module):
    """A network that gives CPUs a batch in blocks, and so runs its children as often as there are blocks."""

    blockwise: bool = True
    """False to run every child once: at ZeRO 3 all processes gather a child's weights together whenever it runs."""


def in_blocks(network: Callable[[Tensor], Tensor], rows: Tensor, dim: int = 0, blockwise: bool = True) -> Tensor:
    """``network(rows)``, where each row along ``dim`` is an input by itself.

    On CPUs it is done for :data:`ROWS_OF_BLOCK` at a time: of thousands of rows products of matrices are slower, and
    what lies between the layers leaves the caches. Not so if ``blockwise`` is False, see :class:`Blockwise`.
    """
    if rows.device.type != "cpu" or not blockwise:
        return network(rows)
    return torch.cat([network(block) for block in rows.split(ROWS_OF_BLOCK, dim)], dim)


class Linear(nn.Linear):
    """``nn.Linear`` by :func:`in_blocks`."""

    def forward(self, input: Tensor) -> Tensor:
        """[m, out] from rows [m, in]."""
        return in_blocks(super().forward, input)


def tanh(x: Tensor) -> Tensor:
    """Elementwise, same shape; several times as fast as torch's on CPUs."""
    low_precision = x.dtype in (torch.bfloat16, torch.float16)
    return torch.tanh(x) if low_precision or x.device.type != "cpu" else _Tanh.apply(x)


class _Tanh(torch.autograd.Function):
    """2 / (1 + exp(-2x)) - 1, to rounding of one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = (2.0 * x).sigmoid_().mul_(2.0).sub_(1.0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.ops.aten.tanh_backward(*gradients, *ctx.saved_tensors)


class CategoricalEmbedding(nn.Module):
    """Sum of one embedding per categorical column, kept as one table [sum(vocabulary_sizes), d].

    Each column's rows start xavier-uniform, as if they were a table of their own.
    """

    offsets: Tensor

    def __init__(self, vocabulary_sizes: tuple[int, ...], hidden: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(sum(vocabulary_sizes), hidden))
        ends = torch.tensor(vocabulary_sizes).cumsum(0)
        self.register_buffer("offsets", ends - torch.tensor(vocabulary_sizes), persistent=False)
        with torch.no_grad():
            for column in self.weight.split(list(vocabulary_sizes)):
                nn.init.xavier_uniform_(column)

    def forward(self, features: Tensor) -> Tensor:
        """Rows [m, d] for ``features`` int64 [m, number of columns]."""
        return F.embedding_bag(features + self.offsets, self.weight, mode="sum")


class ShiftedSoftplus(nn.Module):
    """softplus(x) - ln 2, which is zero at zero (SchNet)."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise, same shape."""
        return F.softplus(x).sub_(math.log(2.0))


def gaussian_basis(distance: Tensor, cutoff: float, num_gaussians: int) -> Tensor:
    """exp(-(d - c_k)^2 / (2 spacing^2)) for centres c_k evenly spaced from 0 to the cutoff, [p, num_gaussians]."""
    centers = torch.linspace(0.0, cutoff, num_gaussians, dtype=distance.dtype, device=distance.device)
    spacing = cutoff / (num_gaussians - 1)
    return torch.exp(-0.5 * ((distance.unsqueeze(1) - centers) / spacing) ** 2)


def cosine_envelope(distance: Tensor, cutoff: float) -> Tensor:
    """(cos(pi d / cutoff) + 1) / 2, which falls from one at zero smoothly to zero at the cutoff; like ``distance``."""
    return 0.5 * (torch.cos(distance * (math.pi / cutoff)) + 1.0)


def dropout(x: Tensor, p: float, training: bool, generator: torch.Generator | None) -> Tensor:
    """Dropout whose mask is drawn from ``generator``, so that a step can be repeated; None is torch's global one."""
    if not training or p == 0.0:
        return x
    device = x.device if generator is None else generator.device
    keep = torch.rand(x.shape, generator=generator, device=device).to(x.device) >= p
    return x * keep / (1.0 - p)


def xavier_linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer with xavier-uniform weight and zero bias."""
    linear = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear

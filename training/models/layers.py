"""Layers shared by several encoders and heads."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molstream.training.models.graph import Incidence, in_float32

ROWS_OF_BLOCK = 1024
"""Number of rows that :func:`in_blocks` passes to the network at a time on a CPU."""


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of rows [m, d] that also accepts training batches of zero or one row.

    One row has no variance, and ``torch`` rejects it; here the running statistics normalise it and do not change.
    """

    def forward(self, input: Tensor, count: Tensor | None = None) -> Tensor:
        """Normalise rows [m, d]; row k counts as ``count[k]`` (int64 [m]) equal rows, by default as one."""
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
        """Scale [d] of centred rows with this variance [d]; updates the running statistics."""
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


class GraphNorm(nn.Module):
    """Normalisation of atom rows [n, d] within each molecule (Cai et al. 2021), in at least float32.

    (x - s mean) / sqrt(mean((x - s mean)^2) + 1e-5) of the atoms of a molecule, with a trained scale s of the mean,
    initially 1; then a trained weight and bias.
    """

    def __init__(self, hidden: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(hidden)), nn.Parameter(torch.zeros(hidden))
        self.mean_scale = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor, molecules: Incidence) -> Tensor:
        """Normalise rows [n, d]; ``molecules`` maps each to its molecule."""
        rows = in_float32(x)
        size = molecules.degree.unsqueeze(1).to(rows.dtype)
        centred = rows - molecules.gather(molecules.sum(rows) / size) * self.mean_scale
        variance = molecules.sum(centred.square()) / size
        normalised = centred * molecules.gather(torch.rsqrt(variance + self.eps))
        return torch.addcmul(self.bias, normalised, self.weight).to(x.dtype)


class Blockwise(nn.Module):
    """Base of networks that process a batch in blocks on CPUs, so that their children run once per block."""

    blockwise: bool = True
    """False to run each child once: at ZeRO 3 every run of a child is collective, since it gathers the weights."""


def in_blocks(network: Callable[[Tensor], Tensor], rows: Tensor, dim: int = 0, blockwise: bool = True) -> Tensor:
    """Compute ``network(rows)``, where the rows along ``dim`` are independent inputs.

    CPUs process :data:`ROWS_OF_BLOCK` rows at a time: with thousands of rows matrix products are slower, and
    intermediate values do not fit into the caches. ``blockwise=False`` disables this, see :class:`Blockwise`. A network
    that is exported has one block, whatever the number of rows will be.
    """
    if rows.device.type != "cpu" or not blockwise or torch.compiler.is_exporting():
        return network(rows)
    return torch.cat([network(block) for block in rows.split(ROWS_OF_BLOCK, dim)], dim)


class Linear(nn.Linear):
    """``nn.Linear`` that processes its rows by :func:`in_blocks`."""

    def forward(self, input: Tensor) -> Tensor:
        """Map rows [m, in] to rows [m, out]."""
        return in_blocks(super().forward, input)


def tanh(x: Tensor) -> Tensor:
    """Elementwise tanh, same shape; several times as fast as torch's on CPUs."""
    low_precision = x.dtype in (torch.bfloat16, torch.float16)
    return torch.tanh(x) if low_precision or x.device.type != "cpu" else _Tanh.apply(x)


class _Tanh(torch.autograd.Function):
    """tanh as 2 / (1 + exp(-2x)) - 1; the error is that of rounding 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = (2.0 * x).sigmoid_().mul_(2.0).sub_(1.0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.ops.aten.tanh_backward(*gradients, *ctx.saved_tensors)


class CategoricalEmbedding(nn.Module):
    """Sum of one embedding per categorical column, stored as one table [sum(vocabulary_sizes), d].

    Each column's rows are initialised xavier-uniform, like a separate table.
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
        """Embed ``features``, int64 [m, number of columns], to rows [m, d]."""
        # ONNX has no bags: they would become a loop over the rows.
        if torch.compiler.is_exporting():
            return F.embedding(features + self.offsets, self.weight).sum(1)
        return F.embedding_bag(features + self.offsets, self.weight, mode="sum")


class ShiftedSoftplus(nn.Module):
    """softplus(x) - ln 2, which is zero at zero (SchNet)."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function elementwise; same shape."""
        return F.softplus(x).sub_(math.log(2.0))


def gaussian_basis(distance: Tensor, cutoff: float, num_gaussians: int) -> Tensor:
    """Gaussian basis exp(-(d - c_k)^2 / (2 spacing^2)) [p, num_gaussians], centres c_k evenly from 0 to the cutoff."""
    centers = torch.linspace(0.0, cutoff, num_gaussians, dtype=distance.dtype, device=distance.device)
    spacing = cutoff / (num_gaussians - 1)
    return torch.exp(-0.5 * ((distance.unsqueeze(1) - centers) / spacing) ** 2)


def cosine_envelope(distance: Tensor, cutoff: float) -> Tensor:
    """Envelope (cos(pi d / cutoff) + 1) / 2, smooth from one at distance zero to zero at the cutoff; same shape."""
    return 0.5 * (torch.cos(distance * (math.pi / cutoff)) + 1.0)


def dropout(x: Tensor, p: float, training: bool, generator: torch.Generator | None) -> Tensor:
    """Dropout with a mask drawn from ``generator``, so that a step can be repeated; None uses torch's global one."""
    if not training or p == 0.0:
        return x
    device = x.device if generator is None else generator.device
    keep = torch.rand(x.shape, generator=generator, device=device).to(x.device) >= p
    return x * keep / (1.0 - p)


def xavier_linear(in_features: int, out_features: int) -> nn.Linear:
    """Create a linear layer with xavier-uniform weight and zero bias."""
    linear = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear

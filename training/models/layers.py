"""Layers that several encoders and heads share."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of rows [m, d] that also accepts a training batch of no or one row.

    One row has no variance, so ``torch`` refuses it; here the running statistics normalise it and stay as they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalised rows, same shape."""
        if self.training and input.shape[0] < 2:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


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

"""Heads of MoleBLEND: predictions for every ordered pair of atoms, and for every atom a direction in space.

Symbols of shapes: ``n`` atoms, ``p`` unordered atom pairs, ``d`` width of atoms; rows [2p + n] are those of
:func:`~molstream.training.models.layout.ordered_rows`, of a layout of ordered pairs.
"""

import math

import torch
from torch import Tensor, nn

from molstream.training.models.graph import in_float32
from molstream.training.models.layers import dropout
from molstream.training.models.layout import Layout

NORM_EPS = 1e-12
"""Added to the variance in the norm of the two factors of a pair."""
DISTANCE_EPS = 1e-5
"""Added to distances in angstrom, so that atoms in one place have a direction."""


class PairHead(nn.Module):
    """A linear map of the outer product of two factors r_i and c_j, [2p + n, channels], as a bilinear form.

    logit_k(i, j) = r_i^T W_k c_j + b_k, where r and c are LayerNorm(gelu(linear(h))) of ``rank`` entries: the published
    head flattens r_i c_j^T, which a batch has no memory for, and multiplies it by the same W.

    Args:
        width: d.
        rank: entries of a factor.
        channels: numbers that are predicted for a pair.
        hidden: width of a linear layer between the outer product and the channels; None for none.
    """

    def __init__(self, width: int, rank: int, channels: int, hidden: int | None = None):
        super().__init__()
        self.rank, self.channels = rank, channels
        self.rows, self.columns = _factor(width, rank), _factor(width, rank)
        self.form = nn.Linear(rank * rank, hidden or channels)
        self.out = None if hidden is None else nn.Linear(hidden, channels)

    def forward(self, h: Tensor, layout: Layout) -> Tensor:
        """Predict for all ordered pairs of atoms [n, d], at least float32."""
        form, bias = self.form.weight, self.form.bias
        if self.out is not None:
            form, bias = self.out.weight @ form, self.out(bias)
        columns = self.columns(h)
        # [n, channels * rank]: r_i^T W_k for every k, which is multiplied by the c_j of a molecule.
        left = self.rows(h) @ form.view(-1, self.rank, self.rank).transpose(0, 1).flatten(1).to(columns.dtype)
        parts = []
        for a, c in zip(layout.pad(left), layout.pad(columns), strict=True):
            dense = a.reshape(len(a), -1, self.rank) @ c.transpose(1, 2)
            parts.append(dense.view(*a.shape[:2], self.channels, -1).transpose(2, 3))
        return in_float32(layout.collect(parts)) + bias


def _factor(width: int, rank: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, rank), nn.GELU(), nn.LayerNorm(rank, eps=NORM_EPS))


class DirectionHead(nn.Module):
    """Predicts a vector per atom [n, 3] by attention over the directions to the other atoms of its molecule.

    o_i = sum_h sum_j alpha_ij^h (w_h . v_j^h) u_ij, with attention alpha, values v and the unit vector u_ij from atom i
    to j. The weights w are the same for x, y and z, so that the vectors turn with the molecule; the released code has
    others for each axis.

    Args:
        width: d.
        num_heads: h.
        bias: makes the bias [2p + n, h] of attention from what was shown of pairs.
        dropout: probability of dropping an attention weight.
    """

    def __init__(self, width: int, num_heads: int, bias: nn.Module, dropout: float = 0.0):
        super().__init__()
        self.num_heads, self.dropout, self.bias = num_heads, dropout, bias
        self.qkv = nn.Linear(width, 3 * width)
        self.weight = nn.Parameter(torch.empty(num_heads, width // num_heads))
        nn.init.normal_(self.weight, std=width**-0.5)

    def forward(self, h: Tensor, relation: Tensor, pos: Tensor, layout: Layout, generator: torch.Generator) -> Tensor:
        """Predict vectors, at least float32.

        Args:
            h: [n, d] atoms.
            relation: [2p + n, c] what was shown of pairs.
            pos: [n, 3] positions in angstrom, which directions are taken from.
            layout: of ordered pairs.
            generator: source of the dropout masks.
        """
        q, k, v = self.qkv(h).unflatten(1, (3, self.num_heads, -1)).unbind(1)
        value = in_float32((v * self.weight).sum(2))
        of_buckets = (layout.pad(rows) for rows in (q, k, value, in_float32(pos)))
        found = []
        for q, k, value, place, bias in zip(*of_buckets, layout.spread(self.bias(relation)), strict=True):
            logits = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1]) + bias
            share = dropout(torch.softmax(in_float32(logits), -1), self.dropout, self.training, generator)
            pull = torch.einsum("bhij,bjh->bij", share, value)
            vector = place.unsqueeze(1) - place.unsqueeze(2)
            distance = torch.linalg.vector_norm(vector, dim=3, keepdim=True)
            found.append((pull.unsqueeze(3) * vector / (distance + DISTANCE_EPS)).sum(2))
        return layout.unpad(found)

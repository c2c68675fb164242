"""2D edge embedding of the 2D-to-3D network, q = W ReLU(BN(U z_r + V z_c)) + b, without storing a wide row per edge.

There are ten times as many edges as atoms, with wide rows. The statistics of u_r + v_c follow from sums over atoms and
their neighbours, and the normalisation applies to either summand. The rectified sums are computed block by block and
not stored (specification of MoleculeSDE, 4.3 step 3).

Symbols of shapes: ``n`` atoms, ``e`` directed edges with both directions of every pair, ``d`` width.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from molstream.training.models.graph import Incidence, in_float32
from molstream.training.models.layers import BatchNorm

EDGES_OF_BLOCK = 1024
"""Number of edges that a CPU processes at a time: their wide rows fit into the second-level cache."""


class EdgeNorm(BatchNorm):
    """:class:`~molstream.training.models.layers.BatchNorm` of u_r + v_c over all directed edges (r, c)."""

    def of_ends(self, u: Tensor, v: Tensor, source: Incidence, target: Incidence) -> tuple[Tensor, Tensor]:
        """Normalise u_r + v_c; returns u' and v' [n, d] such that u'_r + v'_c is the normalised sum.

        Args:
            u: [n, d], contribution of each atom to the edges that start at it.
            v: [n, d], contribution of each atom to the edges that end at it.
            source: the atoms r of the e edges, both directions of every pair.
            target: the atoms c.
        """
        dtype, num_edges = u.dtype, source.index.numel()
        u, v = in_float32(u), in_float32(v)
        if not self.training or num_edges < 2:
            assert self.running_mean is not None
            assert self.running_var is not None
            scale = self.weight * torch.rsqrt(self.running_var + self.eps)
            return ((u - self.running_mean) * scale).to(dtype), torch.addcmul(self.bias, v, scale).to(dtype)
        with torch.autocast(u.device.type, enabled=False):
            # As many edges start at an atom as end at it, so that both sides have the same weights.
            share = target.degree.to(u.dtype) / num_edges
            mean_u, mean_v = share @ u, share @ v
            u, v = u - mean_u, v - mean_v
            squares = share @ (u.square() + v.square())
            products = (v * target.sum_from(u, source)).sum(0) / num_edges
            # If u_r + v_c is equal on all edges, rounding could make the variance negative.
            variance = (squares + 2.0 * products).clamp(min=0.0)
            scale = self.scale(mean_u + mean_v, variance, num_edges)
            return (u * scale).to(dtype), torch.addcmul(self.bias, v, scale).to(dtype)


class RectifiedEnds(torch.autograd.Function):
    """relu(u_r + v_c) W^T + b for each edge, [e, k] from u, v [n, d], W [k, d] and b [k].

    The backward pass recomputes the wide rows, which takes less time than to store and load them.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, v: Tensor, weight: Tensor, bias: Tensor, source: Incidence, target: Incidence
    ) -> Tensor:
        ctx.save_for_backward(u, v, weight)
        ctx.ends = source, target
        output = u.new_empty(source.index.numel(), weight.shape[0])
        for r, c, out in _blocks(source.index, target.index, output):
            torch.addmm(bias, _rectified(u, v, r, c), weight.t(), out=out)
        return output

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        u, v, weight = ctx.saved_tensors
        source, target = ctx.ends
        of_weight, of_rows = torch.zeros_like(weight), u.new_empty(gradient.shape[0], u.shape[1])
        for r, c, given, out in _blocks(source.index, target.index, gradient, of_rows):
            rows = _rectified(u, v, r, c)
            of_weight.addmm_(given.t(), rows)
            torch.mm(given, weight, out=out).mul_(rows.sign_())
        return source.summed(of_rows), target.summed(of_rows), of_weight, gradient.sum(0), None, None


def _rectified(u: Tensor, v: Tensor, r: Tensor, c: Tensor) -> Tensor:
    """Compute relu(u_r + v_c) for the edges from atoms r to atoms c."""
    return u.index_select(0, r).add_(v.index_select(0, c)).relu_()


def _blocks(*rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield corresponding rows of the tensors: on a CPU :data:`EDGES_OF_BLOCK` at a time, otherwise all."""
    size = EDGES_OF_BLOCK if rows[0].device.type == "cpu" else max(rows[0].shape[0], 1)
    return zip(*(part.split(size) for part in rows), strict=True)

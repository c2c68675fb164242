"""Interpolation of functions of a distance from a table: equal up to rounding, at a fraction of the cost.

A smooth function is interpolated on a fine grid by the Lagrange polynomial through the ``POINTS`` nearest nodes.
SchNet's filters vary over the width of the Gaussians that a distance is expanded in; with ``NODES_PER_WIDTH`` nodes per
width their error is 3e-14 of their largest value, and 7e-12 if the weights are ten times as large.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

POINTS = 10
"""Number of nodes that a value is interpolated from."""
NODES_PER_WIDTH = 20
"""Number of nodes on the length over which a function varies."""
BEFORE = POINTS // 2 - 1
"""Number of points below the node next below a distance."""
DENOMINATORS = [math.prod(k - j for j in range(POINTS) if j != k) for k in range(POINTS)]
"""Denominators of the Lagrange polynomials with nodes 0, 1, ..."""


def num_nodes(end: float, width: float) -> int:
    """Number of nodes for distances from 0 to ``end`` and functions that vary over ``width``, both in angstrom."""
    return math.ceil(end / width * NODES_PER_WIDTH) + POINTS


def grid(end: float, width: float, like: Tensor) -> Tensor:
    """Nodes [m] in angstrom, ascending, with the dtype of ``like``; a few lie below 0 and above ``end``."""
    nodes = torch.arange(num_nodes(end, width), dtype=like.dtype, device=like.device)
    return (nodes - BEFORE) * (width / NODES_PER_WIDTH)


class Interpolation:
    """Linear map from values at the nodes to values at given distances, and its transpose.

    Args:
        distance: [p] in angstrom, from 0 to ``end``; gets no gradient.
        end: end of the grid in angstrom.
        width: length in angstrom over which the functions vary.
    """

    def __init__(self, distance: Tensor, end: float, width: float):
        place = distance.detach() * (NODES_PER_WIDTH / width)
        below = place.floor()
        points = torch.arange(POINTS, device=distance.device)
        gap = (place - below + BEFORE).unsqueeze(1) - points
        one = torch.ones_like(gap[:, :1])
        product_before = torch.cat([one, gap[:, :-1]], dim=1).cumprod(1)
        product_after = torch.cat([one, gap[:, 1:].flip(1)], dim=1).cumprod(1).flip(1)
        self._weight = (product_before * product_after / gap.new_tensor(DENOMINATORS)).flatten()
        self._node = (below.long().unsqueeze(1) + points).flatten()
        self._start = torch.arange(0, self._node.numel(), POINTS, device=distance.device)
        nodes, order = torch.sort(self._node, stable=True)
        self._row_of_node, self._weight_of_node = order // POINTS, self._weight[order]
        self._start_of_node = torch.searchsorted(nodes, torch.arange(num_nodes(end, width), device=distance.device))

    def values(self, table: Tensor) -> Tensor:
        """Interpolate, [p, d] from values at the nodes [m, d], without gradient."""
        weight = self._weight.to(table.dtype)
        return F.embedding_bag(self._node, table.detach(), self._start, mode="sum", per_sample_weights=weight)

    def transposed(self, rows: Tensor) -> Tensor:
        """Apply the transpose, [m, d] from [p, d]: the backward pass of :meth:`values`; without gradient."""
        weight = self._weight_of_node.to(rows.dtype)
        return F.embedding_bag(
            self._row_of_node, rows.detach(), self._start_of_node, mode="sum", per_sample_weights=weight
        )

"""Functions of a distance, read off a table of their values: the same to rounding, for a fraction of the cost.

A smooth function is known between the nodes of a fine grid from its values there: Lagrange's polynomial through the
``POINTS`` nearest nodes. SchNet's filters vary over the width of the Gaussians that a distance is expanded in; with
``NODES_PER_WIDTH`` nodes on that width they come out to 3e-14 of their largest value, and still to 7e-12 where the
weights have grown tenfold.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

POINTS = 10
"""Nodes that a value comes from."""
NODES_PER_WIDTH = 20
"""Nodes on the length over which a function varies."""
BEFORE = POINTS // 2 - 1
"""Of the points of a distance those that are smaller than the one just below it."""
DENOMINATORS = [math.prod(k - j for j in range(POINTS) if j != k) for k in range(POINTS)]
"""Of Lagrange's polynomials, whose nodes are 0, 1, ..."""


def num_nodes(end: float, width: float) -> int:
    """Nodes of the grid for distances from 0 to ``end`` and functions that vary over ``width``, both in angstrom."""
    return math.ceil(end / width * NODES_PER_WIDTH) + POINTS


def grid(end: float, width: float, like: Tensor) -> Tensor:
    """The nodes [m] in angstrom, ascending, of the type of ``like``; a few lie below 0 and beyond ``end``."""
    nodes = torch.arange(num_nodes(end, width), dtype=like.dtype, device=like.device)
    return (nodes - BEFORE) * (width / NODES_PER_WIDTH)


class Interpolation:
    """The linear map from a table of values at the nodes to the values at some distances, and its transpose.

    Args:
        distance: [p] in angstrom, from 0 to ``end``; it gets no gradient.
        end: where the grid ends.
        width: what it resolves.
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
        """[p, d] from values at the nodes [m, d], without gradient."""
        weight = self._weight.to(table.dtype)
        return F.embedding_bag(self._node, table.detach(), self._start, mode="sum", per_sample_weights=weight)

    def transposed(self, rows: Tensor) -> Tensor:
        """[m, d] from [p, d]: what :meth:`values` makes of its gradient, without gradient."""
        weight = self._weight_of_node.to(rows.dtype)
        return F.embedding_bag(
            self._row_of_node, rows.detach(), self._start_of_node, mode="sum", per_sample_weights=weight
        )

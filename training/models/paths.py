"""Shortest paths between the atoms of each molecule of a batch, and the bonds along them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from molstream.training.models.graph import expand


class ShortestPaths(NamedTuple):
    """Shortest paths of p requested atom pairs; independent of the order of atoms and of the direction."""

    distance: Tensor
    """int64 [p]: number of bonds on a shortest path; ``max_hops`` + 1 if longer, + 2 if there is no path."""
    bonds: Tensor
    """int64 [p, kinds]: number of bonds of each kind, summed over all shortest paths; zero beyond ``max_hops``."""


def shortest_paths(
    edge_index: Tensor, kind: Tensor, num_kinds: int, batch: Tensor, pairs: Tensor, max_hops: int
) -> ShortestPaths:
    """Find shortest paths by breadth-first search from all atoms of all molecules at once.

    If several paths are shortest, as across a ring, the bonds of all of them are counted.

    Args:
        edge_index: int64 [2, e] directed bonds, both directions of each, once.
        kind: int64 [e], kind of each bond, equal in both directions.
        num_kinds: number of values of ``kind``.
        batch: int64 [n] molecule of each atom, ascending.
        pairs: int64 [2, p] pairs of different atoms of the same molecule.
        max_hops: longest distance that is resolved.
    """
    size = torch.bincount(batch)
    largest, size_here = int(size.max()), size[batch]
    local = torch.arange(batch.numel(), device=batch.device) - (size.cumsum(0) - size)[batch]
    # Each ordered pair (i, j) of a molecule, including i = j, is entry first[i] + local[j].
    first = size_here.cumsum(0) - size_here
    atom, other = expand(size_here)
    other = other + (atom - local[atom])
    # The bonds that begin at an atom, one after the other from begin[atom] on.
    order = torch.argsort(edge_index[0])
    degree = torch.bincount(edge_index[0], minlength=batch.numel())
    begin = degree.cumsum(0) - degree
    end, kinds = edge_index[1, order], F.one_hot(kind[order], num_kinds)

    distance = torch.where(atom == other, 0, -1)
    # Column 0: number of shortest paths; other columns: number of bonds of each kind along all of them.
    found = F.pad((atom == other).long().unsqueeze(1), (0, num_kinds))
    reached = (atom == other).nonzero().squeeze(1)
    for hop in range(1, max_hops + 1):
        # One more bond from every pair that was reached with the last one.
        path, rank = expand(degree[other[reached]])
        before = reached[path]
        bond = begin[other[before]] + rank
        after = before - local[other[before]] + local[end[bond]]
        step = (distance[after] < 0).nonzero().squeeze(1)
        if step.numel() == 0:
            break
        longer = found[before[step]]
        longer[:, 1:] += longer[:, :1] * kinds[bond[step]]
        found.index_add_(0, after[step], longer)
        distance[after[step]] = hop
        reached = (distance == hop).nonzero().squeeze(1)

    component = torch.arange(batch.numel(), device=batch.device)
    for _ in range(0, largest - 1, max_hops):  # each round spreads a component's least number by max_hops
        seen = torch.where(distance >= 0, component[other], batch.numel())
        component = component.scatter_reduce(0, atom, seen, "amin")
    entry = first[pairs[0]] + local[pairs[1]]
    beyond = torch.where(component[pairs[0]] == component[pairs[1]], max_hops + 1, max_hops + 2)
    return ShortestPaths(torch.where(distance[entry] >= 0, distance[entry], beyond), found[entry, 1:])

"""Shortest paths between all atoms of every molecule of a batch, and the bonds along them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from molstream.training.models.graph import expand


class ShortestPaths(NamedTuple):
    """Of atom pairs [p] that were asked for; nothing depends on the numbering of the atoms, nor on the direction."""

    distance: Tensor
    """int64 [p]: bonds on a shortest path; ``max_hops`` + 1 if they are more, + 2 if no path joins the atoms."""
    bonds: Tensor
    """int64 [p, kinds]: bonds of each kind along all shortest paths together; zero beyond ``max_hops``."""


def shortest_paths(
    edge_index: Tensor, kind: Tensor, num_kinds: int, batch: Tensor, pairs: Tensor, max_hops: int
) -> ShortestPaths:
    """Breadth-first search from all atoms of all molecules at once; a hop extends the paths of the last by a bond.

    Several paths may be shortest, as across a ring. None of them is preferred: the bonds of all are counted.

    Args:
        edge_index: int64 [2, e] directed bonds, both directions of each, once.
        kind: int64 [e], a property of every bond, the same in both directions.
        num_kinds: number of values of ``kind``.
        batch: int64 [n] molecule of every atom, ascending.
        pairs: int64 [2, p] pairs of different atoms of the same molecule.
        max_hops: longest distance that is told from a longer one.
    """
    size = torch.bincount(batch)
    largest, size_here = int(size.max()), size[batch]
    local = torch.arange(batch.numel(), device=batch.device) - (size.cumsum(0) - size)[batch]
    # Every ordered pair (i, j) of a molecule, itself included, is entry first[i] + local[j].
    first = size_here.cumsum(0) - size_here
    atom, other = expand(size_here)
    other = other + (atom - local[atom])
    bond, source = expand(size_here[edge_index[0]])
    source = first[edge_index[0, bond] - local[edge_index[0, bond]] + source]
    before, after = (source + local[end[bond]] for end in edge_index)
    kinds = F.one_hot(kind, num_kinds)

    distance = torch.where(atom == other, 0, -1)
    # Column 0: number of shortest paths; the others: bonds of each kind along all of them.
    found = F.pad((atom == other).long().unsqueeze(1), (0, num_kinds))
    for hop in range(1, max_hops + 1):
        step = ((distance[before] == hop - 1) & (distance[after] < 0)).nonzero().squeeze(1)
        if step.numel() == 0:
            break
        longer = found[before[step]]
        longer[:, 1:] += longer[:, :1] * kinds[bond[step]]
        found.index_add_(0, after[step], longer)
        distance[after[step]] = hop

    component = torch.arange(batch.numel(), device=batch.device)
    for _ in range(0, largest - 1, max_hops):  # each round passes the least number of a component on by max_hops
        seen = torch.where(distance >= 0, component[other], batch.numel())
        component = component.scatter_reduce(0, atom, seen, "amin")
    entry = first[pairs[0]] + local[pairs[1]]
    beyond = torch.where(component[pairs[0]] == component[pairs[1]], max_hops + 1, max_hops + 2)
    return ShortestPaths(torch.where(distance[entry] >= 0, distance[entry], beyond), found[entry, 1:])

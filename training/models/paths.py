"""Shortest paths between the atoms of each molecule of a batch, and the bonds along them.

:func:`shortest_paths` counts the bonds of all shortest paths of a pair, whatever the order of the atoms;
:func:`floyd_warshall_paths` follows the one of them that the order of the atoms selects.
"""

from collections.abc import Iterator
from itertools import count, islice
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


class FloydWarshallPaths(NamedTuple):
    """One shortest path from i to j for each of p requested atom pairs, and, in the rows from p on, from j to i."""

    distance: Tensor
    """int64 [2p]: number of bonds on a shortest path, of any length; -1 if there is no path."""
    bonds: Tensor
    """int64 [2p, max_hops]: column in ``edge_index`` of the bond on each of the first hops; -1 beyond the path's end.

    Each bond is directed as the path is.
    """


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
    search, kinds = _Search(edge_index, batch), F.one_hot(kind, num_kinds)
    # Column 0: number of shortest paths; other columns: number of bonds of each kind along all of them.
    found = F.pad((search.distance == 0).long().unsqueeze(1), (0, num_kinds))
    for hop in islice(search.hops(), max_hops):
        longer = found[hop.before]
        longer[:, 1:] += longer[:, :1] * kinds[hop.bond]
        found.index_add_(0, hop.after, longer)

    distance, component = search.distance, torch.arange(batch.numel(), device=batch.device)
    for _ in range(0, search.largest - 1, max_hops):  # each round spreads a component's least number by max_hops
        seen = torch.where(distance >= 0, component[search.other], batch.numel())
        component = component.scatter_reduce(0, search.atom, seen, "amin")
    row = search.row(pairs)
    beyond = torch.where(component[pairs[0]] == component[pairs[1]], max_hops + 1, max_hops + 2)
    return ShortestPaths(torch.where(distance[row] >= 0, distance[row], beyond), found[row, 1:])


def floyd_warshall_paths(edge_index: Tensor, batch: Tensor, pairs: Tensor, max_hops: int) -> FloydWarshallPaths:
    """Find the shortest paths that Floyd and Warshall's algorithm records, by the search of :func:`shortest_paths`.

    If several paths from i to j are shortest, as across a ring, atom numbers decide. The path runs through the atom k
    that is the least, over all shortest paths, of the path's greatest atom strictly between its ends; its parts from i
    to k and from k to j are selected alike (specification of MoleBLEND, section 3.4). The path from j to i is therefore
    the same one, and what remains of a path after any of its hops is itself a selected path.

    Args:
        edge_index: int64 [2, e] directed bonds, both directions of each, once.
        batch: int64 [n] molecule of each atom, ascending.
        pairs: int64 [2, p] pairs of different atoms of the same molecule.
        max_hops: number of hops whose bonds are returned; distances are exact beyond it.
    """
    search = _Search(edge_index, batch)
    # The row of (i, k), where k is the atom of the rule, or -1; rows of the same i are in the order of k.
    middle = torch.full_like(search.distance, -1)
    first_bond = torch.full_like(search.distance, -1)
    for number, hop in enumerate(search.hops()):
        if number == 0:
            first_bond[hop.after] = hop.bond
        else:
            # The atoms between i and j are those between i and the atom before j, and that atom.
            through = torch.maximum(middle[hop.before], hop.before)
            middle.scatter_reduce_(0, hop.after, through, "amin", include_self=False)
            first_bond[hop.after] = first_bond[middle[hop.after]]

    # The row of what remains of the path after its first hop; where there is no hop, the row itself.
    second = search.atom.clone()
    connected = (first_bond >= 0).nonzero().squeeze(1)
    second[connected] = edge_index[1, first_bond[connected]]
    remainder = search.row(torch.stack([second, search.other]))
    row = search.row(torch.cat([pairs, pairs.flip(0)], dim=1))
    distance, bonds = search.distance[row], []
    for _ in range(max_hops):
        bonds.append(first_bond[row])
        row = remainder[row]
    return FloydWarshallPaths(distance, torch.stack(bonds, dim=1))


class _Hop(NamedTuple):
    """The ways to reach rows of a search for the first time; a row is reached in several ways across a ring."""

    before: Tensor
    """int64 [w]: row reached one hop earlier."""
    bond: Tensor
    """int64 [w]: column in ``edge_index`` of the bond that continues it."""
    after: Tensor
    """int64 [w]: row of the same first atom and the atom at the bond's end."""


class _Search:
    """Breadth-first search from all atoms of all molecules at once.

    Its r rows are the ordered pairs (i, j) of atoms of the same molecule, i = j included, ascending in i, then j.
    """

    def __init__(self, edge_index: Tensor, batch: Tensor):
        size = torch.bincount(batch)
        self.largest = int(size.max())
        """Number of atoms of the largest molecule."""
        size_here, begin_here = size[batch], (size.cumsum(0) - size)[batch]
        self.atom, rank = expand(size_here)
        """int64 [r]: atom i of each row."""
        self.other = begin_here[self.atom] + rank
        """int64 [r]: atom j of each row."""
        self.distance = torch.where(self.atom == self.other, 0, -1)
        """int64 [r]: number of bonds on a shortest path, as far as :meth:`hops` has come; -1 if none is known."""
        self._start = size_here.cumsum(0) - size_here - begin_here
        self._edge_index = edge_index

    def row(self, pairs: Tensor) -> Tensor:
        """Find the rows [p] of pairs of atoms of the same molecule, int64 [2, p]."""
        return self._start[pairs[0]] + pairs[1]

    def hops(self) -> Iterator[_Hop]:
        """Walk along one more bond from each pair that was reached with the last one, as long as new ones are reached.

        :attr:`distance` has the new pairs when a hop is yielded.
        """
        begin_atom, end_atom = self._edge_index
        # The bonds that begin at an atom, one after the other from begin[atom] on.
        order = torch.argsort(begin_atom)
        degree = torch.bincount(begin_atom, minlength=self._start.numel())
        begin = degree.cumsum(0) - degree
        reached = (self.distance == 0).nonzero().squeeze(1)
        for number in count(1):
            last = self.other[reached]
            walk, rank = expand(degree[last])
            bond = order[begin[last][walk] + rank]
            after = (reached - last)[walk] + end_atom[bond]
            new = (self.distance[after] < 0).nonzero().squeeze(1)
            if new.numel() == 0:
                return
            after = after[new]
            self.distance[after] = number
            yield _Hop(reached[walk[new]], bond[new], after)
            reached = (self.distance == number).nonzero().squeeze(1)

"""Floyd and Warshall's algorithm as MoleBLEND's specification has it (section 3.4), atom by atom: for comparison."""

from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from molstream.training.models.graph import molecule_pairs


class Graph(NamedTuple):
    """A molecule as a graph: its number of atoms, and its bonds in one direction each."""

    size: int
    bonds: list[tuple[int, int]]


class Graphs(NamedTuple):
    """Molecules as one disjoint graph."""

    edge_index: Tensor
    """int64 [2, e] directed bonds, both directions of each, in random order."""
    batch: Tensor
    """int64 [n] molecule of each atom."""
    pairs: Tensor
    """int64 [2, p] pairs i < j."""


def together(graphs: list[Graph], seed: int = 0) -> Graphs:
    """Join molecules in one disjoint graph; the order of the directed bonds is drawn by the seed."""
    size = torch.tensor([graph.size for graph in graphs])
    begin = (size.cumsum(0) - size).tolist()
    directed = [
        (start + a, start + b)
        for start, (_, bonds) in zip(begin, graphs)
        for i, j in bonds
        for a, b in ((i, j), (j, i))
    ]
    order = torch.randperm(len(directed), generator=torch.Generator().manual_seed(seed))
    batch = torch.repeat_interleave(size)
    return Graphs(torch.tensor(directed, dtype=torch.long).view(-1, 2)[order].T, batch, molecule_pairs(batch))


def floyd_warshall(graph: Graph) -> dict[tuple[int, int], list[int]]:
    """Find the recorded path, with both ends, of each ordered pair of different atoms that a path connects."""
    distance = np.full((graph.size, graph.size), 510)
    np.fill_diagonal(distance, 0)
    for i, j in graph.bonds:
        distance[i, j] = distance[j, i] = 1
    recorded = np.full((graph.size, graph.size), -1)
    for k in range(graph.size):
        over_k = distance[:, k, None] + distance[None, k, :]
        recorded[over_k < distance] = k
        distance = np.minimum(distance, over_k)
    connected = [(i, j) for i, j in np.argwhere(distance < 510).tolist() if i != j]
    recorded = recorded.tolist()

    @cache
    def path(i: int, j: int) -> list[int]:
        k = recorded[i][j]
        return [i, j] if k < 0 else path(i, k)[:-1] + path(k, j)

    return {(i, j): path(i, j) for i, j in connected}


def floyd_warshall_rows(graphs: list[Graph], joined: Graphs, max_hops: int) -> tuple[list[int], list[list[int]]]:
    """Compute what ``floyd_warshall_paths`` returns for molecules that are joined, as lists."""
    column = {bond: k for k, bond in enumerate(map(tuple, joined.edge_index.T.tolist()))}
    paths, start = {}, 0
    for graph in graphs:
        found = floyd_warshall(graph)
        paths |= {(start + i, start + j): [start + atom for atom in path] for (i, j), path in found.items()}
        start += graph.size
    distances, bonds = [], []
    for pair in torch.cat([joined.pairs, joined.pairs.flip(0)], dim=1).T.tolist():
        path = paths.get(tuple(pair), [])
        distances.append(len(path) - 1)  # -1 without a path
        hops = [column[bond] for bond in pairwise(path)][:max_hops]
        bonds.append(hops + [-1] * (max_hops - len(hops)))
    return distances, bonds

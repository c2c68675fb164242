"""Pairs of atoms by their distance along bonds: shortest paths and hop-limited (extended) edges, in numpy.

The plain reference of what ``training`` computes for whole batches on tensors.
"""

import numpy as np

UNREACHABLE = -1
"""Shortest-path distance between atoms of different fragments."""


def shortest_path_distances(num_atoms: int, bond_index: np.ndarray) -> np.ndarray:
    """Number of bonds on the shortest path between any two atoms, int16 [n, n]; UNREACHABLE where there is none.

    ``bond_index`` is integer [2, b]; direction and repetition of bonds do not matter.
    """
    adjacency = np.zeros((num_atoms, num_atoms), dtype=np.float32)
    adjacency[bond_index[0], bond_index[1]] = 1
    adjacency[bond_index[1], bond_index[0]] = 1
    distances = np.full((num_atoms, num_atoms), UNREACHABLE, dtype=np.int16)
    frontier = np.eye(num_atoms, dtype=bool)
    hops = 0
    while frontier.any():
        distances[frontier] = hops
        frontier = (frontier.astype(np.float32) @ adjacency > 0) & (distances == UNREACHABLE)
        hops += 1
    return distances


def extended_edges(num_atoms: int, bond_index: np.ndarray, hops: int) -> np.ndarray:
    """All ordered pairs of atoms that are 1 to ``hops`` bonds apart, int64 [2, e], sorted by row, then column.

    MoleculeSDE's 2D -> 3D score network works on these edges with ``hops=4`` (spec 1.4).
    """
    distances = shortest_path_distances(num_atoms, bond_index)
    return np.stack(np.nonzero((distances >= 1) & (distances <= hops)))

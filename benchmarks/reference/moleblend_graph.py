"""Molecules as padded tensors, made on the CPU one by one (3), and the random draws of a step (5, 8.4)."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from molstream.training.data.batch import MoleculeBatch

UNREACHABLE = 510
HOPS = 5
SPD, EDGE, DISTANCE = 0, 1, 2
"""What a pair can show."""


class Padded(NamedTuple):
    """A batch of B molecules, padded to the N atoms of the largest. Indices are those of 3.3, where 0 is padding."""

    mask: Tensor
    """bool [B, N]: which atoms are real."""
    atoms: Tensor
    """int64 [B, N, 9]: indices of the atom features."""
    degree: Tensor
    """int64 [B, N]: indices of the degrees."""
    spd: Tensor
    """int64 [B, N, N]: bonds on the shortest path from i to j (no index), 510 where there is none, 0 if padded."""
    path_bonds: Tensor
    """int64 [B, N, N, 5, 3]: indices of the features of the first five bonds on that path."""
    pair_types: Tensor
    """int64 [B, N, N, 2]: indices of the elements of i and j; 1 and 513 if padded."""
    pos: Tensor
    """[B, N, 3]: positions without noise, in angstrom."""
    has_pos: Tensor
    """bool [B]: which molecules have positions."""

    @property
    def pairs(self) -> Tensor:
        """bool [B, N, N]: which ordered pairs (i, j) are real, i = j included."""
        return self.mask.unsqueeze(2) & self.mask.unsqueeze(1)

    @property
    def different(self) -> Tensor:
        """bool [B, N, N]: which ordered pairs are real and not on the diagonal."""
        return self.pairs & ~torch.eye(self.mask.shape[1], dtype=torch.bool, device=self.mask.device)


class Draws(NamedTuple):
    """Everything random in a step but dropout. Molecules without positions never show any."""

    pairs: Tensor
    """int64 [B, N, N]: SPD, EDGE or DISTANCE, of every ordered pair including the diagonal (5.1)."""
    atoms: Tensor
    """bool [B, N]: m_i, True where the 3D feature is shown (5.2)."""
    noise: Tensor
    """[B, N, 3]: eps, in angstrom (8.4)."""


def collate(batch: MoleculeBatch) -> Padded:
    """Compute the relations of every molecule and pad them (3.3 to 3.5)."""
    B, N = batch.num_graphs, int(batch.ptr.diff().max())
    padded = Padded(
        mask=torch.zeros(B, N, dtype=torch.bool),
        atoms=torch.zeros(B, N, 9, dtype=torch.long),
        degree=torch.zeros(B, N, dtype=torch.long),
        spd=torch.zeros(B, N, N, dtype=torch.long),
        path_bonds=torch.zeros(B, N, N, HOPS, 3, dtype=torch.long),
        pair_types=torch.tensor([1, 513]).repeat(B, N, N, 1),
        pos=batch.pos.new_zeros(B, N, 3),
        has_pos=batch.has_pos,
    )
    for g, (start, end) in enumerate(pairwise(batch.ptr.tolist())):
        n, bonds = end - start, batch.batch[batch.edge_index[0]] == g
        edge_index, x = batch.edge_index[:, bonds] - start, batch.x[start:end]
        spd, path_bonds = relations(n, edge_index.numpy(), batch.edge_attr[bonds].numpy())
        padded.mask[g, :n] = True
        padded.atoms[g, :n] = x + 2 + 512 * torch.arange(9)
        padded.degree[g, :n] = torch.bincount(edge_index[0], minlength=n) + 1
        padded.spd[g, :n, :n] = torch.from_numpy(spd)
        padded.path_bonds[g, :n, :n] = torch.from_numpy(path_bonds)
        padded.pair_types[g, :n, :n, 0] = x[:, 0].unsqueeze(1) + 3
        padded.pair_types[g, :n, :n, 1] = x[:, 0].unsqueeze(0) + 515
        padded.pos[g, :n] = batch.pos[start:end]
    return padded


def relations(n: int, edge_index: np.ndarray, edge_attr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SPD [n, n] and the indices of the bonds along the paths [n, n, 5, 3] of one molecule, both int64."""
    feature = np.zeros((n, n, 3), dtype=np.int64)
    feature[edge_index[0], edge_index[1]] = edge_attr + 3 + 512 * np.arange(3)
    spd, via = floyd_warshall(feature[:, :, 0] > 0)
    path_bonds = np.zeros((n, n, HOPS, 3), dtype=np.int64)
    for i, j in np.argwhere((spd > 0) & (spd < UNREACHABLE)).tolist():
        hops = path(i, j, via)[:HOPS]
        path_bonds[i, j, : len(hops)] = [feature[hop] for hop in hops]
    return spd, path_bonds


def floyd_warshall(bonded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shortest distances in bonds [n, n], and the vertex of their last strict improvement, or -1 (3.4)."""
    spd = np.where(bonded, 1, UNREACHABLE)
    np.fill_diagonal(spd, 0)
    via = np.full_like(spd, -1)
    for k in range(len(bonded)):
        through_k = spd[:, k, None] + spd[None, k]
        shorter = through_k < spd
        spd[shorter], via[shorter] = through_k[shorter], k
    return spd, via


def path(i: int, j: int, via: np.ndarray) -> list[tuple[int, int]]:
    """The bonds from i to j, which are connected and differ, by recursion on the vertex between them (3.4)."""
    k = int(via[i, j])
    return [(i, j)] if k < 0 else path(i, k, via) + path(k, j, via)


def draw(padded: Padded, generator: torch.Generator) -> Draws:
    """Draw with the paper's probabilities, per molecule; 0.5 and 0.5 over SPD and edge if it has no positions (15.8).

    Anything else that draws from these distributions will do: the reference takes its draws as an input.
    """
    B, N = padded.mask.shape
    with_pos, without = torch.tensor([0.2, 0.2, 0.6]), torch.tensor([0.5, 0.5, 0.0])
    probabilities = torch.where(padded.has_pos.unsqueeze(1), with_pos, without)
    pairs = torch.multinomial(probabilities, N * N, replacement=True, generator=generator).view(B, N, N)
    atoms = (torch.rand(B, N, generator=generator) < 0.6) & padded.has_pos.unsqueeze(1)
    noise = 0.2 * torch.randn(B, N, 3, generator=generator)
    return Draws(pairs, atoms, noise.to(padded.pos))

"""A hypergraph of molecules: one hyperedge for each, of those that are most like it, and its convolution.

Symbols of shapes: ``V`` vertices (molecules), as many hyperedges, ``k`` members of a hyperedge, ``d`` width. Nothing of
size V x V is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from molstream.training.objectives.mmsa.config import Incidence, Normalization

ROWS_OF_BLOCK = 1024
"""Number of vertices whose similarity to all others is in memory at a time."""


@dataclass(frozen=True)
class Hypergraph:
    """The incidence matrix H of V hyperedges by their members; H has no gradient."""

    members: Tensor
    """int64 [V, k]: vertices of each hyperedge; the first is its own."""
    weight: Tensor
    """[V, k]: H of each member; 0 for one that does not count."""

    def convolve(self, s: Tensor, normalization: Normalization = "row") -> Tensor:
        """Propagate rows s [V, d] by D_v^-1 H D_e^-1 H^T, whose rows sum to 1 (Feng et al., HGM2R).

        The degrees are d_v = sum_e H_ve and d_e = sum_v H_ve. ``symmetric`` is D_v^-1/2 H D_e^-1 H^T D_v^-1/2 (HGNN,
        Feng et al. 2019). A vertex without a hyperedge gets zeros.
        """
        edges = self._by_vertex()
        degree = _inverse(edges.sum(self.weight.new_ones(len(s), 1)))
        own = degree if normalization == "row" else degree.sqrt()
        if normalization == "symmetric":
            s = s * own
        in_edge = F.embedding_bag(self.members, s, mode="sum", per_sample_weights=self.weight)
        return own * edges.sum(in_edge * _inverse(self.weight.sum(1, keepdim=True)))

    def _by_vertex(self) -> "_Edges":
        vertex, order = torch.sort(self.members.flatten(), stable=True)
        first = torch.searchsorted(vertex, torch.arange(len(self.members), device=vertex.device))
        return _Edges(order // self.members.shape[1], first, self.weight.flatten()[order])


@dataclass(frozen=True)
class _Edges:
    """The hyperedges of each vertex, those of one after those of another."""

    edge: Tensor
    """int64 [V k]."""
    first: Tensor
    """int64 [V]: where those of a vertex begin."""
    weight: Tensor
    """[V k]."""

    def sum(self, rows: Tensor) -> Tensor:
        """Compute H rows: the weighted sum of the rows [V, d] of the hyperedges of each vertex."""
        return F.embedding_bag(self.edge, rows, self.first, mode="sum", per_sample_weights=self.weight)


def nearest(u: Tensor, key: Tensor, real: Tensor, count: int, incidence: Incidence = "binary") -> Hypergraph:
    """The hypergraph of the vertices that are nearest in Euclidean distance of l2-normalised rows.

    Args:
        u: [V, d].
        key: int64 [V]; vertices of one key are the same molecule, and not in each other's hyperedges.
        real: bool [V]; others are in no hyperedge.
        count: k, the vertex itself among them; at most V.
        incidence: ``binary``: H is 1. ``distance``: H is exp(-r^2 / 2 s^2) of the distance r, where s is the mean
            distance of a vertex and another of its hyperedge.
    """
    unit = F.normalize(u.detach(), dim=1)
    members, cosine = _strongest(lambda rows: unit[rows] @ unit.T, key, real, count)
    counted = (cosine > -torch.inf) & real.unsqueeze(1)
    if incidence == "binary":
        return Hypergraph(members, counted.to(u.dtype))
    squared = torch.where(counted, 2.0 - 2.0 * cosine.clamp(-1.0, 1.0), 0.0)
    others = counted.sum() - real.sum()
    mean = squared[:, 1:].sqrt().sum() / others.clamp(min=1)
    similar = torch.exp(-squared / (2.0 * mean.square()).clamp(min=torch.finfo(u.dtype).tiny))
    return Hypergraph(members, torch.where(counted, similar, 0.0))


def random(key: Tensor, real: Tensor, count: int, generator: torch.Generator) -> Hypergraph:
    """A hypergraph of equal degree whose members are drawn; arguments as in :func:`nearest`, H is 1.

    It is the control of :func:`nearest`: what it gives does not come from likeness.
    """
    size = len(key)

    def score(rows: slice) -> Tensor:
        drawn = torch.rand(rows.stop - rows.start, size, generator=generator, device=generator.device)
        return drawn.to(key.device)

    members, found = _strongest(score, key, real, count)
    return Hypergraph(members, ((found > -torch.inf) & real.unsqueeze(1)).to(torch.get_default_dtype()))


def _strongest(score: Callable[[slice], Tensor], key: Tensor, real: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The vertices [V, k] with the largest scores of each, and their scores [V, k]; first itself, with infinity.

    Args:
        score: scores [b, V] of a block of b vertices with all.
        key, real, count: as in :func:`nearest`; a score is -infinity for what is not real, or another of the same key.
    """
    size, found = len(key), []
    for start in range(0, size, ROWS_OF_BLOCK):
        rows = slice(start, min(start + ROWS_OF_BLOCK, size))
        left_out = ~real | (key[rows].unsqueeze(1) == key)
        scores = score(rows).masked_fill(left_out, -torch.inf)
        scores.diagonal(start).fill_(torch.inf)
        found.append(torch.topk(scores, min(count, size), dim=1))
    values, members = (torch.cat(parts) for parts in zip(*found, strict=True))
    return members, values


def _inverse(degree: Tensor) -> Tensor:
    """1 / degree, and 0 for degree 0."""
    return torch.where(degree > 0, 1.0 / degree.clamp(min=torch.finfo(degree.dtype).tiny), 0.0)

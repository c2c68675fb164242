"""Index operations on a batch of molecules: segments, blocks, pairs, radius graphs, hop-limited edges, dense layout.

All are vectorised over the batch; only the cost of :func:`to_dense` depends on the largest molecule. Symbols:
``g`` molecules, ``n`` atoms, ``e`` directed edges, ``p`` unordered atom pairs (i < j).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ATOMS_OF_BLOCK = 768
"""Number of atoms that a CPU processes at a time if molecules are independent: their edges fit into its caches."""


def segment_sum(values: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """Sum the rows of ``values`` [m, ...] with the same ``index`` [m]; returns [num_segments, ...]."""
    return values.new_zeros((num_segments, *values.shape[1:])).index_add(0, index, values)


def segment_mean(values: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """Average the rows of ``values`` [m, ...] with the same ``index`` [m]; zero for a segment without rows."""
    count = torch.bincount(index, minlength=num_segments).clamp(min=1).to(values.dtype)
    return segment_sum(values, index, num_segments) / count.view(-1, *[1] * (values.dim() - 1))


class Incidence:
    """Maps m items to n rows, such as edges to atoms: gathers rows for the items, and sums items per row.

    Each operation is the gradient of the other. Sums are computed row by row in an order that is sorted once, which is
    several times as fast as scatter-add and deterministic on every device. No operation synchronises with the device.

    Args:
        index: int64 [m], row of each item, from 0 to n - 1.
        num_rows: n.
    """

    def __init__(self, index: Tensor, num_rows: int):
        self.index = index
        ascending, self._order = torch.sort(index, stable=True)
        ends = torch.searchsorted(ascending, torch.arange(num_rows + 1, device=index.device))
        self._start = ends[:-1]
        self.degree = ends.diff()
        """int64 [n]: number of items of each row."""

    def gather(self, rows: Tensor) -> Tensor:
        """Gather the row of each item, [m, d] from rows [n, d]."""
        return _Gather.apply(rows, self)

    def sum(self, values: Tensor) -> Tensor:
        """Sum the items of each row, [n, d] from [m, d]; zero for a row without items."""
        return _Sum.apply(values, self)

    def sum_from(self, rows: Tensor, source: "Incidence") -> Tensor:
        """Compute ``self.sum(source.gather(rows))``, [n, d] from rows [n', d], without storing the [m, d] between."""
        return _SumFrom.apply(rows, source, self)

    def summed(self, values: Tensor) -> Tensor:
        """Compute :meth:`sum` without recording a gradient."""
        return F.embedding_bag(self._order, values.detach(), self._start, mode="sum")

    def summed_from(self, rows: Tensor, source: "Incidence") -> Tensor:
        """Compute :meth:`sum_from` without recording a gradient."""
        return F.embedding_bag(source.index.index_select(0, self._order), rows.detach(), self._start, mode="sum")


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, incidence: Incidence) -> Tensor:
        ctx.incidence = incidence
        return rows.index_select(0, incidence.index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.incidence.sum(*gradients), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, incidence: Incidence) -> Tensor:
        ctx.incidence = incidence
        return incidence.summed(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.incidence.gather(*gradients), None


class _SumFrom(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, source: Incidence, target: Incidence) -> Tensor:
        ctx.ends = source, target
        return target.summed_from(rows, source)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        source, target = ctx.ends
        return source.sum_from(*gradients, target), None, None


def blocks_of_atoms(pairs: Tensor, num_nodes: int, blockwise: bool = True) -> tuple[list[int], list[int]]:
    """Split the atoms into consecutive blocks not joined by a pair, of about :data:`ATOMS_OF_BLOCK`; on GPUs into one.

    Args:
        pairs: int64 [2, p] (i < j), ascending in i.
        num_nodes: number of atoms n.
        blockwise: False for a single block on any device.

    Returns:
        The number of atoms and the number of pairs of each block.
    """
    if pairs.device.type != "cpu" or not blockwise:
        return [num_nodes], [pairs.shape[1]]
    atoms = torch.arange(num_nodes)
    reach = atoms.scatter_reduce(0, pairs[0], pairs[1], "amax").cummax(0).values
    ends = (reach == atoms).nonzero().squeeze(1) + 1
    number = (ends - 1) // ATOMS_OF_BLOCK
    ends = ends[torch.cat([number[1:] != number[:-1], number.new_ones(1, dtype=torch.bool)])]
    start = ends.new_zeros(1)
    num_pairs = torch.searchsorted(pairs[0].contiguous(), ends)
    return ends.diff(prepend=start).tolist(), num_pairs.diff(prepend=start).tolist()


def in_float32(values: Tensor) -> Tensor:
    """Convert to at least float32: geometry, SDE coefficients and losses are never computed in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def molecule_pairs(batch: Tensor) -> Tensor:
    """List the unordered atom pairs of each molecule, int64 [2, p] with i < j; ``batch`` [n] must be ascending."""
    atoms = torch.arange(batch.numel(), device=batch.device)
    num_later = torch.searchsorted(batch, batch, right=True) - 1 - atoms
    first, rank = expand(num_later)
    return torch.stack([first, first + 1 + rank])


def radius_pairs(pos: Tensor, batch: Tensor, cutoff: float, max_neighbors: int | None = None) -> tuple[Tensor, Tensor]:
    """List the unordered atom pairs of each molecule at a distance of at most ``cutoff``.

    Args:
        pos: [n, 3] positions in angstrom; the distances are differentiable with respect to them.
        batch: int64 [n], ascending.
        cutoff: largest distance in angstrom.
        max_neighbors: if given, a pair is kept only if each atom is among the other's ``max_neighbors`` nearest.

    Returns:
        The pairs int64 [2, p] (i < j), and their distances [p] in at least float32.
    """
    pairs = molecule_pairs(batch)
    pos = in_float32(pos)
    distance = torch.linalg.vector_norm(pos.index_select(0, pairs[0]) - pos.index_select(0, pairs[1]), dim=-1)
    keep = distance <= cutoff
    if max_neighbors is not None:
        keep &= _mutually_near(pairs, distance.detach(), batch.numel(), max_neighbors)
    kept = keep.nonzero().squeeze(1)
    return pairs.index_select(1, kept), distance.index_select(0, kept)


def extended_edges(edge_index: Tensor, num_nodes: int, max_hops: int) -> Tensor:
    """List the ordered atom pairs at a bond distance of 1 to ``max_hops``, int64 [2, e], sorted by (row, column).

    Breadth-first search from all atoms at once over the sparse bond graph. There are no self loops, and disconnected
    fragments are not joined (specification of MoleculeSDE, section 1.4, where ``max_hops`` is 4).
    """
    row, col = edge_index
    order = torch.argsort(row, stable=True)
    neighbor = col[order]
    degree = torch.bincount(row, minlength=num_nodes)
    start = degree.cumsum(0) - degree
    reached = torch.unique((row * num_nodes + col)[row != col])
    frontier = reached
    for _ in range(max_hops - 1):
        source, last = frontier // num_nodes, frontier % num_nodes
        walk, rank = expand(degree[last])
        target = neighbor[start[last[walk]] + rank]
        pair = source[walk] * num_nodes + target
        pair = torch.unique(pair[source[walk] != target])
        frontier = pair[torch.isin(pair, reached, assume_unique=True, invert=True)]
        reached = torch.cat([reached, frontier]).sort().values
    return torch.stack([reached // num_nodes, reached % num_nodes])


def to_dense(rows: Tensor, slot: Tensor, num_graphs: int, size: int) -> Tensor:
    """Pad atom rows [n, ...] with zeros to [g, size, ...]; ``slot`` [n] is molecule * size + rank of the atom."""
    dense = rows.new_zeros((num_graphs * size, *rows.shape[1:])).index_copy(0, slot, rows)
    return dense.view(num_graphs, size, *rows.shape[1:])


def expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat each item ``counts`` [m] times; returns the items and the number 0, 1, ... of each repetition."""
    item = torch.repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    return item, torch.arange(item.numel(), device=counts.device) - start[item]


def _mutually_near(pairs: Tensor, distance: Tensor, num_nodes: int, max_neighbors: int) -> Tensor:
    """bool [p]: whether each atom of a pair is among the other's ``max_neighbors`` nearest."""
    center = torch.cat([pairs[0], pairs[1]])
    by_distance = torch.argsort(torch.cat([distance, distance]), stable=True)
    order = by_distance[torch.argsort(center[by_distance], stable=True)]
    counts = torch.bincount(center, minlength=num_nodes)
    near = torch.empty_like(center, dtype=torch.bool)
    near[order] = expand(counts)[1] < max_neighbors
    forward, backward = near.chunk(2)
    return forward & backward

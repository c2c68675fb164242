"""The 3D-to-2D score networks of MoleculeSDE: 3D representations and a noised graph in, scores of the graph out.

Formulas: specification of MoleculeSDE, section 5.2. Tensors come and go zero-padded; in between, layers see the rows
of true pairs of atoms: every adjacency channel is symmetric, and its diagonal is never read. Products of matrices run
on rectangles, in buckets of molecules of similar size, and so rows of atoms stand in their slots all the way. Each
channel of a layer has its own sub-networks; they are stacked in one tensor and run as one grouped product. Channels
come first, so that each lies in one piece. Symbols of shapes: ``g`` molecules, ``n`` true atoms, ``m`` slots of the
buckets, ``p`` unordered pairs (i < j), ``F`` width, ``C`` adjacency channels; in a bucket ``b`` molecules with ``s``
slots each (of the whole batch in the padded tensors).
"""

import math
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from molstream.training.models.config import GraphScoreConfig
from molstream.training.models.graph import in_float32, molecule_pairs, to_dense
from molstream.training.models.layers import Blockwise, in_blocks, tanh, xavier_linear
from molstream.training.models.layout import bucketed
from molstream.training.models.schnet import NUM_ATOM_TYPES
from molstream.training.models.symmetry import INVARIANT, Symmetry


def mlp(widths: list[int], activation: type[nn.Module]) -> nn.Sequential:
    """Linear layers of these widths with ``activation`` between them, xavier-uniform."""
    layers: list[nn.Module] = [xavier_linear(widths[0], widths[1])]
    for previous, width in pairwise(widths[1:]):
        layers += [activation(), xavier_linear(previous, width)]
    return nn.Sequential(*layers)


class ColumnMLP(nn.Sequential):
    """An :func:`mlp` of columns, [in, k] to [out, k]."""

    def forward(self, input: Tensor) -> Tensor:
        """Each column by itself."""
        columns = input
        for layer in self:
            if isinstance(layer, nn.Linear):
                columns = torch.addmm(layer.bias.unsqueeze(1), layer.weight, columns)
            else:
                columns = layer(columns)
        return columns


def mask_pairs(pairs: Tensor, flags: Tensor) -> Tensor:
    """``pairs`` [g, s, s, ...] with zero rows and columns where ``flags`` [g, s] is False."""
    both = flags.unsqueeze(1) & flags.unsqueeze(2)
    return pairs * both.view(*both.shape, *[1] * (pairs.dim() - 3))


class AtomPairs:
    """The unordered atom pairs of a batch, and their way to the rectangles of its buckets and back.

    Args:
        batch: int64 [n] molecule of every atom, ascending.
    """

    def __init__(self, batch: Tensor):
        self.layout = bucketed(batch)
        self.index = molecule_pairs(batch)
        """int64 [2, p]: the atoms i < j of every pair."""
        # Ascending in the row they show, the entries of the rectangles begin with the two of every pair.
        order = torch.argsort(self.layout.row_of_entry, stable=True)
        self._entries = order[: self.index.numel()].view(-1, 2).t().contiguous().unbind(0)

    def to_slots(self, rows: Tensor) -> Tensor:
        """[m, d] from atom rows [n, d]."""
        return rows.index_select(0, self.layout.atom_of_slot)

    def to_atoms(self, rows: Tensor) -> Tensor:
        """Atom rows [n, d] from [m, d]."""
        return rows.index_select(0, self.layout.slot_of_atom)

    def buckets(self, rows: Tensor) -> list[Tensor]:
        """Each bucket's part [C, b, s, d] of rows [C, m, d]."""
        parts = rows.split([bucket.num_molecules * bucket.size for bucket in self.layout.buckets], dim=1)
        return [part.unflatten(1, bucket) for part, bucket in zip(parts, self.layout.buckets, strict=True)]

    def to_matrices(self, values: Tensor) -> list[Tensor]:
        """Each bucket's symmetric matrices [C, b, s, s] of pair values [C, p], with a diagonal of ones."""
        channels = len(values)
        table = torch.cat([values, values.new_ones(channels, 1), values.new_zeros(channels, 1)], dim=1)
        entries = table.index_select(1, self.layout.row_of_entry)
        parts = entries.split([bucket.num_molecules * bucket.size**2 for bucket in self.layout.buckets], dim=1)
        return [
            part.view(channels, bucket.num_molecules, bucket.size, bucket.size)
            for part, bucket in zip(parts, self.layout.buckets, strict=True)
        ]

    def from_matrices(self, parts: list[Tensor]) -> Tensor:
        """Pair values [C, p], the mean of both entries of a pair in each bucket's matrices [C, b, s, s]."""
        entries = torch.cat([part.flatten(1) for part in parts], dim=1)
        first, second = self._entries
        return 0.5 * (entries.index_select(1, first) + entries.index_select(1, second))


class GroupedLinear(nn.Module):
    """One linear layer per channel: [C, m, in] to [C, m, out]; an input [m, in] is shared by all channels."""

    def __init__(self, num_channels: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_channels, in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(num_channels, out_features))
        for channel in self.weight.detach():
            nn.init.xavier_uniform_(channel)

    def forward(self, x: Tensor) -> Tensor:
        """Each channel by its own weight."""
        if x.dim() == 2:
            rows = torch.addmm(self.bias.flatten(), x, self.weight.transpose(0, 1).flatten(1))
            return rows.unflatten(1, self.bias.shape).transpose(0, 1)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight)


class GCN(nn.Module):
    """y_k = D_k^-1/2 A_k' D_k^-1/2 (x W_k) + b_k per channel k, A' = A with unit diagonal, D = clamp(row sums, 1).

    Noised adjacencies have negative entries; the clamp keeps the root real.
    """

    def __init__(self, num_channels: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_channels, in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(num_channels, out_features))
        for channel in self.weight.detach():
            nn.init.xavier_uniform_(channel)

    def forward(self, x: Tensor, adj: Tensor, pairs: AtomPairs) -> Tensor:
        """[m, C * out] from rows [m, in] and adjacency channels [C, p]."""
        projected = (x @ self.weight.transpose(0, 1).flatten(1)).unflatten(1, self.bias.shape).transpose(0, 1)
        outputs = []
        for matrix, rows in zip(pairs.to_matrices(in_float32(adj)), pairs.buckets(projected), strict=True):
            scale = matrix.sum(3, keepdim=True).clamp(min=1.0).rsqrt()
            product = scale * (matrix.to(rows.dtype) @ (scale * rows).to(rows.dtype))
            outputs.append(product.permute(1, 2, 0, 3).flatten(2).flatten(0, 1))
        return torch.cat(outputs).to(projected.dtype) + self.bias.flatten()


class AdjacencyLayer(nn.Module):
    """Attention maps of every channel, mixed per atom pair; the symmetric adjacency channels of the next layer."""

    def __init__(self, in_features: int, hidden: int, num_heads: int, in_channels: int, out_channels: int):
        super().__init__()
        self.slice_width = hidden // num_heads
        self.query_in, self.key_in = (GroupedLinear(in_channels, in_features, 2 * hidden) for _ in range(2))
        self.query_out, self.key_out = (GroupedLinear(in_channels, 2 * hidden, 2 * hidden) for _ in range(2))
        self.value = GCN(in_channels, in_features, hidden)
        mixed = 2 * max(in_channels, out_channels)
        self.atoms = mlp([hidden * in_channels, mixed, hidden], nn.ELU)
        self.pairs = ColumnMLP(*mlp([2 * in_channels, mixed, mixed, out_channels], nn.ELU))

    def new_rows(self, x: Tensor, adj: Tensor, pairs: AtomPairs) -> Tensor:
        """[m, hidden] from [m, F] and adjacency channels [C, p]."""
        return torch.tanh(self.atoms(self.value(x, adj, pairs)))

    def new_channels(self, x: Tensor, adj: Tensor, pairs: AtomPairs) -> Tensor:
        """Adjacency channels [C', p] from rows [m, F] and channels [C, p]."""
        return 2.0 * self.pairs(torch.cat([self._attention(x, pairs), adj]))  # A' + A'^T of a symmetric A'

    def _attention(self, x: Tensor, pairs: AtomPairs) -> Tensor:
        """Symmetrised mean over slices of tanh(Q K^T / 2) per channel, [C, p].

        Q and K are twice as wide as ``hidden``, so there are twice as many slices as heads (specification 8.2 #6).
        The root of the slice width is the 2.
        """
        query = self.query_out(tanh(self.query_in(x))) / math.sqrt(self.slice_width)
        key = self.key_out(tanh(self.key_in(x)))
        in_slices = lambda rows: rows.unflatten(3, (-1, self.slice_width)).transpose(2, 3)  # noqa: E731
        padded = zip(pairs.buckets(query), pairs.buckets(key), strict=True)
        return pairs.from_matrices([tanh(in_slices(q) @ in_slices(k).mT).mean(2) for q, k in padded])


class AdjacencyScore(Blockwise):
    """m_A [p] from rows, the noised adjacency and its square; 151,561 parameters at the paper's sizes.

    The last layer's atom rows feed nothing, as in the original: their parameters exist only for parity.
    """

    def __init__(self, config: GraphScoreConfig, in_features: int):
        super().__init__()
        widths = [in_features] + [config.hidden] * config.num_layers
        channels = [2] + [config.hidden_channels] * (config.num_layers - 1) + [config.final_channels]
        self.layers = nn.ModuleList(
            AdjacencyLayer(width, config.hidden, config.num_heads, before, after)
            for width, (before, after) in zip(widths, pairwise(channels))
        )
        self.final = ColumnMLP(*mlp([sum(channels), 2 * sum(channels), 2 * sum(channels), 1], nn.SiLU))

    def forward(self, x: Tensor, adj: Tensor, pairs: AtomPairs) -> Tensor:
        """One value per pair, from [m, F] and the two channels [2, p]."""
        adj = adj.to(x.dtype)
        collected = [adj]
        for layer in self.layers[:-1]:
            assert isinstance(layer, AdjacencyLayer)
            x, adj = layer.new_rows(x, adj, pairs), layer.new_channels(x, adj, pairs)
            collected.append(adj.to(collected[0].dtype))
        last = self.layers[-1]
        assert isinstance(last, AdjacencyLayer)
        collected.append(last.new_channels(x, adj, pairs).to(collected[0].dtype))
        # Zero times the unread parameters: every one gets a gradient, as data-parallel reductions expect.
        unread = [*last.value.parameters(), *last.atoms.parameters()]
        rest = 0.0 * torch.stack([parameter.sum() for parameter in unread]).sum()
        return in_blocks(self.final, torch.cat(collected), 1, self.blockwise).squeeze(0) + rest


class NodeScore(Blockwise):
    """m_X [n, atom types] from atom rows and the noised adjacency; 888,815 parameters at the paper's sizes."""

    def __init__(self, config: GraphScoreConfig, in_features: int, num_atom_types: int):
        super().__init__()
        widths = [in_features] + [config.hidden] * config.num_layers
        self.layers = nn.ModuleList(GCN(1, before, after) for before, after in pairwise(widths))
        self.final = mlp([sum(widths), 2 * sum(widths), 2 * sum(widths), num_atom_types], nn.SiLU)

    def forward(self, x: Tensor, adj: Tensor, pairs: AtomPairs) -> Tensor:
        """From rows [m, F] and the one channel [1, p]."""
        collected = [x]
        for layer in self.layers:
            x = torch.tanh(layer(x, adj, pairs))
            collected.append(x.to(collected[0].dtype))
        return in_blocks(self.final, pairs.to_atoms(torch.cat(collected, dim=1)), 0, self.blockwise)


class GraphScore(nn.Module):
    """Both networks on H = Linear(z3) + Linear(X_t); score = -m / std. 1,166,676 parameters at the paper's sizes.

    Permutation equivariant; invariant under every motion if the 3D encoder is. It takes no time. Padding neither costs
    nor leaks into atoms whose flag is set.
    """

    symmetry: ClassVar[Symmetry] = INVARIANT

    def __init__(self, config: GraphScoreConfig, hidden_3d: int, num_atom_types: int = NUM_ATOM_TYPES):
        super().__init__()
        self.embed_3d = xavier_linear(hidden_3d, hidden_3d)
        self.embed_types = xavier_linear(num_atom_types, hidden_3d)
        self.adjacency = AdjacencyScore(config, hidden_3d)
        self.node = NodeScore(config, hidden_3d, num_atom_types)

    def forward(self, z: Tensor, x: Tensor, adj: Tensor, flags: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions for the atom types and for the adjacency.

        Args:
            z: [g, s, hidden_3d] representations of the 3D encoder, zero-padded.
            x: [g, s, atom types] noised one-hot atom types.
            adj: [g, s, s] noised symmetric adjacency, zero where ``flags`` is False.
            flags: bool [g, s], False for padding.

        Returns:
            m_X [g, s, atom types], and m_A [g, s, s], which is symmetric with zero diagonal.
        """
        num_graphs, size = flags.shape
        slot = flags.flatten().nonzero().squeeze(1)
        if slot.numel() == 0:  # one padded atom stands in, so that every module runs whatever the batch
            slot = slot.new_zeros(1)
        pairs = AtomPairs(slot // size)
        i, j = slot[pairs.index]
        entry, mirrored = i * size + j % size, j * size + i % size
        channels = torch.stack([adj, adj @ adj], dim=3).flatten(0, 2).index_select(0, entry).t().contiguous()
        weights = self.embed_types.weight.dtype
        z_rows, x_rows = (part.flatten(0, 1).index_select(0, slot).to(weights) for part in (z, x))
        h = pairs.to_slots(self.embed_3d(z_rows) + self.embed_types(x_rows))
        m_x = to_dense(self.node(h, channels[:1], pairs), slot, num_graphs, size) * flags.unsqueeze(2)
        values = self.adjacency(h, channels, pairs)
        m_adj = values.new_zeros(adj.numel()).index_copy(0, entry, values).index_copy(0, mirrored, values)
        return m_x, m_adj.view_as(adj)

"""3D-to-2D score networks of MoleculeSDE: predict the scores of a noised graph from 3D representations.

Formulas: specification of MoleculeSDE, section 5.2. Inputs and outputs are zero-padded; in between, layers process the
rows of true atom pairs: every adjacency channel is symmetric, and its diagonal is never read. Matrix products run on
rectangles, in buckets of molecules of similar size, so rows of atoms stay in their slots throughout. Each channel of a
layer has its own sub-networks; they are stacked in one tensor and run as one grouped product. Channels are the first
dimension, so that each is contiguous. Symbols of shapes: ``g`` molecules, ``n`` true atoms, ``m`` slots of the buckets,
``p`` unordered pairs (i < j), ``F`` width, ``C`` adjacency channels; in a bucket ``b`` molecules with ``s`` slots each
(of the whole batch in the padded tensors).
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
    """Create linear layers of these widths, xavier-uniform, with ``activation`` between them."""
    layers: list[nn.Module] = [xavier_linear(widths[0], widths[1])]
    for previous, width in pairwise(widths[1:]):
        layers += [activation(), xavier_linear(previous, width)]
    return nn.Sequential(*layers)


class ColumnMLP(nn.Sequential):
    """An :func:`mlp` applied to columns, [in, k] to [out, k]."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the MLP to each column separately."""
        columns = input
        for layer in self:
            if isinstance(layer, nn.Linear):
                columns = torch.addmm(layer.bias.unsqueeze(1), layer.weight, columns)
            else:
                columns = layer(columns)
        return columns


def mask_pairs(pairs: Tensor, flags: Tensor) -> Tensor:
    """Zero the rows and columns of ``pairs`` [g, s, s, ...] where ``flags`` [g, s] is False."""
    both = flags.unsqueeze(1) & flags.unsqueeze(2)
    return pairs * both.view(*both.shape, *[1] * (pairs.dim() - 3))


class AtomPairs:
    """Unordered atom pairs of a batch, and their conversion to and from the rectangles of its buckets.

    Args:
        batch: int64 [n] molecule of each atom, ascending.
    """

    def __init__(self, batch: Tensor):
        self.layout = bucketed(batch)
        self.index = molecule_pairs(batch)
        """int64 [2, p]: atoms i < j of each pair."""
        # Sorted by row, the entries of the rectangles start with the two entries of each pair.
        order = torch.argsort(self.layout.row_of_entry, stable=True)
        self._entries = order[: self.index.numel()].view(-1, 2).t().contiguous().unbind(0)

    def to_slots(self, rows: Tensor) -> Tensor:
        """Convert atom rows [n, d] to rows of slots [m, d]."""
        return rows.index_select(0, self.layout.atom_of_slot)

    def to_atoms(self, rows: Tensor) -> Tensor:
        """Convert rows of slots [m, d] to atom rows [n, d]."""
        return rows.index_select(0, self.layout.slot_of_atom)

    def buckets(self, rows: Tensor) -> list[Tensor]:
        """Split rows [C, m, d] into the buckets' parts [C, b, s, d]."""
        parts = rows.split([bucket.num_molecules * bucket.size for bucket in self.layout.buckets], dim=1)
        return [part.unflatten(1, bucket) for part, bucket in zip(parts, self.layout.buckets, strict=True)]

    def to_matrices(self, values: Tensor) -> list[Tensor]:
        """Convert pair values [C, p] to the buckets' symmetric matrices [C, b, s, s], with a diagonal of ones."""
        channels = len(values)
        table = torch.cat([values, values.new_ones(channels, 1), values.new_zeros(channels, 1)], dim=1)
        entries = table.index_select(1, self.layout.row_of_entry)
        parts = entries.split([bucket.num_molecules * bucket.size**2 for bucket in self.layout.buckets], dim=1)
        return [
            part.view(channels, bucket.num_molecules, bucket.size, bucket.size)
            for part, bucket in zip(parts, self.layout.buckets, strict=True)
        ]

    def from_matrices(self, parts: list[Tensor]) -> Tensor:
        """Convert the buckets' matrices [C, b, s, s] to pair values [C, p]: the mean of both entries of a pair."""
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
        """Multiply each channel by its own weight."""
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
        """Compute rows [m, C * out] from rows [m, in] and adjacency channels [C, p]."""
        projected = (x @ self.weight.transpose(0, 1).flatten(1)).unflatten(1, self.bias.shape).transpose(0, 1)
        outputs = []
        for matrix, rows in zip(pairs.to_matrices(in_float32(adj)), pairs.buckets(projected), strict=True):
            scale = matrix.sum(3, keepdim=True).clamp(min=1.0).rsqrt()
            product = scale * (matrix.to(rows.dtype) @ (scale * rows).to(rows.dtype))
            outputs.append(product.permute(1, 2, 0, 3).flatten(2).flatten(0, 1))
        return torch.cat(outputs).to(projected.dtype) + self.bias.flatten()


class AdjacencyLayer(nn.Module):
    """Computes the next layer's symmetric adjacency channels: attention maps of all channels, mixed per atom pair."""

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
        """Compute rows [m, hidden] from rows [m, F] and adjacency channels [C, p]."""
        return torch.tanh(self.atoms(self.value(x, adj, pairs)))

    def new_channels(self, x: Tensor, adj: Tensor, pairs: AtomPairs) -> Tensor:
        """Compute adjacency channels [C', p] from rows [m, F] and channels [C, p]."""
        return 2.0 * self.pairs(torch.cat([self._attention(x, pairs), adj]))  # A' + A'^T of a symmetric A'

    def _attention(self, x: Tensor, pairs: AtomPairs) -> Tensor:
        """Symmetrised mean over slices of tanh(Q K^T / 2) per channel, [C, p].

        Q and K are twice as wide as ``hidden``, so there are twice as many slices as heads (specification 8.2 #6).
        The divisor 2 is the square root of the slice width.
        """
        query = self.query_out(tanh(self.query_in(x))) / math.sqrt(self.slice_width)
        key = self.key_out(tanh(self.key_in(x)))
        in_slices = lambda rows: rows.unflatten(3, (-1, self.slice_width)).transpose(2, 3)  # noqa: E731
        padded = zip(pairs.buckets(query), pairs.buckets(key), strict=True)
        return pairs.from_matrices([tanh(in_slices(q) @ in_slices(k).mT).mean(2) for q, k in padded])


class AdjacencyScore(Blockwise):
    """m_A [p] from rows, the noised adjacency and its square; 151,561 parameters at the paper's sizes.

    The last layer's atom rows are unused, as in the original: their parameters exist only for parity.
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
        """Compute one value per pair, [p], from rows [m, F] and the two channels [2, p]."""
        adj = adj.to(x.dtype)
        collected = [adj]
        for layer in self.layers[:-1]:
            assert isinstance(layer, AdjacencyLayer)
            x, adj = layer.new_rows(x, adj, pairs), layer.new_channels(x, adj, pairs)
            collected.append(adj.to(collected[0].dtype))
        last = self.layers[-1]
        assert isinstance(last, AdjacencyLayer)
        collected.append(last.new_channels(x, adj, pairs).to(collected[0].dtype))
        # Adds zero times the unused parameters, so that all get a gradient, as data-parallel reductions expect.
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
        """Compute m_X from rows [m, F] and the single channel [1, p]."""
        collected = [x]
        for layer in self.layers:
            x = torch.tanh(layer(x, adj, pairs))
            collected.append(x.to(collected[0].dtype))
        return in_blocks(self.final, pairs.to_atoms(torch.cat(collected, dim=1)), 0, self.blockwise)


class GraphScore(nn.Module):
    """Both networks on H = Linear(z3) + Linear(X_t); score = -m / std. 1,166,676 parameters at the paper's sizes.

    It is permutation equivariant, and invariant under motions if the 3D encoder is. It does not take the diffusion
    time. Padding is neither computed nor mixed into true atoms.
    """

    symmetry: ClassVar[Symmetry] = INVARIANT

    def __init__(self, config: GraphScoreConfig, hidden_3d: int, num_atom_types: int = NUM_ATOM_TYPES):
        super().__init__()
        self.embed_3d = xavier_linear(hidden_3d, hidden_3d)
        self.embed_types = xavier_linear(num_atom_types, hidden_3d)
        self.adjacency = AdjacencyScore(config, hidden_3d)
        self.node = NodeScore(config, hidden_3d, num_atom_types)

    def forward(self, z: Tensor, x: Tensor, adj: Tensor, flags: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the noise of atom types and adjacency.

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
        if slot.numel() == 0:  # a padded atom is added, so that every module runs
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

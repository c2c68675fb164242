"""The 3D-to-2D score networks of MoleculeSDE: 3D representations and a noised graph in, scores of the graph out.

Formulas: specification of MoleculeSDE, section 5.2. Dense zero-padded layout; symbols of shapes: ``g`` molecules,
``s`` atoms of the largest one, ``F`` width, ``C`` adjacency channels. Each channel of a layer has its own sub-networks;
they are stacked in one tensor and run as one grouped product.
"""

import math
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.models.config import GraphScoreConfig
from training.models.graph import in_float32, to_dense
from training.models.layers import xavier_linear
from training.models.schnet import NUM_ATOM_TYPES
from training.models.symmetry import INVARIANT, Symmetry


def mlp(widths: list[int], activation: type[nn.Module]) -> nn.Sequential:
    """Linear layers of these widths with ``activation`` between them, xavier-uniform."""
    layers: list[nn.Module] = [xavier_linear(widths[0], widths[1])]
    for previous, width in pairwise(widths[1:]):
        layers += [activation(), xavier_linear(previous, width)]
    return nn.Sequential(*layers)


def mask_pairs(pairs: Tensor, flags: Tensor) -> Tensor:
    """``pairs`` [g, s, s, ...] with zero rows and columns where ``flags`` [g, s] is False."""
    both = flags.unsqueeze(1) & flags.unsqueeze(2)
    return pairs * both.view(*both.shape, *[1] * (pairs.dim() - 3))


class GroupedLinear(nn.Module):
    """One linear layer per channel: [g, s, C, in] to [g, s, C, out]; C = 1 in the input broadcasts."""

    def __init__(self, num_channels: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_channels, in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(num_channels, out_features))
        for channel in self.weight.detach():
            nn.init.xavier_uniform_(channel)

    def forward(self, x: Tensor) -> Tensor:
        """Each channel by its own weight."""
        x = x.expand(*x.shape[:2], self.weight.shape[0], x.shape[3])
        return torch.einsum("gsci,cio->gsco", x, self.weight) + self.bias


class DenseGCN(nn.Module):
    """y_k = D_k^-1/2 A_k' D_k^-1/2 (x W_k) + b_k per channel k, A' = A with unit diagonal, D = clamp(row sums, 1).

    Noised adjacencies have negative entries; the clamp keeps the root real.
    """

    def __init__(self, num_channels: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_channels, in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(num_channels, out_features))
        for channel in self.weight.detach():
            nn.init.xavier_uniform_(channel)

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        """[g, C, s, out] from atom rows [g, s, in] and adjacencies [g, C, s, s]."""
        diagonal = torch.eye(adj.shape[-1], dtype=torch.bool, device=adj.device)
        adj = in_float32(adj).masked_fill(diagonal, 1.0)
        scale = adj.sum(-1).clamp(min=1.0).rsqrt()
        adj = scale.unsqueeze(-1) * adj * scale.unsqueeze(-2)
        projected = torch.einsum("gsi,cio->gcso", x, self.weight)
        return adj.to(projected.dtype) @ projected + self.bias.unsqueeze(1)


class AdjacencyLayer(nn.Module):
    """Attention maps of every channel, mixed per atom pair; the symmetric adjacency channels of the next layer."""

    def __init__(self, in_features: int, hidden: int, num_heads: int, in_channels: int, out_channels: int):
        super().__init__()
        self.slice_width = hidden // num_heads
        self.query_in, self.key_in = (GroupedLinear(in_channels, in_features, 2 * hidden) for _ in range(2))
        self.query_out, self.key_out = (GroupedLinear(in_channels, 2 * hidden, 2 * hidden) for _ in range(2))
        self.value = DenseGCN(in_channels, in_features, hidden)
        mixed = 2 * max(in_channels, out_channels)
        self.atoms = mlp([hidden * in_channels, mixed, hidden], nn.ELU)
        self.pairs = mlp([2 * in_channels, mixed, mixed, out_channels], nn.ELU)

    def forward(self, x: Tensor, adj: Tensor, flags: Tensor) -> tuple[Tensor, Tensor]:
        """New atom rows [g, s, hidden] and adjacency channels [g, s, s, C'] from [g, s, F] and [g, s, s, C]."""
        channels_first = adj.permute(0, 3, 1, 2)
        values = self.value(x, channels_first).permute(0, 2, 1, 3).flatten(2)
        new_x = torch.tanh(self.atoms(values) * flags.unsqueeze(2))
        pairs = self.pairs(torch.cat([self._attention(x), adj], dim=3))
        return new_x, mask_pairs(pairs + pairs.transpose(1, 2), flags)

    def _attention(self, x: Tensor) -> Tensor:
        """Symmetrised mean over slices of tanh(Q K^T / 2) per channel, [g, s, s, C].

        Q and K are twice as wide as ``hidden``, so there are twice as many slices as heads (specification 8.2 #6).
        The root of the slice width is the 2.
        """
        x = x.unsqueeze(2)
        query, key = self.query_out(torch.tanh(self.query_in(x))), self.key_out(torch.tanh(self.key_in(x)))
        query, key = (part.unflatten(3, (-1, self.slice_width)).permute(0, 2, 3, 1, 4) for part in (query, key))
        maps = torch.tanh(query @ key.transpose(3, 4) / math.sqrt(self.slice_width)).mean(2)
        return (0.5 * (maps + maps.transpose(2, 3))).permute(0, 2, 3, 1)


class AdjacencyScore(nn.Module):
    """m_A [g, s, s] from atom rows and the noised adjacency; 151,561 parameters at the paper's sizes.

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
        self.final = mlp([sum(channels), 2 * sum(channels), 2 * sum(channels), 1], nn.SiLU)

    def forward(self, x: Tensor, adj: Tensor, flags: Tensor) -> Tensor:
        """Symmetric with zero diagonal, zero where ``flags`` is False."""
        channels = torch.stack([adj, adj @ adj], dim=3).to(x.dtype)
        collected = [channels]
        for layer in self.layers:
            x, channels = layer(x, channels, flags)
            collected.append(channels.to(collected[0].dtype))
        output = self.final(torch.cat(collected, dim=3)).squeeze(3)
        # Zero times the unread atom rows: every parameter gets a gradient, as data-parallel reductions expect.
        output = output + 0.0 * x.sum()
        off_diagonal = ~torch.eye(adj.shape[-1], dtype=torch.bool, device=adj.device)
        return mask_pairs(output * off_diagonal, flags)


class NodeScore(nn.Module):
    """m_X [g, s, atom types] from atom rows and the noised adjacency; 888,815 parameters at the paper's sizes."""

    def __init__(self, config: GraphScoreConfig, in_features: int, num_atom_types: int):
        super().__init__()
        widths = [in_features] + [config.hidden] * config.num_layers
        self.layers = nn.ModuleList(DenseGCN(1, before, after) for before, after in pairwise(widths))
        self.final = mlp([sum(widths), 2 * sum(widths), 2 * sum(widths), num_atom_types], nn.SiLU)

    def forward(self, x: Tensor, adj: Tensor, flags: Tensor) -> Tensor:
        """Zero where ``flags`` is False."""
        collected = [x]
        for layer in self.layers:
            x = torch.tanh(layer(x, adj.unsqueeze(1)).squeeze(1))
            collected.append(x.to(collected[0].dtype))
        # The last network is most of the work and sees one atom at a time: padding is left out of it.
        slot = flags.flatten().nonzero().squeeze(1)
        rows = torch.cat(collected, dim=2).flatten(0, 1).index_select(0, slot)
        return to_dense(self.final(rows), slot, *flags.shape)


class GraphScore(nn.Module):
    """Both networks on H = Linear(z3) + Linear(X_t); score = -m / std. 1,166,676 parameters at the paper's sizes.

    Permutation equivariant; invariant under every motion if the 3D encoder is. It takes no time. Padding does not
    leak into atoms whose flag is set.
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
            adj: [g, s, s] noised symmetric adjacency.
            flags: bool [g, s], False for padding.

        Returns:
            m_X [g, s, atom types] and m_A [g, s, s].
        """
        weights = self.embed_types.weight.dtype
        h = self.embed_3d(z.to(weights)) + self.embed_types(x.to(weights))
        return self.node(h, adj, flags), self.adjacency(h, adj, flags)

"""The graph from positions (5.2)."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch_geometric.nn import DenseGCNConv

from molstream.training.models.config import GraphScoreConfig
from molstream.training.models.schnet import NUM_ATOM_TYPES

from .layers import perceptron


def mask_atoms(x: Tensor, flags: Tensor) -> Tensor:
    return x * flags.unsqueeze(2)


def mask_pairs(pairs: Tensor, flags: Tensor) -> Tensor:
    """Rows and columns [g, s, s, ...]."""
    both = flags.unsqueeze(1) * flags.unsqueeze(2)
    return pairs * (both if pairs.dim() == 3 else both.unsqueeze(3))


class Channel(nn.Module):
    """What a layer does with one of its adjacency channels."""

    def __init__(self, in_features: int, hidden: int, num_heads: int):
        super().__init__()
        self.width = hidden // num_heads
        self.query = perceptron([in_features, 2 * hidden, 2 * hidden], nn.Tanh)
        self.key = perceptron([in_features, 2 * hidden, 2 * hidden], nn.Tanh)
        self.value = DenseGCNConv(in_features, hidden)

    def forward(self, x: Tensor, adj: Tensor) -> tuple[Tensor, Tensor]:
        """V_k [g, s, hidden] and S_k [g, s, s]."""
        query, key = (part.unflatten(2, (-1, self.width)).transpose(1, 2) for part in (self.query(x), self.key(x)))
        maps = torch.tanh(query @ key.transpose(2, 3) / math.sqrt(self.width)).mean(1)
        return self.value(x, adj), (maps + maps.transpose(1, 2)) / 2


class AdjacencyLayer(nn.Module):
    def __init__(self, in_features: int, hidden: int, num_heads: int, before: int, after: int):
        super().__init__()
        self.channels = nn.ModuleList(Channel(in_features, hidden, num_heads) for _ in range(before))
        hd = 2 * max(before, after)
        self.atoms = perceptron([hidden * before, hd, hidden], nn.ELU)
        self.pairs = perceptron([2 * before, hd, hd, after], nn.ELU)

    def forward(self, x: Tensor, adj: Tensor, flags: Tensor) -> tuple[Tensor, Tensor]:
        """x' [g, s, hidden] and A' [g, s, s, after]."""
        results = [channel(x, A_k) for channel, A_k in zip(self.channels, adj.unbind(3), strict=True)]
        values, maps = zip(*results, strict=True)
        new_x = torch.tanh(mask_atoms(self.atoms(torch.cat(values, dim=2)), flags))
        pairs = self.pairs(torch.cat([torch.stack(maps, dim=3), adj], dim=3))
        return new_x, mask_pairs(pairs + pairs.transpose(1, 2), flags)


class AdjacencyScore(nn.Module):
    def __init__(self, config: GraphScoreConfig, in_features: int):
        super().__init__()
        widths = [in_features] + [config.hidden] * (config.num_layers - 1)
        channels = [2] + [config.hidden_channels] * (config.num_layers - 1) + [config.final_channels]
        self.layers = nn.ModuleList(
            AdjacencyLayer(width, config.hidden, config.num_heads, before, after)
            for width, (before, after) in zip(widths, pairwise(channels), strict=True)
        )
        self.final = perceptron([sum(channels), 2 * sum(channels), 2 * sum(channels), 1], nn.SiLU)

    def forward(self, x: Tensor, adj: Tensor, flags: Tensor) -> Tensor:
        channels = torch.stack([adj, adj @ adj], dim=3)
        collected = [channels]
        for layer in self.layers:
            x, channels = layer(x, channels, flags)
            collected.append(channels)
        output = self.final(torch.cat(collected, dim=3)).squeeze(3)
        return mask_pairs(output * (1 - torch.eye(adj.shape[1], dtype=adj.dtype)), flags)


class NodeScore(nn.Module):
    def __init__(self, config: GraphScoreConfig, in_features: int):
        super().__init__()
        widths = [in_features] + [config.hidden] * config.num_layers
        self.layers = nn.ModuleList(DenseGCNConv(before, after) for before, after in pairwise(widths))
        self.final = perceptron([sum(widths), 2 * sum(widths), 2 * sum(widths), NUM_ATOM_TYPES], nn.SiLU)

    def forward(self, x: Tensor, adj: Tensor, flags: Tensor) -> Tensor:
        collected = [x]
        for layer in self.layers:
            x = torch.tanh(layer(x, adj))
            collected.append(x)
        return mask_atoms(self.final(torch.cat(collected, dim=2)), flags)


class GraphScore(nn.Module):
    def __init__(self, config: GraphScoreConfig, hidden_3d: int):
        super().__init__()
        self.embed_3d = nn.Linear(hidden_3d, hidden_3d)
        self.embed_types = nn.Linear(NUM_ATOM_TYPES, hidden_3d)
        self.adjacency = AdjacencyScore(config, hidden_3d)
        self.node = NodeScore(config, hidden_3d)

    def forward(self, z: Tensor, x: Tensor, adj: Tensor, flags: Tensor) -> tuple[Tensor, Tensor]:
        """m_X and m_A."""
        h = self.embed_3d(z) + self.embed_types(x)
        return self.node(h, adj, flags), self.adjacency(h, adj, flags)

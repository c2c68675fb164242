"""Positions from the graph (4.3): the network, and its edges (1.4)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import TransformerConv
from torch_geometric.utils import dense_to_sparse, scatter, to_dense_adj, to_dense_batch

from molstream.training.models.config import PositionScoreConfig

from .layers import perceptron

EPS = 1e-6


def extended_edges(edge_index: Tensor, batch: Tensor) -> Tensor:
    """Squaring the adjacency twice gives the ordered pairs at distance 1 to 4, [2, e] (section 1.4)."""
    adj = to_dense_adj(edge_index, batch)
    different = 1 - torch.eye(adj.shape[1])
    for _ in range(2):
        adj = ((adj + adj @ adj) * different > 0).float()
    _, mask = to_dense_batch(batch, batch)
    return dense_to_sparse(adj, mask)[0]


class Fourier(nn.Module):
    """[sin(2 pi W s), cos(2 pi W s)], [e, 2 d]."""

    frequencies: Tensor

    def __init__(self, hidden: int):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(hidden))

    def forward(self, scalar: Tensor) -> Tensor:
        angle = 2 * math.pi * scalar.unsqueeze(1) * self.frequencies
        return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)


class FrameEmbedding(nn.Module):
    """Steps 4 to 7."""

    def __init__(self, hidden: int):
        super().__init__()
        self.fourier = Fourier(hidden)
        self.coordinates = nn.Linear(4 * hidden, hidden)
        self.mlp = perceptron([2 * hidden + 2, hidden, hidden], nn.SiLU)

    def forward(self, pos: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        """f [e, d], and the frames [e, 3, 3] with rows e1, e2, e3."""
        p_r, p_c = pos[edge_index[0]], pos[edge_index[1]]
        difference, cross = p_r - p_c, torch.linalg.cross(p_r, p_c)
        e1 = difference / (length(difference) + EPS)
        e2 = cross / (length(cross) + EPS)
        e3 = torch.linalg.cross(e1, e2)
        basis = torch.stack([e1, e2, e3], dim=1)
        coef_r, coef_c = ((basis @ p.unsqueeze(2)).squeeze(2) for p in (p_r, p_c))
        coef_r, coef_c = (torch.stack([c[:, 0], c[:, 1].abs(), c[:, 2]], dim=1) for c in (coef_r, coef_c))
        cos = (coef_r * coef_c).sum(1, keepdim=True) / ((length(coef_r) + EPS) * (length(coef_c) + EPS))
        sin = length(cross) / ((length(p_r) + EPS) * (length(p_c) + EPS))
        u_r, u_c = (
            self.coordinates(torch.cat([self.fourier(c[:, 0]), self.fourier(c[:, 2])], dim=1)) for c in (coef_r, coef_c)
        )
        return self.mlp(torch.cat([sin, cos, u_r, u_c], dim=1)), basis


def length(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=1, keepdim=True)


class AttentionLayer(nn.Module):
    """Step 10, first point."""

    def __init__(self, config: PositionScoreConfig):
        super().__init__()
        hidden, heads = config.hidden, config.num_heads
        self.dropout = config.dropout
        self.conv = TransformerConv(hidden, hidden // heads, heads=heads, edge_dim=hidden, dropout=config.dropout)
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.feed_in, self.feed_out = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        x = x + self.norm_attention(self.conv(x, edge_index, edge_attr))
        fed = F.dropout(F.silu(self.feed_in(x)), self.dropout, self.training)
        return x + self.norm_feed_forward(self.feed_out(fed))


class Block(nn.Module):
    def __init__(self, config: PositionScoreConfig):
        super().__init__()
        self.layers = nn.ModuleList(AttentionLayer(config) for _ in range(config.num_layers))
        self.readout = perceptron([2 * config.hidden, config.readout_hidden, 3], nn.SiLU)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            x = layer(x, edge_index, edge_attr)
            x = F.silu(x) if layer is not self.layers[-1] else x
        r, c = edge_index
        w = self.readout(torch.cat([x[r] + x[c], edge_attr], dim=1))
        vectors = w[:, 0:1] * basis[:, 0] + w[:, 1:2] * basis[:, 1] + w[:, 2:3] * basis[:, 2]
        return x, scatter(vectors, c, dim_size=x.shape[0], reduce="mean")


class PositionScore(nn.Module):
    """Variants ``01`` (without ``distance``) and ``02``."""

    def __init__(self, config: PositionScoreConfig, hidden_2d: int, variant: str):
        super().__init__()
        self.edge_in = nn.Linear(2 * hidden_2d, config.edge_hidden)
        self.edge_norm = nn.BatchNorm1d(config.edge_hidden)
        self.edge_out = nn.Linear(config.edge_hidden, config.hidden)
        self.frame = FrameEmbedding(config.hidden)
        self.fourier = Fourier(config.hidden) if variant == "02" else None
        self.distance = nn.Linear(2 * config.hidden, config.hidden) if variant == "02" else None
        self.node = nn.Linear(hidden_2d, config.hidden)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))

    def forward(self, z: Tensor, pos: Tensor, edge_index: Tensor) -> Tensor:
        r, c = edge_index
        q = self.edge_out(F.relu(self.edge_norm(self.edge_in(torch.cat([z[r], z[c]], dim=1)))))
        f, basis = self.frame(pos, edge_index)
        if self.fourier is not None and self.distance is not None:
            q = self.distance(self.fourier(length(pos[r] - pos[c]).squeeze(1))) * q
        edge_attr = q + f
        x, output = self.node(z), torch.zeros_like(pos)
        for block in self.blocks:
            x, vectors = block(x, edge_index, edge_attr, basis)
            output = output + vectors
        return output

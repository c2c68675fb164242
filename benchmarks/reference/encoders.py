"""GIN (2.1) and SchNet (2.2)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GINEConv, MessagePassing
from torch_geometric.utils import dense_to_sparse, to_dense_batch

from molstream.training.models.config import GINConfig, SchNetConfig
from molstream.training.models.gin import ATOM_VOCABULARY_SIZES, BOND_VOCABULARY_SIZES
from molstream.training.models.schnet import NUM_ATOM_TYPES

from .layers import perceptron


class Embeddings(nn.ModuleList):
    """One table per column, added up."""

    def __init__(self, sizes: tuple[int, ...], hidden: int):
        super().__init__(nn.Embedding(size, hidden) for size in sizes)

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([table(features[:, column]) for column, table in enumerate(self)]).sum(0)


class GINLayer(nn.Module):
    def __init__(self, hidden: int):
        super().__init__()
        self.bond_embedding = Embeddings(BOND_VOCABULARY_SIZES, hidden)
        mlp = nn.Sequential(
            nn.Linear(hidden, 2 * hidden), nn.BatchNorm1d(2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, hidden)
        )
        self.conv = GINEConv(mlp, train_eps=True)
        self.norm = nn.BatchNorm1d(hidden)

    def forward(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        return self.norm(self.conv(h, edge_index, self.bond_embedding(edge_attr)))


class GIN(nn.Module):
    def __init__(self, config: GINConfig):
        super().__init__()
        self.dropout = config.dropout
        self.atom_embedding = Embeddings(ATOM_VOCABULARY_SIZES, config.hidden)
        self.layers = nn.ModuleList(GINLayer(config.hidden) for _ in range(config.num_layers))

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        h = self.atom_embedding(x)
        for layer in self.layers:
            h = layer(h, edge_index, edge_attr)
            h = F.relu(h) if layer is not self.layers[-1] else h
            h = F.dropout(h, self.dropout, self.training)
        return h


class ShiftedSoftplus(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x) - math.log(2.0)


class Interaction(MessagePassing):
    """Of every directed edge: m_i = sum_j x_j * W(d_ij)."""

    def __init__(self, config: SchNetConfig):
        super().__init__(aggr="add")
        hidden, filters = config.hidden, config.num_filters
        self.filter = perceptron([config.num_gaussians, filters, filters], ShiftedSoftplus)
        self.project = nn.Linear(hidden, filters, bias=False)
        self.update_mlp = perceptron([filters, hidden, hidden], ShiftedSoftplus)

    def forward(self, h: Tensor, edge_index: Tensor, rbf: Tensor, envelope: Tensor) -> Tensor:
        filters = self.filter(rbf) * envelope
        return h + self.update_mlp(self.propagate(edge_index, x=self.project(h), filters=filters))

    def message(self, x_j: Tensor, filters: Tensor) -> Tensor:
        return x_j * filters


class SchNet(nn.Module):
    def __init__(self, config: SchNetConfig):
        super().__init__()
        self.config = config
        self.atom_embedding = nn.Embedding(NUM_ATOM_TYPES, config.hidden)
        self.interactions = nn.ModuleList(Interaction(config) for _ in range(config.num_interactions))
        self.head = perceptron([config.hidden] * 3, ShiftedSoftplus)

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor) -> Tensor:
        cutoff = self.config.cutoff
        edge_index = radius_edges(pos, batch, cutoff)
        d = torch.linalg.vector_norm(pos[edge_index[0]] - pos[edge_index[1]], dim=1, keepdim=True)
        spacing = cutoff / (self.config.num_gaussians - 1)
        centers = torch.linspace(0, cutoff, self.config.num_gaussians, dtype=pos.dtype)
        rbf = torch.exp(-0.5 / spacing**2 * (d - centers) ** 2)
        envelope = 0.5 * (torch.cos(math.pi * d / cutoff) + 1)
        h = self.atom_embedding(z)
        for interaction in self.interactions:
            h = interaction(h, edge_index, rbf, envelope)
        return self.head(h)


def radius_edges(pos: Tensor, batch: Tensor, cutoff: float) -> Tensor:
    """All ordered pairs of different atoms of a molecule within the cutoff, [2, e]."""
    dense, mask = to_dense_batch(pos, batch)
    distance = torch.linalg.vector_norm(dense.unsqueeze(2) - dense.unsqueeze(1), dim=3)
    other = ~torch.eye(dense.shape[1], dtype=torch.bool)
    return dense_to_sparse((distance <= cutoff) & other & mask.unsqueeze(1) & mask.unsqueeze(2), mask)[0]

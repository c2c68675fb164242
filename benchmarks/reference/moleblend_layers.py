"""The relation functions (4), the encoder (6) and the heads (7). Bias tensors are [B, keys, keys, heads]."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .moleblend_graph import HOPS, Padded

Target = Literal["distance", "direction"]
SPD_CLASSES = 11
BOND_CLASSES = 5 * 6 * 2
"""Types, stereo and conjugated (15.5)."""


class AtomEmbedding(nn.Module):
    """e_i (4.1) and g_i (4.2)."""

    def __init__(self, width: int):
        super().__init__()
        self.atom = nn.Embedding(1 + 9 * 512, width, padding_idx=0)
        self.degree_in = nn.Embedding(512, width, padding_idx=0)
        self.degree_out = nn.Embedding(512, width, padding_idx=0)

    def content(self, padded: Padded) -> Tensor:
        return self.atom(padded.atoms).sum(2)

    def degree(self, padded: Padded) -> Tensor:
        return self.degree_in(padded.degree) + self.degree_out(padded.degree)


class GraphRelations(nn.Module):
    """phi_spd (4.3) and phi_edge (4.4), both [B, N, N, heads]."""

    def __init__(self, heads: int):
        super().__init__()
        self.spd = nn.Embedding(512, heads, padding_idx=0)
        self.edge = nn.Embedding(1 + 3 * 512, heads, padding_idx=0)
        self.hops = nn.Parameter(torch.empty(128, heads, heads))

    def phi_spd(self, padded: Padded) -> Tensor:
        return self.spd(torch.where(padded.pairs, padded.spd + 1, 0))

    def phi_edge(self, padded: Padded) -> Tensor:
        u = self.edge(padded.path_bonds).sum(4) / 3  # An absent hop has the padding row three times, which is 0.
        total = torch.einsum("bijhk,hkl->bijl", u, self.hops[:HOPS])
        return total / padded.spd.clamp(1, HOPS).unsqueeze(3)


class GaussianRelation(nn.Module):
    """psi and phi_3d (4.5), and c_i (4.6); zero for molecules without positions (15.8)."""

    def __init__(self, width: int, heads: int, kernels: int):
        super().__init__()
        self.mul = nn.Embedding(1536, 1, padding_idx=0)
        self.bias = nn.Embedding(1536, 1, padding_idx=0)
        self.means = nn.Parameter(torch.empty(kernels))
        self.widths = nn.Parameter(torch.empty(kernels))
        self.hidden = nn.Linear(kernels, kernels)
        self.heads = nn.Linear(kernels, heads)
        self.atoms = nn.Linear(kernels, width)

    def psi(self, padded: Padded, pos: Tensor) -> Tensor:
        """[B, N, N, kernels]."""
        d = torch.linalg.vector_norm(pos.unsqueeze(2) - pos.unsqueeze(1), dim=3, keepdim=True)
        z = self.mul(padded.pair_types).sum(3) * d + self.bias(padded.pair_types).sum(3)
        s = self.widths.abs() + 0.01
        return torch.exp(-0.5 * ((z - self.means) / s) ** 2) / (math.sqrt(2 * 3.14159) * s)

    def phi_3d(self, padded: Padded, psi: Tensor) -> Tensor:
        """[B, N, N, heads]; the base masks padded keys (5.3)."""
        return self.heads(F.gelu(self.hidden(psi))) * padded.has_pos.view(-1, 1, 1, 1)

    def atom_feature(self, padded: Padded, psi: Tensor) -> Tensor:
        """c_i, [B, N, width]."""
        c = self.atoms((psi * padded.mask[:, None, :, None]).sum(2))
        return c * padded.has_pos.view(-1, 1, 1)


class Attention(nn.Module):
    """Queries, keys and values; what becomes of them is up to the layer (6) or the noise head (7.5)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.num_heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities [B, heads, queries, keys] and values [B, heads, keys, width / heads]."""
        q, k, v = (
            part(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[3]) + bias.permute(0, 3, 1, 2)
        return torch.softmax(logits, dim=3), v


class Layer(nn.Module):
    """A post-LN layer (6)."""

    def __init__(self, width: int, ffn: int, heads: int):
        super().__init__()
        self.attention = Attention(width, heads)
        self.output = nn.Linear(width, width)
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ffn_in, self.ffn_out = nn.Linear(width, ffn), nn.Linear(ffn, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        probabilities, values = self.attention(x, bias)
        y = self.attention_norm(x + self.output((probabilities @ values).transpose(1, 2).flatten(2)))
        return self.ffn_norm(y + self.ffn_out(F.gelu(self.ffn_in(y))))


class Encoder(nn.Module):
    """Everything but the heads: embeddings, relations, CLS (4.7) and the layers (6)."""

    def __init__(self, layers: int, width: int, ffn: int, heads: int, kernels: int):
        super().__init__()
        self.embedding = AtomEmbedding(width)
        self.graph = GraphRelations(heads)
        self.gaussian = GaussianRelation(width, heads, kernels)
        self.cls = nn.Parameter(torch.empty(width))
        self.cls_bias = nn.Parameter(torch.empty(heads))
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, ffn, heads) for _ in range(layers))

    def forward(self, padded: Padded, x: Tensor, relation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Final states of the atoms [B, N, width] and of CLS [B, width], and the bias between atoms with its base.

        Args:
            padded: the molecules.
            x: x_i, [B, N, width] (5.2, 5.5).
            relation: A, [B, N, N, heads] (5.1, 5.5).
        """
        bias = self.bias(padded, relation)
        states = self.norm(torch.cat([self.cls.expand(len(x), 1, -1), x], dim=1))
        for layer in self.layers:
            states = layer(states, bias)
        return states[:, 1:], states[:, 0], bias[:, 1:, 1:]

    def bias(self, padded: Padded, relation: Tensor) -> Tensor:
        """[B, N + 1, N + 1, heads]: A between atoms, t in the row and column of CLS; -inf at padded keys (3.5, 5.3)."""
        B, N = padded.mask.shape
        bias = relation.new_zeros(B, N + 1, N + 1, relation.shape[3])
        bias[:, 1:, 1:] = relation
        bias[:, 0, :] = self.cls_bias
        bias[:, 1:, 0] = self.cls_bias
        key_is_real = F.pad(padded.mask, (1, 0), value=True)
        return bias.masked_fill(~key_is_real[:, None, :, None], -math.inf)


class PairHead(nn.Module):
    """An outer product of two vectors of 32, and a linear layer on it (7.1)."""

    def __init__(self, width: int, outputs: int, pair_width: int = 32):
        super().__init__()
        self.row, self.column = nn.Linear(width, pair_width), nn.Linear(width, pair_width)
        self.row_norm = nn.LayerNorm(pair_width, eps=1e-12)
        self.column_norm = nn.LayerNorm(pair_width, eps=1e-12)
        self.output = nn.Linear(pair_width**2, outputs)

    def forward(self, h: Tensor) -> Tensor:
        """[B, N, N, outputs]."""
        r, c = self.row_norm(F.gelu(self.row(h))), self.column_norm(F.gelu(self.column(h)))
        outer = r[:, :, None, :, None] * c[:, None, :, None, :]
        return self.output(outer.flatten(3))


class SPDHead(PairHead):
    """7.2: [B, N, N, 11]."""

    def __init__(self, width: int):
        super().__init__(width, SPD_CLASSES)


class EdgeHead(PairHead):
    """7.3: [B, N, N, 5, 60]."""

    def __init__(self, width: int):
        super().__init__(width, HOPS * BOND_CLASSES)

    def forward(self, h: Tensor) -> Tensor:
        return super().forward(h).unflatten(3, (HOPS, BOND_CLASSES))


class DistanceHead(PairHead):
    """Section 14, distance target: [B, N, N], in angstrom."""

    def __init__(self, width: int):
        super().__init__(width, 1)

    def forward(self, h: Tensor) -> Tensor:
        return F.softplus(super().forward(h).squeeze(3))


class DirectionHead(PairHead):
    """7.4: [B, N, N, 3]."""

    def __init__(self, width: int):
        super().__init__(width, 256)
        self.axes = nn.ModuleList(nn.Linear(256, 1) for _ in range(3))

    def forward(self, h: Tensor) -> Tensor:
        shared = super().forward(h)
        return torch.cat([axis(shared) for axis in self.axes], dim=3)


class NoiseHead(nn.Module):
    """7.5, with the same w for every axis and no bias (15.16)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = Attention(width, heads)
        self.output = nn.Linear(width, 1, bias=False)

    def forward(self, h: Tensor, bias: Tensor, pos: Tensor) -> Tensor:
        """eps_hat, [B, N, 3], from the noised positions [B, N, 3]."""
        probabilities, values = self.attention(h, bias)
        difference = pos.unsqueeze(1) - pos.unsqueeze(2)  # [B, i, j]: p_j - p_i
        u = difference / (torch.linalg.vector_norm(difference, dim=3, keepdim=True) + 1e-5)
        axes = [
            self.output(((probabilities * u[:, None, :, :, a]) @ values).transpose(1, 2).flatten(2)) for a in range(3)
        ]
        return torch.cat(axes, dim=2)

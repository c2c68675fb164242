"""2D-to-3D score network of MoleculeSDE: predicts a vector per atom from the bond graph and noised positions.

Formulas and symbols follow the specification of MoleculeSDE, section 4.3. Geometry is at least float32 in every
precision of the network. Symbols of shapes: ``n`` atoms, ``p`` unordered pairs (i < j), ``e`` = 2p directed edges,
``h`` width.

The two directions of a pair share most values: swapping the ends keeps the distance, the angle, g and e3, and flips the
sign of e1, e2 and of the coordinate a. So geometry and Fourier features are computed once per pair, and the directed
edges are the pairs (r, c) = (i, j), then the pairs (j, i) in the same order. On a CPU, everything after the
normalisation over the batch's edges runs on a few molecules at a time, whose edges fit into the caches.
"""

import math
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molstream.training.diffusion.edge_embedding import EdgeNorm, RectifiedEnds
from molstream.training.models.config import PositionScoreConfig
from molstream.training.models.graph import Incidence, blocks_of_atoms, in_float32
from molstream.training.models.layers import Blockwise, dropout, xavier_linear
from molstream.training.models.symmetry import Symmetry

EPS = 1e-6
"""Added to lengths before dividing by them, as in the original: a collinear pair then has e2 = e3 = 0."""


class PairGeometry(NamedTuple):
    """Frame and invariant scalars of each unordered pair (r, c) = (i, j); the coordinate along e2 is always zero."""

    basis: Tensor
    """[p, 3, 3]: rows e1, e2, e3."""
    a: Tensor
    """[2, p]: coordinate along e1 of atom i and of atom j, angstrom."""
    g: Tensor
    """[p]: coordinate along e3, the same for both atoms, angstrom."""
    angle: Tensor
    """[p, 2]: sine and cosine of the angle between both atoms, seen from the origin."""
    distance: Tensor
    """[p]: distance of both atoms, angstrom."""


def pair_geometry(pos: Tensor, pairs: Tensor) -> PairGeometry:
    """Compute the geometry of ``pairs`` [2, p] at positions [n, 3], without gradient to these (steps 4 and 5).

    The sine is the norm of the cross product: the original's sqrt(1 - cos^2) is NaN if rounding makes cos exceed one.
    """
    pos = in_float32(pos).detach()
    p_i, p_j = pos.index_select(0, pairs[0]), pos.index_select(0, pairs[1])
    difference, cross = p_i - p_j, torch.linalg.cross(p_i, p_j)
    distance, cross_norm = _norm(difference), _norm(cross)
    e1 = difference / (distance + EPS).unsqueeze(1)
    e2 = cross / (cross_norm + EPS).unsqueeze(1)
    e3 = torch.linalg.cross(e1, e2)
    a = torch.stack([(e1 * p_i).sum(1), (e1 * p_j).sum(1)])
    g = (e3 * p_i).sum(1)
    length_i, length_j = torch.hypot(a[0], g) + EPS, torch.hypot(a[1], g) + EPS
    sine = cross_norm / ((_norm(p_i) + EPS) * (_norm(p_j) + EPS))
    cosine = (a[0] * a[1] + g * g) / (length_i * length_j)
    return PairGeometry(torch.stack([e1, e2, e3], dim=1), a, g, torch.stack([sine, cosine], dim=1), distance)


def both_directions(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Return sources r [e] and targets c [e] of the directed edges of ``pairs`` [2, p]."""
    return torch.cat([pairs[0], pairs[1]]), torch.cat([pairs[1], pairs[0]])


class PairLinear(nn.Module):
    """Linear([z_r ; z_c]) of each edge, as U z_r + V z_c: projected per atom, then gathered and added."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.of_source = nn.Linear(in_features, out_features, bias=False)
        self.of_target = nn.Linear(in_features, out_features)
        bound = 1.0 / math.sqrt(2 * in_features)  # torch's default for one layer on [z_r ; z_c]
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, z: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Compute edge rows [e, out] from atom rows [n, in]."""
        return self.of_source(z).index_select(0, source).add_(self.of_target(z).index_select(0, target))


class FourierFeatures(nn.Module):
    """sin(2 pi W s) and cos(2 pi W s) of scalars [m], each [m, h], for frozen random frequencies W ~ N(0, 1)."""

    frequencies: Tensor

    def __init__(self, num_frequencies: int):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(num_frequencies))

    def forward(self, scalars: Tensor) -> tuple[Tensor, Tensor]:
        """Compute sines and cosines in the dtype of ``scalars``, never in bf16: arguments reach hundreds of turns."""
        angle = 2.0 * math.pi * scalars.unsqueeze(1) * self.frequencies.to(scalars.dtype)
        return torch.sin(angle), torch.cos(angle)


class FrameEmbedding(nn.Module):
    """f_rc [e, h], the embedding of the frame-invariant scalars of each directed edge (steps 6 and 7)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.fourier = FourierFeatures(hidden)
        self.coordinates = nn.Linear(4 * hidden, hidden)
        self.mlp = nn.Sequential(xavier_linear(2 * hidden + 2, hidden), nn.SiLU(), xavier_linear(hidden, hidden))

    def forward(self, geometry: PairGeometry) -> Tensor:
        """Compute u_v = Linear([phi(a_v) ; phi(g)]) for both ends v, then MLP([sin, cos, u_r, u_c]).

        There is no nonlinearity between that linear layer and the first one of the MLP, so both directions of a pair
        are one product of their shared features with composed weights. The features get no gradient.
        """
        dtype = self.coordinates.weight.dtype
        (sin_i, sin_j), (cos_i, cos_j) = (part.chunk(2) for part in self.fourier(geometry.a.flatten()))
        features = torch.cat([sin_i, cos_i, sin_j, cos_j, *self.fourier(geometry.g), geometry.angle], dim=1).to(dtype)
        first, bend, second = self.mlp
        assert isinstance(first, nn.Linear)
        h = first.out_features
        of_sin, of_cos, of_g = self.coordinates.weight.split([h, h, 2 * h], dim=1)
        of_angle, of_r, of_c = first.weight.split([2, h, h], dim=1)
        of_both = [(of_r + of_c) @ of_g, of_angle]
        forward = torch.cat([of_r @ of_sin, of_r @ of_cos, of_c @ of_sin, of_c @ of_cos, *of_both], dim=1)
        # In the direction (j, i) both a change sign, and so do the sines of phi(a).
        backward = torch.cat([-of_c @ of_sin, of_c @ of_cos, -of_r @ of_sin, of_r @ of_cos, *of_both], dim=1)
        bias = first.bias + (of_r + of_c) @ self.coordinates.bias
        directions = F.linear(features, torch.cat([forward, backward]), bias.repeat(2)).chunk(2, dim=1)
        return second(bend(torch.cat(directions)))


class EdgeAttribute01(nn.Module):
    """A_rc = q_rc + f_rc, the edge attribute of model ``_01`` (step 8)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.frame = FrameEmbedding(hidden)

    def forward(self, q: Tensor, geometry: PairGeometry) -> Tensor:
        """[e, h] from the 2D edge embedding q [e, h]."""
        return q + self.frame(geometry)


class EdgeAttribute02(nn.Module):
    """A_rc = D_rc * q_rc + f_rc with D = Linear(phi(|p_r - p_c|)), the edge attribute of model ``_02`` (step 8)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.frame = FrameEmbedding(hidden)
        self.fourier = FourierFeatures(hidden)
        self.distance = xavier_linear(2 * hidden, hidden)

    def forward(self, q: Tensor, geometry: PairGeometry) -> Tensor:
        """[e, h] from the 2D edge embedding q [e, h]."""
        phi = torch.cat(self.fourier(geometry.distance), dim=1).to(self.distance.weight.dtype)
        scale = self.distance(phi)
        return torch.cat([scale, scale]) * q + self.frame(geometry)


EDGE_ATTRIBUTES: dict[str, type[EdgeAttribute01] | type[EdgeAttribute02]] = {
    "01": EdgeAttribute01,
    "02": EdgeAttribute02,
}
"""Edge attributes of the network's two variants, both used by the paper's checkpoints."""


class AttentionLayer(nn.Module):
    """Edge-attributed attention over the incoming edges of an atom, then a feed-forward network (step 10)."""

    def __init__(self, config: PositionScoreConfig):
        super().__init__()
        hidden = config.hidden
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.query, self.key, self.value = (nn.Linear(hidden, hidden) for _ in range(3))
        self.edge = nn.Linear(hidden, hidden, bias=False)
        self.skip = nn.Linear(hidden, hidden)
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.feed_in, self.feed_out = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def forward(
        self, x: Tensor, source: Incidence, target: Incidence, edge_attr: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Compute atom rows [n, h] from atom rows [n, h] and edge attributes [e, h]."""
        width = x.shape[1] // self.num_heads
        edge = self.edge(edge_attr)
        query = target.gather(self.query(x))
        key, value = source.gather(torch.cat([self.key(x), self.value(x)], dim=1)).unflatten(1, (2, -1)).unbind(1)
        logits = in_float32(query * (key + edge)).unflatten(1, (-1, width)).sum(2) / math.sqrt(width)
        weight = torch.exp(logits - self._largest(logits.detach(), target))
        total = target.sum(weight).clamp(min=1e-16)
        weight = dropout(weight, self.dropout, self.training, generator)
        mixed = target.sum((weight.unsqueeze(2) * (value + edge).unflatten(1, (-1, width))).flatten(1))
        mixed = (mixed.unflatten(1, (-1, width)) / total.unsqueeze(2)).flatten(1)
        x = x + self.norm_attention(mixed.to(x.dtype) + self.skip(x))
        fed = dropout(F.silu(self.feed_in(x)), self.dropout, self.training, generator)
        return x + self.norm_feed_forward(self.feed_out(fed))

    def _largest(self, logits: Tensor, target: Incidence) -> Tensor:
        """[e, heads]: largest logit among the edges into the same atom, subtracted so that exp cannot overflow."""
        index = target.index.unsqueeze(1).expand_as(logits)
        largest = logits.new_full((target.degree.numel(), logits.shape[1]), -torch.inf)
        return largest.scatter_reduce(0, index, logits, "amax").index_select(0, target.index)


class Block(nn.Module):
    """Attention layers, then a vector per atom: the mean of w1 e1 + w2 e2 + w3 e3 over its incoming edges (step 10)."""

    def __init__(self, config: PositionScoreConfig):
        super().__init__()
        self.layers = nn.ModuleList(AttentionLayer(config) for _ in range(config.num_layers))
        self.readout = nn.Sequential(
            nn.Linear(2 * config.hidden, config.readout_hidden), nn.SiLU(), nn.Linear(config.readout_hidden, 3)
        )

    def forward(
        self,
        x: Tensor,
        source: Incidence,
        target: Incidence,
        edge_attr: Tensor,
        basis: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """Compute atom rows [n, h] and vectors [n, 3] from atom rows, edge attributes and frames [e, 3, 3]."""
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x, source, target, edge_attr, generator)
            if number < len(self.layers):
                x = F.silu(x)
        ends = source.gather(x) + target.gather(x)
        weights = self.readout(torch.cat([ends, edge_attr.to(ends.dtype)], dim=1))
        vectors = (weights.unsqueeze(2).to(basis.dtype) * basis).sum(1)
        return x, target.sum(vectors) / target.degree.clamp(min=1).unsqueeze(1)


class PositionScore(Blockwise):
    """Predicts o [n, 3], the noise in the positions; score = -o / std.

    At the paper's sizes variant ``01`` has 254,858 and ``02`` 256,938 parameters. It does not take the diffusion time.

    Symmetry about the origin: rotations turn the output. Under a reflection M the part along e1 and e3 becomes M o,
    the part along e2 becomes -M o, because e2 is a cross product. It is not translation equivariant: positions must
    be centred before they are noised. The output is zero for atoms without edges. The edges of the whole batch are
    normalised together; a batch without edges does not change the running statistics (:class:`BatchNorm`).
    """

    symmetry: ClassVar[Symmetry] = Symmetry(rotation="equivariant", reflection="mixed", translation="none")

    def __init__(self, config: PositionScoreConfig, hidden_2d: int, variant: str):
        super().__init__()
        hidden = config.hidden
        self.edge_in = PairLinear(hidden_2d, config.edge_hidden)
        self.edge_norm = EdgeNorm(config.edge_hidden)
        self.edge_out = nn.Linear(config.edge_hidden, hidden)
        self.edge_attribute = EDGE_ATTRIBUTES[variant](hidden)
        self.node = xavier_linear(hidden_2d, hidden)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))

    def forward(self, z: Tensor, pos: Tensor, pairs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Predict the noise in the positions.

        Args:
            z: [n, hidden_2d] representations of the 2D encoder.
            pos: [n, 3] noised positions in angstrom; they get no gradient.
            pairs: int64 [2, p], unordered pairs of the extended graph, i < j, ascending in i.
            generator: source of the dropout masks.

        Returns:
            The noise [n, 3], at least float32.
        """
        u, v = self.edge_norm.of_ends(self.edge_in.of_source(z), self.edge_in.of_target(z), *_ends(pairs, z.shape[0]))
        sizes, counts = blocks_of_atoms(pairs, z.shape[0], self.blockwise)
        atoms = (rows.split(sizes) for rows in (u, v, self.node(z), pos))
        first_atom, outputs = 0, []
        for u, v, x, near, among in zip(*atoms, pairs.split(counts, dim=1), strict=True):
            outputs.append(self._vectors(u, v, x, near, among - first_atom, generator))
            first_atom += x.shape[0]
        return torch.cat(outputs)

    def _vectors(
        self, u: Tensor, v: Tensor, x: Tensor, pos: Tensor, pairs: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Predict the noise in some molecules, from their atoms' normalised contributions to q, [n, edge_hidden]."""
        source, target = _ends(pairs, x.shape[0])
        geometry = pair_geometry(pos, pairs)
        basis = torch.cat([geometry.basis, geometry.basis * geometry.basis.new_tensor([-1.0, -1.0, 1.0]).view(3, 1)])
        weight, bias = self.edge_out.weight.to(u.dtype), self.edge_out.bias.to(u.dtype)
        q = RectifiedEnds.apply(u, v, weight, bias, source, target)
        edge_attr = self.edge_attribute(q, geometry)
        output = pos.new_zeros(pos.shape, dtype=basis.dtype)
        for block in self.blocks:
            x, vectors = block(x, source, target, edge_attr, basis, generator)
            output = output + vectors
        return output


def _ends(pairs: Tensor, num_nodes: int) -> tuple[Incidence, Incidence]:
    """Return the incidences of sources and targets of the directed edges of ``pairs``."""
    source, target = both_directions(pairs)
    return Incidence(source, num_nodes), Incidence(target, num_nodes)


def _norm(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=-1)

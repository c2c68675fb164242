"""Relations of atoms that attention is biased by: topological (paths along bonds) and geometric (distances).

A relation is a row of features for every unordered atom pair of a molecule, computed once for both directions, and a
last row for an atom's relation to itself. Attention layers turn the rows into a bias per head. What a pair cannot tell
in 3D, a left hand from a right one, is a feature of the atoms: :class:`Chirality`.

Geometry is float32 whatever the precision of the network. Symbols of shapes: ``n`` atoms, ``p`` unordered pairs in the
order of :func:`~.graph.molecule_pairs`, ``c`` width of a relation.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molstream.training.models.gin import BOND_VOCABULARY_SIZES
from molstream.training.models.graph import in_float32, molecule_pairs, segment_sum
from molstream.training.models.layers import CategoricalEmbedding, cosine_envelope, gaussian_basis
from molstream.training.models.paths import shortest_paths
from molstream.training.models.schnet import NUM_ATOM_TYPES

MAX_HOPS = 16
"""Path distances up to so many bonds are told apart; then come "further" and "not connected"."""
MAX_DISTANCE, NUM_GAUSSIANS = 12.0, 64
"""The Gaussians of a relation are evenly spaced from 0 to so many angstrom; beyond, all distances look the same."""
CHIRAL_RADIUS, NUM_CHIRAL_GAUSSIANS = 5.0, 16
"""An atom's handedness depends on its surroundings up to so many angstrom, seen through so many Gaussians."""
NUM_PSEUDOSCALARS = 8
"""Number of triple products that describe the handedness of an atom's surroundings."""
BASIS_NORM = math.pi**0.25
"""Length of a row of :func:`~.layers.gaussian_basis`, nearly the same for all distances within the cutoff."""


def linear(in_features: int, out_features: int, gain: float = 1.0) -> nn.Linear:
    """A linear layer without bias that maps rows of unit variance to variance ``gain``^2."""
    layer = nn.Linear(in_features, out_features, bias=False)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(in_features))
    return layer


class Topology(NamedTuple):
    """What the bond graph says of every unordered pair of atoms of a molecule."""

    pairs: Tensor
    """int64 [2, p]."""
    distance: Tensor
    """int64 [p]: bonds on a shortest path; MAX_HOPS + 1 if they are more, + 2 if no path joins the atoms."""
    bond: Tensor
    """int64 [p, 3]: 1 + the OGB features of the bond that joins the pair; 0 for none."""
    along: Tensor
    """int64 [p, bond types]: bonds of each type along all shortest paths together; zero beyond MAX_HOPS."""

    def close(self, max_hops: int) -> Tensor:
        """bool [p]: at most so many bonds apart, or not connected at all.

        The extended graph of the specification, section 1.4, with the parts of a salt joined, which would otherwise
        not know of each other.
        """
        return (self.distance <= max_hops) | (self.distance > MAX_HOPS + 1)


def topology(edge_index: Tensor, edge_attr: Tensor, batch: Tensor) -> Topology:
    """From directed bonds [2, e], both directions of each, their features [e, 3], and the molecule [n] of each atom."""
    pairs = molecule_pairs(batch)
    paths = shortest_paths(edge_index, edge_attr[:, 0], BOND_VOCABULARY_SIZES[0], batch, pairs, MAX_HOPS)
    joined = (paths.distance == 1).nonzero().squeeze(1)
    # Bonds with i < j in the order of `pairs` are the joined pairs.
    forward = (edge_index[0] < edge_index[1]).nonzero().squeeze(1)
    order = torch.argsort(edge_index[0, forward] * batch.numel() + edge_index[1, forward])
    bond = torch.zeros((pairs.shape[1], edge_attr.shape[1]), dtype=torch.long, device=batch.device)
    bond = bond.index_copy(0, joined, edge_attr[forward[order]] + 1)
    return Topology(pairs, paths.distance, bond, paths.bonds)


class TopologicalRelation(nn.Module):
    """What the bond graph says of two atoms: how far apart along bonds, over which bonds, and which bond joins them.

    Graphormer's spatial and edge encoding (Ying et al. 2021) with one difference: the types of the bonds along the way
    are averaged over all shortest paths and over the places on them, where Graphormer follows one arbitrary path.
    """

    def __init__(self, width: int):
        super().__init__()
        # Column 0: path distance. The others: the bond that joins the pair, with 0 for none.
        sizes = (MAX_HOPS + 3, *(size + 1 for size in BOND_VOCABULARY_SIZES))
        self.embedding = CategoricalEmbedding(sizes, width)
        nn.init.normal_(self.embedding.weight, std=0.5)
        self.path = linear(BOND_VOCABULARY_SIZES[0], width)
        self.mix = linear(width, width)

    def forward(self, paths: Topology) -> Tensor:
        """[p + 1, c]."""
        features = F.pad(torch.cat([paths.distance.unsqueeze(1), paths.bond], dim=1), (0, 0, 0, 1))
        weight = self.path.weight.dtype
        share = paths.along.to(torch.promote_types(weight, torch.float32))
        share = F.pad(share / share.sum(1, keepdim=True).clamp(min=1.0), (0, 0, 0, 1))
        return self.mix(F.silu(self.embedding(features) + self.path(share.to(weight))))


class PairVectors(NamedTuple):
    """Unordered pairs (i, j) and the way from i to j, at least float32 and differentiable."""

    pairs: Tensor
    """int64 [2, p]."""
    vector: Tensor
    """[p, 3]: angstrom."""
    distance: Tensor
    """[p]: angstrom."""


def pair_vectors(pos: Tensor, batch: Tensor) -> PairVectors:
    """Of all pairs of atoms of the same molecule, at positions [n, 3]."""
    pairs, pos = molecule_pairs(batch), in_float32(pos)
    vector = pos.index_select(0, pairs[1]) - pos.index_select(0, pairs[0])
    return PairVectors(pairs, vector, torch.linalg.vector_norm(vector, dim=1))


class GeometricRelation(nn.Module):
    """What positions say of two atoms: their distance in a Gaussian basis, together with both elements."""

    def __init__(self, width: int):
        super().__init__()
        self.elements = nn.Embedding(NUM_ATOM_TYPES, width)
        nn.init.normal_(self.elements.weight, std=0.5)
        self.radial = linear(NUM_GAUSSIANS, width, gain=math.sqrt(NUM_GAUSSIANS) / BASIS_NORM)
        self.itself = nn.Parameter(torch.empty(1, width))
        nn.init.normal_(self.itself)
        self.mix = linear(width, width)

    def forward(self, z: Tensor, geometry: PairVectors) -> Tensor:
        """[p + 1, c] from atomic numbers - 1 [n] and the vectors of all pairs."""
        basis = gaussian_basis(geometry.distance, MAX_DISTANCE, NUM_GAUSSIANS)
        element, (i, j) = self.elements(z), geometry.pairs
        rows = self.radial(basis.to(element.dtype)) + element.index_select(0, i) + element.index_select(0, j)
        return self.mix(F.silu(torch.cat([rows, self.itself.to(rows.dtype)])))


class Chirality(nn.Module):
    """Pseudoscalars [n, NUM_PSEUDOSCALARS] of every atom: the handedness of its surroundings, in (-1, 1).

    Each is a triple product u_a . (u_b x u_c) of three sums over the other atoms j, squashed to length below one:

        v_i = sum_j w(d_ij) t(z_j) r_ij / sqrt(1 + d_ij^2),   u_i = v_i / sqrt(1 + |v_i|^2),

    with learned weights of the distance (in a Gaussian basis under a cosine envelope) and of the element. A mirror
    changes the sign; rotations and translations change nothing. Where the weighted surroundings are their own mirror
    image, all sums lie in the mirror plane and the product vanishes: so it does in a plane, on a line and at the centre
    of CH2Cl2. Differentiable everywhere, at coincident
    atoms too.
    """

    def __init__(self):
        super().__init__()
        self.radial = nn.Parameter(torch.empty(NUM_CHIRAL_GAUSSIANS, 3 * NUM_PSEUDOSCALARS))
        self.elements = nn.Parameter(torch.empty(NUM_ATOM_TYPES, 3 * NUM_PSEUDOSCALARS))
        nn.init.normal_(self.radial, std=1.0 / BASIS_NORM)
        nn.init.normal_(self.elements)

    def forward(self, z: Tensor, geometry: PairVectors) -> Tensor:
        """From atomic numbers - 1 [n] and the vectors of all pairs; at least float32."""
        (i, j), distance = geometry.pairs, geometry.distance
        dtype = distance.dtype
        envelope = cosine_envelope(distance.clamp(max=CHIRAL_RADIUS), CHIRAL_RADIUS)
        basis = gaussian_basis(distance, CHIRAL_RADIUS, NUM_CHIRAL_GAUSSIANS) * envelope.unsqueeze(1)
        with torch.autocast(z.device.type, enabled=False):
            radial = basis @ self.radial.to(dtype)
        element = self.elements.to(dtype).index_select(0, z)
        direction = (geometry.vector / torch.sqrt(1.0 + distance**2).unsqueeze(1)).unsqueeze(1)
        to_i = segment_sum((radial * element.index_select(0, j)).unsqueeze(2) * direction, i, z.numel())
        to_j = segment_sum((radial * element.index_select(0, i)).unsqueeze(2) * direction, j, z.numel())
        sums = (to_i - to_j).unflatten(1, (NUM_PSEUDOSCALARS, 3))
        a, b, c = (sums / torch.sqrt(1.0 + sums.square().sum(3, keepdim=True))).unbind(2)
        return (a * torch.linalg.cross(b, c)).sum(2)

"""Relations of atoms that bias attention: topological (paths along bonds) and geometric (distances).

A relation has a row of features per unordered atom pair of a molecule, computed once for both directions, and a last
row for the relation of an atom to itself. Attention layers turn the rows into a bias per head. Handedness, which
distances of pairs cannot express, is a feature of the atoms: :class:`Chirality`.

Geometry is at least float32 in every precision of the network. Symbols of shapes: ``n`` atoms, ``p`` unordered pairs in
the order of :func:`~.graph.molecule_pairs`, ``c`` width of a relation.
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
"""Largest path distance in bonds with its own class; two further classes are "longer" and "not connected"."""
MAX_DISTANCE, NUM_GAUSSIANS = 12.0, 64
"""Range in angstrom and number of the evenly spaced Gaussians of a relation; longer distances look the same."""
CHIRAL_RADIUS, NUM_CHIRAL_GAUSSIANS = 5.0, 16
"""Radius in angstrom of the surroundings that determine an atom's handedness, and number of Gaussians over it."""
NUM_PSEUDOSCALARS = 8
"""Number of triple products that describe the handedness of an atom's surroundings."""
BASIS_NORM = math.pi**0.25
"""Norm of a row of :func:`~.layers.gaussian_basis`, nearly constant for distances within the cutoff."""


def linear(in_features: int, out_features: int, gain: float = 1.0) -> nn.Linear:
    """Create a linear layer without bias that maps rows of unit variance to variance ``gain``^2."""
    layer = nn.Linear(in_features, out_features, bias=False)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(in_features))
    return layer


class Topology(NamedTuple):
    """Topological properties of each unordered atom pair of a molecule."""

    pairs: Tensor
    """int64 [2, p]: atoms i < j of each pair."""
    distance: Tensor
    """int64 [p]: number of bonds on a shortest path; MAX_HOPS + 1 if longer, + 2 if there is no path."""
    bond: Tensor
    """int64 [p, 3]: 1 + the OGB features of the bond that joins the pair; 0 without a bond."""
    along: Tensor
    """int64 [p, bond types]: number of bonds of each type, summed over all shortest paths; zero beyond MAX_HOPS."""

    def close(self, max_hops: int) -> Tensor:
        """bool [p]: whether the atoms are at most ``max_hops`` bonds apart, or not connected.

        This is the extended graph of the specification, section 1.4, plus edges between the fragments of a salt, which
        otherwise would exchange no messages.
        """
        return (self.distance <= max_hops) | (self.distance > MAX_HOPS + 1)


def topology(edge_index: Tensor, edge_attr: Tensor, batch: Tensor) -> Topology:
    """Compute the topology of a batch.

    Args:
        edge_index: int64 [2, e] directed bonds, both directions of each.
        edge_attr: int64 [e, 3] OGB bond features.
        batch: int64 [n] molecule of each atom, ascending.
    """
    pairs = molecule_pairs(batch)
    paths = shortest_paths(edge_index, edge_attr[:, 0], BOND_VOCABULARY_SIZES[0], batch, pairs, MAX_HOPS)
    joined = (paths.distance == 1).nonzero().squeeze(1)
    # The bonds with i < j, in the order of `pairs`, are the pairs with a bond.
    forward = (edge_index[0] < edge_index[1]).nonzero().squeeze(1)
    order = torch.argsort(edge_index[0, forward] * batch.numel() + edge_index[1, forward])
    bond = torch.zeros((pairs.shape[1], edge_attr.shape[1]), dtype=torch.long, device=batch.device)
    bond = bond.index_copy(0, joined, edge_attr[forward[order]] + 1)
    return Topology(pairs, paths.distance, bond, paths.bonds)


class TopologicalRelation(nn.Module):
    """Features of two atoms in the bond graph: path distance, bonds along the path, and the bond that joins them.

    Graphormer's spatial and edge encoding (Ying et al. 2021) with one difference: the bond types along the path are
    averaged over all shortest paths and their positions, where Graphormer follows one arbitrary path.

    Args:
        width: number of features c.
    """

    def __init__(self, width: int):
        super().__init__()
        # Column 0: path distance. Other columns: the bond that joins the pair, 0 for none.
        sizes = (MAX_HOPS + 3, *(size + 1 for size in BOND_VOCABULARY_SIZES))
        self.embedding = CategoricalEmbedding(sizes, width)
        nn.init.normal_(self.embedding.weight, std=0.5)
        self.path = linear(BOND_VOCABULARY_SIZES[0], width)
        self.mix = linear(width, width)

    def forward(self, paths: Topology) -> Tensor:
        """Compute the relation [p + 1, c] from the topology of a batch."""
        features = F.pad(torch.cat([paths.distance.unsqueeze(1), paths.bond], dim=1), (0, 0, 0, 1))
        weight = self.path.weight.dtype
        share = paths.along.to(torch.promote_types(weight, torch.float32))
        share = F.pad(share / share.sum(1, keepdim=True).clamp(min=1.0), (0, 0, 0, 1))
        return self.mix(F.silu(self.embedding(features) + self.path(share.to(weight))))


class PairVectors(NamedTuple):
    """Unordered pairs (i, j) with the vector from i to j, at least float32 and differentiable."""

    pairs: Tensor
    """int64 [2, p]: atoms i < j of each pair."""
    vector: Tensor
    """[p, 3]: vector from atom i to atom j, angstrom."""
    distance: Tensor
    """[p]: distance of the two atoms, angstrom."""


def pair_vectors(pos: Tensor, batch: Tensor) -> PairVectors:
    """Compute the vectors of all pairs of atoms of the same molecule, at positions [n, 3] in angstrom."""
    pairs, pos = molecule_pairs(batch), in_float32(pos)
    vector = pos.index_select(0, pairs[1]) - pos.index_select(0, pairs[0])
    return PairVectors(pairs, vector, torch.linalg.vector_norm(vector, dim=1))


class GeometricRelation(nn.Module):
    """Features of two atoms in space: their distance in a Gaussian basis, combined with both elements."""

    def __init__(self, width: int):
        super().__init__()
        self.elements = nn.Embedding(NUM_ATOM_TYPES, width)
        nn.init.normal_(self.elements.weight, std=0.5)
        self.radial = linear(NUM_GAUSSIANS, width, gain=math.sqrt(NUM_GAUSSIANS) / BASIS_NORM)
        self.itself = nn.Parameter(torch.empty(1, width))
        nn.init.normal_(self.itself)
        self.mix = linear(width, width)

    def forward(self, z: Tensor, geometry: PairVectors) -> Tensor:
        """Compute the relation [p + 1, c] from atomic numbers - 1 [n] and the vectors of all pairs."""
        basis = gaussian_basis(geometry.distance, MAX_DISTANCE, NUM_GAUSSIANS)
        element, (i, j) = self.elements(z), geometry.pairs
        rows = self.radial(basis.to(element.dtype)) + element.index_select(0, i) + element.index_select(0, j)
        return self.mix(F.silu(torch.cat([rows, self.itself.to(rows.dtype)])))


class Chirality(nn.Module):
    """Pseudoscalars [n, NUM_PSEUDOSCALARS] in (-1, 1): the handedness of each atom's surroundings.

    Each is a triple product u_a . (u_b x u_c) of three sums over the other atoms j, squashed to length below one:

        v_i = sum_j w(d_ij) t(z_j) r_ij / sqrt(1 + d_ij^2),   u_i = v_i / sqrt(1 + |v_i|^2),

    with learned weights of the distance (in a Gaussian basis under a cosine envelope) and of the element. A reflection
    changes the sign; rotations and translations change nothing. If the weighted surroundings are their own mirror
    image, all sums lie in the mirror plane and the product vanishes, as in planar and linear molecules and at the
    centre of CH2Cl2. The pseudoscalars are differentiable everywhere, also for coincident atoms.
    """

    def __init__(self):
        super().__init__()
        self.radial = nn.Parameter(torch.empty(NUM_CHIRAL_GAUSSIANS, 3 * NUM_PSEUDOSCALARS))
        self.elements = nn.Parameter(torch.empty(NUM_ATOM_TYPES, 3 * NUM_PSEUDOSCALARS))
        nn.init.normal_(self.radial, std=1.0 / BASIS_NORM)
        nn.init.normal_(self.elements)

    def forward(self, z: Tensor, geometry: PairVectors) -> Tensor:
        """Compute the pseudoscalars, at least float32, from atomic numbers - 1 [n] and the vectors of all pairs."""
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

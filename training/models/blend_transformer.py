"""Transformer encoder of bond graph and positions in one: it sees either, both, or a blend of their relations.

Symbols of shapes: ``n`` atoms, ``p`` unordered atom pairs, ``d`` hidden width, ``c`` width of a relation; rows
[2p + n] are those of :func:`~.layout.ordered_rows`.
"""

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molstream.training.models.blending import Blend, Modality
from molstream.training.models.config import BlendTransformerConfig
from molstream.training.models.gin import ATOM_VOCABULARY_SIZES, BOND_VOCABULARY_SIZES
from molstream.training.models.graph import segment_sum
from molstream.training.models.layers import CategoricalEmbedding, cosine_envelope, gaussian_basis
from molstream.training.models.layout import bucketed
from molstream.training.models.readout import READOUTS
from molstream.training.models.relations import (
    BASIS_NORM,
    CHIRAL_RADIUS,
    MAX_HOPS,
    NUM_CHIRAL_GAUSSIANS,
    NUM_PSEUDOSCALARS,
    Chirality,
    GeometricRelation,
    PairVectors,
    Topology,
    linear,
    pair_vectors,
    topology,
)
from molstream.training.models.schnet import NUM_ATOM_TYPES
from molstream.training.models.symmetry import CHIRAL, Symmetry
from molstream.training.models.transformer import NUM_DEGREES, Trunk


class Encoded(NamedTuple):
    """What an encoder of both modalities computes."""

    nodes: Tensor
    """[n, d]: representations of atoms."""
    relation: Tensor
    """[2p + n, c]: what was shown of every two atoms, for heads with attention of their own."""


class PathLengths(nn.Module):
    """Relation [p + 1, c] of two atoms: the class of the number of bonds between them."""

    def __init__(self, width: int):
        super().__init__()
        self.embedding = nn.Embedding(MAX_HOPS + 3, width)
        self.mix = linear(width, width)

    def forward(self, paths: Topology) -> Tensor:
        """Compute the relation from the topology of a batch."""
        return self.mix(F.silu(self.embedding(F.pad(paths.distance, (0, 1)))))


class PathBonds(nn.Module):
    """Relation [p + 1, c] of two atoms: the bond that joins them, and the mean of the bonds along shortest paths."""

    def __init__(self, width: int):
        super().__init__()
        self.bond = CategoricalEmbedding(tuple(size + 1 for size in BOND_VOCABULARY_SIZES), width)
        nn.init.normal_(self.bond.weight, std=0.5)
        self.path = linear(BOND_VOCABULARY_SIZES[0], width)
        self.mix = linear(width, width)

    def forward(self, paths: Topology) -> Tensor:
        """Compute the relation from the topology of a batch."""
        weight = self.path.weight.dtype
        share = paths.along.to(torch.promote_types(weight, torch.float32))
        share = F.pad(share / share.sum(1, keepdim=True).clamp(min=1.0), (0, 0, 0, 1))
        return self.mix(F.silu(self.bond(F.pad(paths.bond, (0, 0, 0, 1))) + self.path(share.to(weight))))


class Surroundings(nn.Module):
    """Features [n, d] of an atom in space: how many others are how near, and their handedness."""

    def __init__(self, hidden: int):
        super().__init__()
        self.chirality = Chirality()
        self.handedness = linear(NUM_PSEUDOSCALARS, hidden)
        self.density = linear(NUM_CHIRAL_GAUSSIANS, hidden, gain=NUM_CHIRAL_GAUSSIANS**0.5 / BASIS_NORM)

    def forward(self, z: Tensor, geometry: PairVectors) -> Tensor:
        """Compute the features from atomic numbers - 1 [n] and the vectors of all pairs."""
        distance, (i, j) = geometry.distance, geometry.pairs
        envelope = cosine_envelope(distance.clamp(max=CHIRAL_RADIUS), CHIRAL_RADIUS).unsqueeze(1)
        basis = gaussian_basis(distance, CHIRAL_RADIUS, NUM_CHIRAL_GAUSSIANS) * envelope
        density = segment_sum(basis, i, z.numel()) + segment_sum(basis, j, z.numel())
        # The root keeps crowded atoms of large molecules in the range of the others.
        density = torch.sqrt(density + 1.0) - 1.0
        handedness = self.chirality(z, geometry).to(self.handedness.weight.dtype)
        return self.handedness(handedness) + self.density(density.to(self.density.weight.dtype))


class BlendTransformer(nn.Module):
    """Encoder of both modalities: atom representations [n, hidden], with attention biased by relations of atoms.

    Elements are always shown. The bond graph is seen through the other features of atoms, path lengths and the bonds
    along paths; positions through the surroundings of atoms and distances. Without blending, all of what is shown is
    added up; in a blend, every pair has one relation and every atom one kind of features.

    Under motions of positions it behaves as :class:`~.transformer.GeometryTransformer`, and where it sees no positions
    as :class:`~.transformer.GraphTransformer`. It does not depend on the order of atoms.
    """

    symmetry: ClassVar[Symmetry] = CHIRAL
    sees_both: ClassVar[bool] = True
    stacks: ClassVar[tuple[str, ...]] = ("trunk.blocks",)

    def __init__(self, config: BlendTransformerConfig):
        super().__init__()
        self.readout = READOUTS[config.readout]
        self.element = nn.Embedding(NUM_ATOM_TYPES, config.hidden)
        columns = (*ATOM_VOCABULARY_SIZES[1:], NUM_DEGREES)
        self.features = CategoricalEmbedding(columns, config.hidden)
        nn.init.normal_(self.features.weight, std=len(columns) ** -0.5)
        self.surroundings = Surroundings(config.hidden)
        self.path_lengths = PathLengths(config.pair_hidden)
        self.path_bonds = PathBonds(config.pair_hidden)
        self.distances = GeometricRelation(config.pair_hidden)
        self.trunk = Trunk(config)

    @staticmethod
    def bias_of_pairs(config: BlendTransformerConfig) -> nn.Module:
        """A module that makes attention biases [2p + n, heads] of :attr:`Encoded.relation`."""
        return linear(config.pair_hidden, config.num_heads)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor,
        pos: Tensor,
        batch: Tensor,
        shown: Modality | Blend,
        generator: torch.Generator | None = None,
    ) -> Encoded:
        """Atom representations, and the relations that attention was biased by.

        Args:
            x: int64 [n, 9] OGB atom features; without the bond graph only the element is read.
            edge_index: int64 [2, e] directed bonds, both directions of each.
            edge_attr: int64 [e, 3] OGB bond features.
            pos: [n, 3] positions in angstrom; not read if 2d is shown.
            batch: int64 [n] molecule of each atom, ascending.
            shown: a modality, or a blend.
            generator: source of the dropout masks.
        """
        atoms, pairs = [], []
        if shown != "3d":
            atoms.append(self.in_graph(x, torch.bincount(edge_index[1], minlength=x.shape[0])))
            paths = topology(edge_index, edge_attr, batch)
            pairs += [self.path_lengths(paths), self.path_bonds(paths)]
        if shown != "2d":
            geometry = pair_vectors(pos, batch)
            atoms.append(self.surroundings(x[:, 0], geometry))
            pairs.append(self.distances(x[:, 0], geometry))
        of_atoms, relation = _shown(atoms, pairs, shown)
        layout = bucketed(batch, ordered=True)
        return Encoded(self.trunk(self.element(x[:, 0]) + of_atoms, relation, layout, generator), relation)

    def in_graph(self, x: Tensor, degree: Tensor) -> Tensor:
        """Embed what the bond graph shows of atoms [n, d]: all features but the element, and the number of bonds."""
        return self.features(torch.cat([x[:, 1:], degree.clamp(max=NUM_DEGREES - 1).unsqueeze(1)], dim=1))


def _shown(atoms: list[Tensor], pairs: list[Tensor], shown: Modality | Blend) -> tuple[Tensor, Tensor]:
    """Features [n, d] of atoms and relations [2p + n, c]: the sum of all, or the choice of a blend.

    Args:
        atoms: [n, d] each, features in the bond graph before those in space.
        pairs: [p + 1, c] each, in the order of RELATIONS.
        shown: a modality, or a blend.
    """
    num_atoms, count = len(atoms[0]), len(pairs[0]) - 1
    of_pair = torch.arange(count, device=pairs[0].device)
    row = torch.cat([of_pair, of_pair, of_pair.new_full((num_atoms,), count)])
    if isinstance(shown, Blend):
        graph, space = atoms
        chosen = torch.where(shown.surroundings.unsqueeze(1), space, graph)
        return chosen, torch.cat(pairs).index_select(0, shown.relation * (count + 1) + row)
    return sum(atoms[1:], atoms[0]), sum(pairs[1:], pairs[0]).index_select(0, row)

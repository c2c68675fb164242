"""GIN, the graph isomorphism network with bond features: the 2D encoder of GraphMVP and MoleculeSDE."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from molstream.training.models.config import GINConfig
from molstream.training.models.layers import BatchNorm, CategoricalEmbedding, Linear, dropout
from molstream.training.models.readout import READOUTS
from molstream.training.models.refinement import Kinds, View, refined_views, whole_view
from molstream.training.models.symmetry import INVARIANT, Symmetry

ATOM_VOCABULARY_SIZES = (119, 5, 12, 12, 10, 6, 6, 2, 2)
"""Number of values of the nine OGB atom columns (ogb >= 1.3, where chirality has a fifth value, misc)."""
BOND_VOCABULARY_SIZES = (5, 6, 2)
"""Number of values of the three OGB bond columns: type, stereo, conjugated."""


class GINLayer(nn.Module):
    """u_i = (1 + eps) h_i + sum_{j -> i} relu(h_j + b(e_ji)); h_i' = BN(W2 relu(BN(W1 u_i))) (specification 2.1)."""

    def __init__(self, hidden: int, bond_vocabulary_sizes: tuple[int, ...]):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1))
        self.bond_embedding = CategoricalEmbedding(bond_vocabulary_sizes, hidden)
        self.mlp = nn.Sequential(
            Linear(hidden, 2 * hidden), BatchNorm(2 * hidden), nn.ReLU(), Linear(2 * hidden, hidden)
        )
        self.norm = BatchNorm(hidden)

    def forward(self, h: Tensor, view: View, bonds: Tensor) -> Tensor:
        """Compute rows [m, d] from the previous layer's rows [m', d] and the features [k, 3] of each kind of bond."""
        of_bonds = self.bond_embedding(bonds)
        of_bonds = of_bonds if view.bond is None else view.bond.gather(of_bonds)
        messages = view.source.gather(h).add(of_bonds).relu_()
        own = h if view.own is None else view.own.gather(h)
        u = (1.0 + self.eps) * own + view.target.sum(messages)
        widen, norm, _, narrow = self.mlp
        return self.norm(narrow(norm(widen(u), view.multiplicity).relu_()), view.multiplicity)


class GIN(nn.Module):
    """GIN encoder: atom representations [n, hidden] from the bond graph alone.

    In the first layers many atoms of a batch have equal rows, which a CPU computes once (:mod:`.refinement`) unless
    dropout makes them differ. On other devices the search would cost more time than it saves.

    With the five chirality values of ogb >= 1.3 it has 1,885,205 parameters at the paper's sizes, 300 (one embedding
    row) more than with the four of ogb 1.2.1; ``atom_vocabulary_sizes`` sets their number.
    """

    symmetry: ClassVar[Symmetry] = INVARIANT
    stacks: ClassVar[tuple[str, ...]] = ("layers",)

    def __init__(
        self,
        config: GINConfig,
        atom_vocabulary_sizes: tuple[int, ...] = ATOM_VOCABULARY_SIZES,
        bond_vocabulary_sizes: tuple[int, ...] = BOND_VOCABULARY_SIZES,
    ):
        super().__init__()
        self.dropout = config.dropout
        self.readout = READOUTS[config.readout]
        self.atom_embedding = CategoricalEmbedding(atom_vocabulary_sizes, config.hidden)
        self.layers = nn.ModuleList(GINLayer(config.hidden, bond_vocabulary_sizes) for _ in range(config.num_layers))

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor,
        batch: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Encode a batch; returns the atom representations of the last layer.

        Args:
            x: int64 [n, 9] OGB atom features.
            edge_index: int64 [2, e] directed bonds, both directions of each.
            edge_attr: int64 [e, 3] OGB bond features.
            batch: int64 [n] molecule of each atom; unused here, but an argument of every 2D encoder.
            generator: source of the dropout masks.

        Returns:
            [n, hidden].
        """
        atoms, bonds, row_of_atom = x, edge_attr, None
        if x.device.type == "cpu" and not (self.training and self.dropout > 0.0):
            atom_kinds, bond_kinds = Kinds.of(x), Kinds.of(edge_attr)
            atoms, bonds = x[atom_kinds.example], edge_attr[bond_kinds.example]
            views, row_of_atom = refined_views(atom_kinds, edge_index, bond_kinds, len(self.layers))
        else:
            views = [whole_view(edge_index, x.shape[0])] * len(self.layers)
        h = self.through(views, self.atom_embedding(atoms), bonds, generator)
        return h if row_of_atom is None else h.index_select(0, row_of_atom)

    def through(self, views: Sequence[View], h: Tensor, bonds: Tensor, generator: torch.Generator | None) -> Tensor:
        """Run the layers on embedded atoms [m, hidden], each with its view, and the features [k, 3] of bonds."""
        for number, (layer, view) in enumerate(zip(self.layers, views, strict=True), start=1):
            h = layer(h, view, bonds)
            if number < len(self.layers):
                h = torch.relu(h)
            h = dropout(h, self.dropout, self.training, generator)
        return h

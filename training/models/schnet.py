"""SchNet, the continuous-filter convolutional network (Schuett et al. 2017): the 3D encoder of MoleculeSDE."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from .graph import READOUTS, radius_pairs, segment_sum
from .layers import ShiftedSoftplus, cosine_envelope, gaussian_basis, xavier_linear
from .symmetry import INVARIANT, Symmetry

NUM_ATOM_TYPES = 119
"""Atomic numbers 1 to 118 as 0 to 117, then misc: column 0 of the OGB atom features."""


@dataclass
class SchNetConfig:
    """Sizes of :class:`SchNet`."""

    hidden: int = 300
    """Width of the atom representations."""
    num_filters: int = 128
    """Width of the continuous filters."""
    num_interactions: int = 6
    """Number of interaction blocks."""
    num_gaussians: int = 51
    """Number of Gaussians that a distance is expanded in, evenly spaced from 0 to the cutoff."""
    cutoff: float = 10.0
    """Largest distance of interacting atoms, in angstrom."""
    max_neighbors: int | None = None
    """At most so many nearest neighbours of an atom interact; None is all (the paper's code kept some 32 of them)."""
    readout: str = "mean"
    """How atoms are pooled to a molecule: mean or sum."""


class Interaction(nn.Module):
    """h_i + MLP(sum_j (W_in h_j) * W(d_ij)) with the filter W(d) = MLP(rbf(d)) * envelope(d) (specification 2.2)."""

    def __init__(self, config: SchNetConfig):
        super().__init__()
        hidden, filters = config.hidden, config.num_filters
        filter_out = nn.Linear(filters, filters)
        # Only the weight: the original zeroes the first layer's bias twice and leaves this one at torch's default.
        nn.init.xavier_uniform_(filter_out.weight)
        self.filter = nn.Sequential(xavier_linear(config.num_gaussians, filters), ShiftedSoftplus(), filter_out)
        self.project = nn.Linear(hidden, filters, bias=False)
        nn.init.xavier_uniform_(self.project.weight)
        self.update = nn.Sequential(xavier_linear(filters, hidden), ShiftedSoftplus(), xavier_linear(hidden, hidden))

    def forward(self, h: Tensor, pairs: Tensor, rbf: Tensor, envelope: Tensor) -> Tensor:
        """New atom rows [n, d] from atom rows, unordered pairs [2, p], their basis [p, k] and envelope [p, 1]."""
        i, j = pairs
        filters = self.filter(rbf) * envelope
        x = self.project(h)
        to_i = segment_sum(x.index_select(0, j) * filters, i, h.shape[0])
        to_j = segment_sum(x.index_select(0, i) * filters, j, h.shape[0])
        return h + self.update((to_i + to_j).to(x.dtype))


class SchNet(nn.Module):
    """Atom representations [n, hidden] from atom types and distances; 1,359,708 parameters at the paper's sizes.

    A filter depends on the distance only, so it is computed once per unordered pair and used in both directions. The
    distances, their Gaussian basis and the cosine envelope are float32 whatever the precision of the network.

    Deviation: no cap of 32 neighbours by default, so the 10 angstrom graph of a molecule above 33 atoms is complete.
    """

    symmetry: ClassVar[Symmetry] = INVARIANT

    def __init__(self, config: SchNetConfig):
        super().__init__()
        self.config = config
        self.readout = READOUTS[config.readout]
        self.atom_embedding = nn.Embedding(NUM_ATOM_TYPES, config.hidden)
        self.interactions = nn.ModuleList(Interaction(config) for _ in range(config.num_interactions))
        self.head = nn.Sequential(
            xavier_linear(config.hidden, config.hidden), ShiftedSoftplus(), xavier_linear(config.hidden, config.hidden)
        )

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Atom representations.

        Args:
            z: int64 [n] atomic number - 1.
            pos: [n, 3] positions in angstrom; the output is differentiable with respect to them.
            batch: int64 [n] molecule of every atom, ascending.
            generator: every 3D encoder gets it; there is no dropout here that would draw from it.

        Returns:
            [n, hidden].
        """
        pairs, distance = radius_pairs(pos, batch, self.config.cutoff, self.config.max_neighbors)
        h = self.atom_embedding(z)
        rbf = gaussian_basis(distance, self.config.cutoff, self.config.num_gaussians).to(h.dtype)
        envelope = cosine_envelope(distance, self.config.cutoff).unsqueeze(1)
        for interaction in self.interactions:
            h = interaction(h, pairs, rbf, envelope)
        return self.head(h)

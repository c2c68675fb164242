"""PaiNN, the polarizable atom interaction network (Schuett, Unke, Gastegger 2021): the other 3D encoder of MoleculeSDE.

Each atom has scalar features s [hidden] and vector features v [3, hidden]: rotations act on v only. Symbols of
shapes: ``n`` atoms, ``p`` unordered pairs (i < j), ``d`` hidden width.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from molstream.training.models.config import PaiNNConfig
from molstream.training.models.graph import in_float32, radius_pairs, segment_sum
from molstream.training.models.layers import cosine_envelope, gaussian_basis, xavier_linear
from molstream.training.models.readout import READOUTS
from molstream.training.models.schnet import NUM_ATOM_TYPES
from molstream.training.models.symmetry import INVARIANT, Symmetry

EPS = 1e-8
"""Added to the squared length of a vector feature before the square root, as in the original."""
COINCIDENT = 1e-3
"""Distance in angstrom below which a direction vector shrinks proportionally, to zero for coincident atoms."""


class Message(nn.Module):
    """s_i + sum_j a_ij and v_i + sum_j (b_ij r_ij / |r_ij| + c_ij v_j) with [a, b, c]_ij = context(s_j) W(|r_ij|)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.context = nn.Sequential(xavier_linear(hidden, hidden), nn.SiLU(), xavier_linear(hidden, 3 * hidden))

    def forward(self, s: Tensor, v: Tensor, pairs: Tensor, filters: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Update scalars [n, d], vectors [n, 3, d] by pairs [2, p], filters [p, 3 d], directions from j to i [p, 3]."""
        context, (i, j) = self.context(s), pairs
        new_s, new_v = s, v
        for target, source, toward in ((i, j, direction), (j, i, -direction)):
            a, b, c = (context.index_select(0, source) * filters).chunk(3, dim=1)
            vectors = toward.unsqueeze(2) * b.unsqueeze(1) + c.unsqueeze(1) * v.index_select(0, source)
            new_s = new_s + segment_sum(a, target, s.shape[0]).to(s.dtype)
            new_v = new_v + segment_sum(vectors, target, s.shape[0]).to(v.dtype)
        return new_s, new_v


class Mixing(nn.Module):
    """s + a + b <Vv, Wv> and v + c Wv, where [a, c, b] = context([s, |Vv|]), for each atom separately."""

    def __init__(self, hidden: int):
        super().__init__()
        self.project = nn.Linear(hidden, 2 * hidden, bias=False)
        nn.init.xavier_uniform_(self.project.weight)
        self.context = nn.Sequential(xavier_linear(2 * hidden, hidden), nn.SiLU(), xavier_linear(hidden, 3 * hidden))

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Update the scalars [n, d] and vectors [n, 3, d]."""
        v_V, v_W = self.project(v).chunk(2, dim=2)
        length = torch.sqrt(in_float32(v_V).square().sum(1) + EPS).to(s.dtype)
        a, c, b = self.context(torch.cat([s, length], dim=1)).chunk(3, dim=1)
        return s + a + b * (v_V * v_W).sum(1), v + c.unsqueeze(1) * v_W


class PaiNN(nn.Module):
    """PaiNN encoder: atom representations [n, hidden], its scalars; 3,069,600 parameters at the paper's sizes.

    A filter depends on the distance only, so it is computed once per unordered pair and used in both directions; one
    linear layer gives the filters of all messages. Distances, directions, their Gaussian basis and the cosine envelope
    are at least float32 in every precision of the network. Linear layers start xavier-uniform with zero biases.

    Deviations: the embedding of hydrogen is trained (the original freezes it at zero by ``padding_idx=0``);
    directions of atoms closer than :data:`COINCIDENT` are finite; no cap on the number of neighbours.
    """

    symmetry: ClassVar[Symmetry] = INVARIANT
    stacks: ClassVar[tuple[str, ...]] = ("messages", "mixings")

    def __init__(self, config: PaiNNConfig):
        super().__init__()
        self.config = config
        self.readout = READOUTS[config.readout]
        self.atom_embedding = nn.Embedding(NUM_ATOM_TYPES, config.hidden)
        self.filter = xavier_linear(config.num_gaussians, config.num_interactions * 3 * config.hidden)
        self.messages = nn.ModuleList(Message(config.hidden) for _ in range(config.num_interactions))
        self.mixings = nn.ModuleList(Mixing(config.hidden) for _ in range(config.num_interactions))

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode a batch; returns atom representations.

        Args:
            z: int64 [n] atomic number - 1.
            pos: [n, 3] positions in angstrom; the output is differentiable with respect to them.
            batch: int64 [n] molecule of each atom, ascending.
            generator: unused, since there is no dropout here; an argument of every 3D encoder.

        Returns:
            [n, hidden].
        """
        return self.scalars_and_vectors(z, pos, batch)[0]

    def scalars_and_vectors(self, z: Tensor, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return invariant features [n, hidden] and equivariant [n, 3, hidden]; arguments are those of ``forward``."""
        config = self.config
        pairs, distance = radius_pairs(pos, batch, config.cutoff)
        pos = in_float32(pos)
        difference = pos.index_select(0, pairs[0]) - pos.index_select(0, pairs[1])
        direction = difference / distance.clamp(min=COINCIDENT).unsqueeze(1)
        s = self.atom_embedding(z)
        v = s.new_zeros(s.shape[0], 3, config.hidden)
        rbf = gaussian_basis(distance, config.cutoff, config.num_gaussians).to(s.dtype)
        filters = self.filter(rbf) * cosine_envelope(distance, config.cutoff).unsqueeze(1)
        for message, mixing, own in zip(self.messages, self.mixings, filters.split(3 * config.hidden, dim=1)):
            s, v = mixing(*message(s, v, pairs, own, direction))
        return s, v

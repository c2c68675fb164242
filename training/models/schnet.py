"""SchNet, the continuous-filter convolutional network (Schuett et al. 2017): the 3D encoder of MoleculeSDE."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from molstream.training.models.config import SchNetConfig
from molstream.training.models.graph import Incidence, blocks_of_atoms, in_float32, radius_pairs
from molstream.training.models.interpolation import Interpolation, grid, num_nodes
from molstream.training.models.layers import Blockwise, ShiftedSoftplus, cosine_envelope, gaussian_basis, xavier_linear
from molstream.training.models.readout import READOUTS
from molstream.training.models.symmetry import INVARIANT, Symmetry

NUM_ATOM_TYPES = 119
"""Number of values of column 0 of the OGB atom features: atomic numbers 1 to 118 as 0 to 117, then misc."""


class Pairs:
    """The unordered pairs of atoms that exchange messages.

    Args:
        pairs: int64 [2, p].
        num_nodes: number of atoms n.
        interpolation: interpolates the pairs' filters from a table; None if the filters themselves are passed.
    """

    def __init__(self, pairs: Tensor, num_nodes: int, interpolation: Interpolation | None = None):
        self.interpolation = interpolation
        self.source = Incidence(pairs.flip(0).flatten(), num_nodes)
        self.target = Incidence(pairs.flatten(), num_nodes)

    def messages(self, x: Tensor, filters: Tensor) -> Tensor:
        """Compute sum_j x_j * W_ij, [n, f], from atom rows [n, f] and filters [p, f] or a table of them."""
        if self.interpolation is None:
            return self.target.sum(self.source.gather(x) * torch.cat([filters, filters]))
        return _MessagesByTable.apply(x, filters, self, self.interpolation)


class _MessagesByTable(torch.autograd.Function):
    """Messages with filters interpolated from a table, once forward and once backward, so that none is stored.

    As a map of x it is symmetric, since both directions of a pair have the same filter; so the backward pass of x is
    the same map.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, pairs: Pairs, interpolation: Interpolation) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.pairs, ctx.interpolation = pairs, interpolation
        return _filtered_sum(x.index_select(0, pairs.source.index), interpolation.values(table), pairs)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        x, table = ctx.saved_tensors
        pairs, interpolation = ctx.pairs, ctx.interpolation
        of_sources = gradient.index_select(0, pairs.source.index)
        gradient_j, gradient_i = of_sources.chunk(2)
        x_j, x_i = x.index_select(0, pairs.source.index).chunk(2)
        of_table = interpolation.transposed(x_j.mul_(gradient_i).addcmul_(x_i, gradient_j))
        return _filtered_sum(of_sources, interpolation.values(table), pairs), of_table, None, None


def _filtered_sum(of_sources: Tensor, filters: Tensor, pairs: Pairs) -> Tensor:
    """Multiply source rows [2p, f] in place by the pairs' filters [p, f], and sum them per target."""
    of_sources.view(2, *filters.shape).mul_(filters)
    return pairs.target.summed(of_sources)


class Interaction(nn.Module):
    """h_i + MLP(sum_j (W_in h_j) * W(d_ij)) with the filter W(d) = MLP(rbf(d)) * envelope(d) (specification 2.2)."""

    def __init__(self, config: SchNetConfig):
        super().__init__()
        hidden, filters = config.hidden, config.num_filters
        filter_out = nn.Linear(filters, filters)
        # Only the weight: the original zeroes the first layer's bias twice and keeps torch's default for this one.
        nn.init.xavier_uniform_(filter_out.weight)
        self.filter = nn.Sequential(xavier_linear(config.num_gaussians, filters), ShiftedSoftplus(), filter_out)
        self.project = nn.Linear(hidden, filters, bias=False)
        nn.init.xavier_uniform_(self.project.weight)
        self.update = nn.Sequential(xavier_linear(filters, hidden), ShiftedSoftplus(), xavier_linear(hidden, hidden))

    def filters(self, rbf: Tensor, envelope: Tensor) -> Tensor:
        """Compute filters [m, f] from the Gaussian basis [m, k] and envelope [m, 1] of distances."""
        return self.filter(rbf) * envelope

    def forward(self, h: Tensor, filters: Tensor, pairs: Pairs) -> Tensor:
        """Update atom rows [n, d] by the filters of ``pairs``, or by the table that these are interpolated from."""
        x = self.project(h)
        return h + self.update(pairs.messages(in_float32(x), in_float32(filters)).to(x.dtype))


class SchNet(Blockwise):
    """SchNet encoder: atom representations [n, hidden] from elements and distances.

    It has 1,359,708 parameters at the paper's sizes. A filter depends on the distance only, so it is computed once per
    unordered pair and used in both directions. On a CPU, filters are computed at the nodes of :mod:`.interpolation` and
    interpolated for the pairs, if there are more pairs than nodes and positions need no gradient. Distances, their
    Gaussian basis and the cosine envelope are at least float32 in every precision of the network.

    Deviation: by default there is no cap of 32 neighbours, so the 10 angstrom graph of a molecule above 33 atoms is
    complete.
    """

    symmetry: ClassVar[Symmetry] = INVARIANT
    stacks: ClassVar[tuple[str, ...]] = ("interactions",)

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
        """Encode a batch; returns atom representations.

        Args:
            z: int64 [n] atomic number - 1.
            pos: [n, 3] positions in angstrom; the output is differentiable with respect to them.
            batch: int64 [n] molecule of each atom, ascending.
            generator: unused, since there is no dropout here; an argument of every 3D encoder.

        Returns:
            [n, hidden].
        """
        config = self.config
        pairs, distance = radius_pairs(pos, batch, config.cutoff, config.max_neighbors)
        end, width = config.cutoff, config.cutoff / (config.num_gaussians - 1)
        reading_off = distance.device.type == "cpu" and not distance.requires_grad
        reading_off = reading_off and distance.numel() > num_nodes(end, width)
        # Unconditional: at ZeRO 3 all processes must run modules in the same order.
        every = self._filters(grid(end, width, like=distance) if reading_off else distance)
        sizes, counts = blocks_of_atoms(pairs, z.numel(), self.blockwise)
        blocks = zip(self.atom_embedding(z).split(sizes), pairs.split(counts, dim=1), distance.split(counts))
        first_atom, first_pair, outputs = 0, 0, []
        for h, among, apart in blocks:
            interpolation = Interpolation(apart, end, width) if reading_off else None
            block = Pairs(among - first_atom, h.shape[0], interpolation)
            last_pair = first_pair + apart.numel()
            filters = every if reading_off else [own[first_pair:last_pair] for own in every]
            first_atom, first_pair = first_atom + h.shape[0], last_pair
            for interaction, own in zip(self.interactions, filters, strict=True):
                h = interaction(h, own, block)
            outputs.append(self.head(h))
        return torch.cat(outputs)

    def _filters(self, distance: Tensor) -> list[Tensor]:
        """Compute the filters [m, f] of each interaction at distances [m]."""
        rbf = gaussian_basis(distance, self.config.cutoff, self.config.num_gaussians)
        rbf = rbf.to(self.atom_embedding.weight.dtype)
        envelope = cosine_envelope(distance, self.config.cutoff).unsqueeze(1)
        filters = []
        for interaction in self.interactions:
            assert isinstance(interaction, Interaction)
            filters.append(interaction.filters(rbf, envelope))
        return filters

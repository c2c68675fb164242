"""2D encoders on molecules that come padded to one size, in operations whose shapes no content of a batch decides.

This form is for export: tracing it once gives a program for any number of molecules, atoms and bonds. The trained
modules are those of the encoder itself; only what selects and counts is written anew, with matrices of s x s entries in
place of lists. Symbols of shapes: ``g`` molecules, ``s`` slots for atoms of each, ``b`` bonds, ``d`` hidden width.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molstream.errors import ConfigError
from molstream.training.models.gin import BOND_VOCABULARY_SIZES
from molstream.training.models.graph import Incidence
from molstream.training.models.layout import PaddedLayout
from molstream.training.models.refinement import View
from molstream.training.models.relations import MAX_HOPS, Topology

DOUBLINGS = 7
"""How often the reach of :data:`MAX_HOPS` bonds is doubled to find what is connected: up to 2,048 bonds."""


class PaddedMolecules(NamedTuple):
    """A batch of molecules, each with s slots; the atoms of a molecule are in its first ones."""

    atoms: Tensor
    """int64 [g, s, 9]: OGB atom features; zero in the other slots."""
    num_atoms: Tensor
    """int64 [g]: number of atoms of each molecule, at least 1."""
    bonds: Tensor
    """int64 [2, b]: both atoms of each bond, once; atom i of molecule k has the number k s + i."""
    bond_features: Tensor
    """int64 [b, 3]: OGB bond features."""

    @property
    def real(self) -> Tensor:
        """bool [g, s]: whether a slot has an atom."""
        return torch.arange(self.atoms.shape[1], device=self.atoms.device) < self.num_atoms.unsqueeze(1)

    @property
    def directed(self) -> Tensor:
        """int64 [2, 2b]: every bond in both directions."""
        return torch.cat([self.bonds, self.bonds.flip(0)], dim=1)

    @property
    def degree(self) -> Tensor:
        """int64 [g s]: number of bonds of each atom."""
        target = self.directed[1]
        return self.atoms.new_zeros(self.real.numel()).index_add(0, target, torch.ones_like(target))


class PaddedEncoder(nn.Module):
    """A 2D encoder with its readout on padded molecules, in evaluation mode: [g, d] from :class:`PaddedMolecules`.

    Args:
        name: the encoder's in ``ENCODERS``.
        encoder: shared, not copied.

    Raises:
        ConfigError: the encoder has no padded form.
    """

    def __init__(self, name: str, encoder: Any):
        super().__init__()
        if name not in PADDED:
            raise ConfigError(
                f"the encoder {name} cannot be exported as a program: expected a 2D encoder, of {', '.join(PADDED)}."
            )
        self.encoder, self._nodes = encoder, PADDED[name]

    def forward(self, atoms: Tensor, num_atoms: Tensor, bonds: Tensor, bond_features: Tensor) -> Tensor:
        """The vectors of molecules, [g, d]; arguments are the fields of :class:`PaddedMolecules`."""
        molecules = PaddedMolecules(atoms, num_atoms, bonds, bond_features)
        nodes = self._nodes(self.encoder, molecules)
        return self.encoder.readout.padded(nodes.unflatten(0, molecules.real.shape), molecules.real)


def padded_topology(molecules: PaddedMolecules) -> Topology:
    """The topology of every two slots of a molecule, a slot and itself included, in rows [g s^2].

    The same search as :func:`~.paths.shortest_paths`, by products of matrices: column 0 of a walk counts the shortest
    paths, the others the bonds of each kind along them.
    """
    g, s = molecules.real.shape
    slot = torch.arange(s, device=molecules.atoms.device)
    source, target = molecules.directed
    entry = source * s + slot.repeat(g).index_select(0, target)
    features = torch.cat([molecules.bond_features] * 2)
    kinds = F.one_hot(features[:, 0], BOND_VOCABULARY_SIZES[0]).float()
    step = kinds.new_zeros((g * s * s, kinds.shape[1])).index_add(0, entry, kinds)
    bond = features.new_zeros((g * s * s, features.shape[1])).index_add(0, entry, features + 1)
    distance, along = _shortest(step.view(g, s, s, -1).permute(0, 3, 1, 2))
    first, second = torch.arange(g * s, device=slot.device).view(g, s, 1), slot
    pairs = torch.stack([first.expand(g, s, s).flatten(), (first - slot.view(1, s, 1) + second).flatten()])
    return Topology(pairs, distance.flatten(), bond, along.permute(0, 2, 3, 1).flatten(0, 2))


def _shortest(step: Tensor) -> tuple[Tensor, Tensor]:
    """Distances, int64 [g, s, s], and numbers of bonds along shortest paths [g, kinds, s, s], from those of bonds."""
    any_bond, size = step.sum(1, keepdim=True), step.shape[-1]
    itself = torch.eye(size, dtype=torch.bool, device=step.device).expand(any_bond.shape)
    distance = torch.where(itself, 0, -1)
    walk, along = torch.cat([itself.to(step.dtype), torch.zeros_like(step)], dim=1), torch.zeros_like(step)
    for hop in range(1, MAX_HOPS + 1):
        longer = walk @ any_bond
        longer = torch.cat([longer[:, :1], longer[:, 1:] + walk[:, :1] @ step], dim=1)
        is_new = (longer[:, :1] > 0) & (distance < 0)
        distance, walk = torch.where(is_new, hop, distance), torch.where(is_new, longer, 0.0)
        along = along + walk[:, 1:]
    reach = (distance >= 0).to(step.dtype)
    for _ in range(DOUBLINGS):
        reach = (reach @ reach > 0).to(step.dtype)
    beyond = torch.where(reach > 0, MAX_HOPS + 1, MAX_HOPS + 2)
    return torch.where(distance >= 0, distance, beyond).squeeze(1), along


class _Unsorted(Incidence):
    """An :class:`Incidence` of plain operations, which sorts nothing and records no gradient of its own."""

    def __init__(self, index: Tensor, num_rows: int):
        self.index, self._num_rows = index, num_rows

    def gather(self, rows: Tensor) -> Tensor:
        return rows.index_select(0, self.index)

    def sum(self, values: Tensor) -> Tensor:
        return values.new_zeros((self._num_rows, values.shape[1])).index_add(0, self.index, values)


def _gin(encoder: Any, molecules: PaddedMolecules) -> Tensor:
    atoms, (source, target) = molecules.atoms.flatten(0, 1), molecules.directed
    view = View(_Unsorted(source, atoms.shape[0]), _Unsorted(target, atoms.shape[0]))
    views = [view] * len(encoder.layers)
    return encoder.through(views, encoder.atom_embedding(atoms), torch.cat([molecules.bond_features] * 2), None)


def _graph_transformer(encoder: Any, molecules: PaddedMolecules) -> Tensor:
    h = encoder.embedded(molecules.atoms.flatten(0, 1), molecules.degree)
    # The last row of a relation is that of an atom and itself, which here is among the others.
    relation = encoder.relation(padded_topology(molecules))[:-1]
    return encoder.trunk(h, relation, PaddedLayout(molecules.real), None)


def _blend_transformer(encoder: Any, molecules: PaddedMolecules) -> Tensor:
    atoms, topology = molecules.atoms.flatten(0, 1), padded_topology(molecules)
    h = encoder.element(atoms[:, 0]) + encoder.in_graph(atoms, molecules.degree)
    relation = (encoder.path_lengths(topology) + encoder.path_bonds(topology))[:-1]
    return encoder.trunk(h, relation, PaddedLayout(molecules.real), None)


PADDED: Mapping[str, Callable[[Any, PaddedMolecules], Tensor]] = {
    "gin": _gin,
    "graph_transformer": _graph_transformer,
    "blend_transformer": _blend_transformer,
}
"""How encoders compute the representations of slots [g s, d], by the name of the encoder; that of both is shown 2D."""

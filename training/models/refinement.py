"""Colour refinement: finds atoms with equal rows in a message-passing layer, to compute each distinct row once.

A layer's output for an atom is a function of the atom's row and of the multiset of its neighbours' rows and bonds
(Weisfeiler and Leman 1968; Xu et al. 2019). Atoms that agree in both, such as those of two methyl groups, get equal
rows, so that the first layers have far fewer distinct rows than atoms: the 5,942 atoms of 256 molecules of ZINC have 61
distinct features, 1,021 distinct neighbourhoods of one bond, 3,212 of two and 4,681 of three.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from molstream.training.models.graph import Incidence, segment_sum

MERGED_SHARE = 0.8
"""A layer merges atoms if the share of distinct rows is at most this; above it, merging costs more than it saves."""


class View(NamedTuple):
    """Indices by which a layer computes its m distinct rows from the m' rows of the previous layer.

    Each row is computed for one of its atoms, from the k bonds that lead to these atoms.
    """

    source: Incidence
    """Row in the previous layer of the source of each of the k bonds."""
    target: Incidence
    """Row in this layer of the target of each of the k bonds."""
    bond: Incidence | None = None
    """Kind of each of the k bonds; None if every bond is its own kind."""
    own: Incidence | None = None
    """Row in the previous layer of each of the m rows; None if it has the same number."""
    multiplicity: Tensor | None = None
    """int64 [m]: number of atoms with this row; None if the rows are the atoms."""


class Kinds(NamedTuple):
    """A partition of n items into m kinds."""

    number: Tensor
    """int64 [n]: kind of each item, from 0."""
    example: Tensor
    """int64 [m]: first item of each kind."""

    @classmethod
    def of(cls, features: Tensor) -> "Kinds":
        """Group items with equal ``features`` (int64 [n, k]).

        Items are compared by 64-bit hashes; the probability of a collision among 6,000 different ones is 1e-12.
        """
        seen = torch.zeros_like(features[:, 0])
        for column in features.unbind(1):
            seen = _mixed(seen + column)
        values, number = torch.unique(seen, return_inverse=True)
        things = torch.arange(seen.numel(), device=seen.device)
        first = things.new_full(values.shape, seen.numel())
        return cls(number, first.scatter_reduce(0, number, things, "amin"))


def whole_view(edge_index: Tensor, num_atoms: int) -> View:
    """The view without merging: each atom has its own row, and each bond is its own kind."""
    source, target = (Incidence(index, num_atoms) for index in edge_index)
    return View(source, target)


def refined_views(atoms: Kinds, edge_index: Tensor, bonds: Kinds, num_layers: int) -> tuple[list[View], Tensor]:
    """Compute one view per layer; from the first layer that could merge too few atoms, no atoms are merged.

    Args:
        atoms: kinds of the n atoms before the first layer.
        edge_index: int64 [2, e] directed bonds, both directions of each.
        bonds: kinds of the e bonds.
        num_layers: number of layers.

    Returns:
        The views, and the row of each atom after the last layer, int64 [n].
    """
    found: list[View] = []
    source, target = edge_index
    num_atoms = atoms.number.numel()
    while len(found) < num_layers:
        refined = _refined(atoms.number, edge_index, bonds.number)
        if refined.example.numel() > MERGED_SHARE * num_atoms:
            break
        bond = (refined.example[refined.number[target]] == target).nonzero().squeeze(1)
        view = View(
            source=Incidence(atoms.number[source[bond]], atoms.example.numel()),
            target=Incidence(refined.number[target[bond]], refined.example.numel()),
            bond=Incidence(bonds.number[bond], bonds.example.numel()),
            own=Incidence(atoms.number[refined.example], atoms.example.numel()),
            multiplicity=torch.bincount(refined.number, minlength=refined.example.numel()),
        )
        found.append(view)
        atoms = refined
    if len(found) == num_layers:
        return found, atoms.number
    every_atom = torch.arange(num_atoms, device=source.device)
    bond = Incidence(bonds.number, bonds.example.numel())
    into = Incidence(target, num_atoms)
    apart = View(
        source=Incidence(atoms.number[source], atoms.example.numel()),
        target=into,
        bond=bond,
        own=Incidence(atoms.number, atoms.example.numel()),
    )
    after = View(source=Incidence(source, num_atoms), target=into, bond=bond)
    return [*found, apart, *[after] * (num_layers - len(found) - 1)], every_atom


def _refined(kind: Tensor, edge_index: Tensor, bond_kind: Tensor) -> Kinds:
    """Kinds of atoms after a layer, from those before it and the kinds of bonds; a sum of hashes hashes a multiset."""
    source, target = edge_index
    neighbours = segment_sum(_mixed(_mixed(kind[source]) + bond_kind), target, kind.numel())
    return Kinds.of(torch.stack([kind, neighbours], dim=1))


def _mixed(x: Tensor) -> Tensor:
    """Mix the bits of int64 values by a bijection (SplitMix64: Steele, Lea and Flood 2014)."""
    x = x - 0x61C8864680B583EB
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31 & 0x1FFFFFFFF)

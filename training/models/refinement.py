"""Colour refinement: which atoms a message-passing layer cannot tell apart, so that each layer computes them once.

What a layer makes of an atom is a function of the atom's own row and of the multiset of its neighbours' rows and bonds
(Weisfeiler and Leman 1968; Xu et al. 2019). Atoms that agree in both, a methyl group here and one there, get the same
row. So the first layers have far fewer rows than there are atoms: of 5,942 atoms in 256 molecules of ZINC 61 differ in
their features, 1,021 in what they see one bond further, 3,212 in two and 4,681 in three.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from molstream.training.models.graph import Incidence, segment_sum

MERGED_SHARE = 0.8
"""A layer merges atoms where no more than this share of them differ: more is not worth the search."""


class View(NamedTuple):
    """What a layer computes: rows [m, d], each of atoms that it cannot tell apart, from the m' rows of the one before.

    Of the bonds it looks at k: those that lead to one of the atoms of every row.
    """

    source: Incidence
    """The row in the layer before that each of the k bonds comes from."""
    target: Incidence
    """The row that each of them leads to."""
    bond: Incidence | None = None
    """The kind of each of them; None if every bond is a kind of its own."""
    own: Incidence | None = None
    """The row in the layer before of each of the m rows; None if it is the same."""
    multiplicity: Tensor | None = None
    """int64 [m]: atoms that a row stands for; None if the rows are the atoms."""


class Kinds(NamedTuple):
    """Things that are told apart by a number alone."""

    number: Tensor
    """int64 [n]: the kind of each thing, from 0."""
    example: Tensor
    """int64 [m]: the first thing of each kind."""

    @classmethod
    def of(cls, features: Tensor) -> "Kinds":
        """Things are of one kind where all their ``features`` (int64 [n, k]) are the same.

        They are told apart by 64-bit hashes; that any two of 6,000 different ones agree has a probability of 1e-12.
        """
        seen = torch.zeros_like(features[:, 0])
        for column in features.unbind(1):
            seen = _mixed(seen + column)
        values, number = torch.unique(seen, return_inverse=True)
        things = torch.arange(seen.numel(), device=seen.device)
        first = things.new_full(values.shape, seen.numel())
        return cls(number, first.scatter_reduce(0, number, things, "amin"))


def whole_view(edge_index: Tensor, num_atoms: int) -> View:
    """Every atom and every bond by itself."""
    source, target = (Incidence(index, num_atoms) for index in edge_index)
    return View(source, target)


def refined_views(atoms: Kinds, edge_index: Tensor, bonds: Kinds, num_layers: int) -> tuple[list[View], Tensor]:
    """One view per layer; from the first that could merge too few atoms on, they merge none.

    Args:
        atoms: the kinds of the n atoms before the first layer.
        edge_index: int64 [2, e] directed bonds, both directions of each.
        bonds: the kinds of the e bonds.
        num_layers: how many views.

    Returns:
        The views, and the row int64 [n] of every atom after the last layer.
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
    """Kinds of atoms after a layer, from those before it and the kinds of bonds; a sum stands for a multiset."""
    source, target = edge_index
    neighbours = segment_sum(_mixed(_mixed(kind[source]) + bond_kind), target, kind.numel())
    return Kinds.of(torch.stack([kind, neighbours], dim=1))


def _mixed(x: Tensor) -> Tensor:
    """A bijection of int64 in which all bits matter to all bits (SplitMix64: Steele, Lea and Flood 2014)."""
    x = x - 0x61C8864680B583EB
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31 & 0x1FFFFFFFF)

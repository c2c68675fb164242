"""Conjugated systems: what all resonance forms of one have in common, and what makes one form better than another."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rdkit import Chem
from rdkit.Chem import BondType

from molstream.preprocessing.bond_orders import TRIPLE, Choice, System

ORDERS = {BondType.SINGLE: 1, BondType.DOUBLE: 2, BondType.TRIPLE: 3}
PNICTOGENS, CHALCOGENS = (15, 33, 51), (16, 34, 52)
"""Atomic numbers of the elements like phosphorus and like sulfur."""

CHARGE_COST = {
    (6, 1): 100, (7, 1): 4, (8, 1): 50, (15, 1): 10, (16, 1): 30, (33, 1): 10, (34, 1): 30, (51, 1): 10, (52, 1): 30,
    (5, -1): 20, (6, -1): 100, (7, -1): 20, (8, -1): 30, (15, -1): 60, (16, -1): 25, (33, -1): 60, (34, -1): 25,
    (52, -1): 25,
}  # fmt: skip
"""What a charge costs on an element, by atomic number. N- is cheaper than O-: the anion of an amide keeps its C=O."""
NITROGEN_AT_CATION = 15
"""Added for N- beside a nitrogen with three neighbours and no hydrogen: sydnones are written with O-."""
PROTONATED_NITROGEN = -4
"""Added for a charged nitrogen with a hydrogen: it is the one that can lose its charge."""
RADICAL_COST = {6: 10, 7: 5, 8: 0, 16: 0}
HYPERVALENT_COST = 60
"""For two bonds more than an element usually has, such as S(IV) in N=S=N."""
CUMULATED_COST = 90
"""For a carbon atom with two double bonds: N#C-[CH-] rather than [N-]=C=C."""
BENZENE_COST, RING_COST, OTHER_RING_COST = -40, -5, -1
"""For a pi bond in a ring of six carbon atoms, in another ring of five or six atoms, and in any other ring."""

VALENCES = {
    5: {0: (3,), -1: (4,)},
    6: {0: (4,), 1: (3,), -1: (3,)},
    7: {0: (3,), 1: (4,), -1: (2,)},
    8: {0: (2,), 1: (3,), -1: (1,)},
    14: {0: (4,)},
    **{number: {0: (3, 5), 1: (4,), -1: (2,)} for number in PNICTOGENS},
    **{number: {0: (2, 4, 6), 1: (3, 5), -1: (1,)} for number in CHALCOGENS},
}
"""Number of bonds by atomic number and charge."""

OXO_GROUPS = {(6, 3, 2): (1, 0), (7, 3, 2): (1, 1), (16, 4, 2): (2, 0), (16, 4, 3): (2, 0)}
OXO_GROUPS |= {(number, 4, oxygens): (1, 0) for number in (15, 33) for oxygens in (1, 2, 3)}
"""Carboxylates, nitro groups, sulfones, sulfonates, phosphonates and the like, which never take part in anything: the
double bonds to oxygen and the charge of the central atom, by its atomic number, its bonds and its terminal oxygens."""


@dataclass(frozen=True)
class Part:
    """An atom of a conjugated system in the drawn form."""

    number: int
    hydrogens: int
    charge: int
    radical: int
    bonds: dict[int, int]
    """Orders of the bonds inside of the system, by neighbour."""
    outside: int
    """Sum of the orders of all other bonds, hydrogens included."""
    degree: int
    """Number of all bonds, hydrogens included."""
    isotope: int

    @property
    def is_tertiary_nitrogen(self) -> bool:
        """Whether it is a cation if it has a pi bond."""
        return (self.number, self.degree, self.hydrogens) == (7, 3, 0)

    @property
    def pi_bonds(self) -> int:
        return sum(self.bonds.values()) - len(self.bonds)


@functools.cache
def _conjugating() -> Chem.Mol:
    """Query for atoms whose element can have double bonds beside so many neighbours."""
    limits = {number: max(max(each) for each in valences.values()) for number, valences in VALENCES.items()}
    kinds = ",".join(f"#{number};D{{1-}};X{{-{limit - 1}}}" for number, limit in limits.items())
    return Chem.MolFromSmarts(f"[{kinds.replace(';', '&')}]")


@functools.cache
def _undecided_bond() -> Chem.Mol:
    """Query for a bond that is neither single, double nor triple."""
    return Chem.MolFromSmarts("*!-!=!#*")


@functools.cache
def _benzene() -> Chem.Mol:
    return Chem.MolFromSmarts("[#6]1~[#6]~[#6]~[#6]~[#6]~[#6]~1")


def conjugated_systems(mol: Chem.Mol, seeds: Iterable[int]) -> Iterator["ConjugatedSystem"]:
    """The conjugated systems of a Kekule form: connected atoms that can have double bonds, one of them a seed."""
    members = {index for match in mol.GetSubstructMatches(_conjugating()) for index in match}
    members -= {index for match in mol.GetSubstructMatches(_undecided_bond()) for index in match}
    for seed in sorted(seeds):
        parts: dict[int, Part] = {}
        waiting = [seed]
        while waiting:
            index = waiting.pop()
            if index in members and index not in parts:
                parts[index] = part = _part(mol.GetAtomWithIdx(index), members)
                waiting += part.bonds
        members -= parts.keys()
        if len(parts) > 1:
            yield ConjugatedSystem(parts)


def _part(atom: Chem.Atom, members: set[int]) -> Part:
    hydrogens, index = atom.GetTotalNumHs(), atom.GetIdx()
    orders = {bond.GetOtherAtomIdx(index): ORDERS[bond.GetBondType()] for bond in atom.GetBonds()}
    inside = {other: order for other, order in orders.items() if other in members}
    return Part(
        number=atom.GetAtomicNum(),
        hydrogens=hydrogens,
        charge=atom.GetFormalCharge(),
        radical=atom.GetNumRadicalElectrons(),
        bonds=inside,
        outside=hydrogens + sum(orders.values()) - sum(inside.values()),
        degree=hydrogens + len(orders),
        isotope=atom.GetIsotope(),
    )


class ConjugatedSystem:
    """A conjugated system: its atoms by their index in the molecule, as drawn."""

    def __init__(self, parts: dict[int, Part]):
        self.parts = parts
        self.charge = sum(part.charge for part in parts.values())
        self.radicals = sum(part.radical for part in parts.values())
        self.oxo = {} if self.radicals else dict(_oxo_groups(parts))
        """Terminal oxygens by the central atom of their group."""

    @property
    def max_charges(self) -> int:
        """Most charges that the canonical form can need: those of the drawn one."""
        ylides = sum(part.number in CHALCOGENS and part.degree == 2 for part in self.parts.values())
        return sum(abs(part.charge) for part in self.parts.values()) + 2 * ylides

    def has_choice(self, mol: Chem.Mol) -> bool:
        """Whether there may be another form, or the drawn one is not the canonical one."""
        if any(self._is_unusual(center, oxygens) for center, oxygens in self.oxo.items()):
            return True
        free = self.free()
        parts = [self.parts[index] for index in free]
        if any(part.charge or part.radical for part in parts):
            return True
        if any(part.number in CHALCOGENS and part.degree == 2 and part.pi_bonds for part in parts):
            return True
        return self._alternates(mol, free)

    def _is_unusual(self, center: int, oxygens: list[int]) -> bool:
        double, charge = OXO_GROUPS[self.kind(center)]
        drawn = sorted((self.parts[o].bonds[center], self.parts[o].charge) for o in oxygens)
        wanted = [(1, -1)] * (len(oxygens) - double) + [(2, 0)] * double
        alike = len({self.parts[oxygen].isotope for oxygen in oxygens}) == 1
        return drawn != wanted or self.parts[center].charge != charge or not alike

    def kind(self, center: int) -> tuple[int, int, int]:
        """The key of an oxo group in :data:`OXO_GROUPS`."""
        part = self.parts[center]
        return part.number, part.degree, len(self.oxo[center])

    def free(self) -> list[int]:
        """The atoms that do not belong to an oxo group."""
        bound = {*self.oxo, *(oxygen for oxygens in self.oxo.values() for oxygen in oxygens)}
        return [index for index in self.parts if index not in bound]

    def _alternates(self, mol: Chem.Mol, free: Iterable[int]) -> bool:
        """Whether pi bonds remain in rings, not all aromatic, when those that have only one place are taken away."""
        wanted = {index: self.parts[index].pi_bonds for index in free if self.parts[index].pi_bonds}
        neighbours = {index: {other for other in self.parts[index].bonds if other in wanted} for index in wanted}
        leaves = [index for index in wanted if len(neighbours[index]) == 1]
        while leaves:
            leaf = leaves.pop()
            if leaf not in wanted or len(neighbours[leaf]) != 1:
                continue
            (other,) = neighbours[leaf]
            wanted[other] -= wanted[leaf]
            for gone in [leaf] if wanted[other] > 0 else [leaf, other]:
                del wanted[gone]
                for near in neighbours.pop(gone):
                    if near in neighbours:
                        neighbours[near].discard(gone)
                        leaves += [near] if len(neighbours[near]) == 1 else []
            leaves += [other] if other in neighbours and len(neighbours[other]) == 1 else []
        drawn_single = (
            (i, j)
            for i, near in neighbours.items()
            for j in near
            if i < j and not mol.GetBondBetweenAtoms(i, j).GetIsAromatic()
        )
        return any(_is_in_ring(neighbours, *pair) for pair in drawn_single)

    def reduced(self, mol: Chem.Mol, free: Sequence[int]) -> System:
        """What all forms share of the atoms beside the oxo groups, which come in the order of ``free``."""
        place = {index: k for k, index in enumerate(free)}
        benzenes = [set(ring) for ring in mol.GetSubstructMatches(_benzene())]
        earlier = [
            {place[j]: _pi_bond_cost(mol, benzenes, i, j) for j in self.parts[i].bonds if place.get(j, k) < k}
            for k, i in enumerate(free)
        ]
        bound = sum(OXO_GROUPS[self.kind(c)][1] + OXO_GROUPS[self.kind(c)][0] - len(o) for c, o in self.oxo.items())
        neighbours = [sum(j in place for j in self.parts[i].bonds) for i in free]
        choices = [self._states(i, n) for i, n in zip(free, neighbours, strict=True)]
        return System(choices, earlier, self.charge - bound, self.radicals)

    def _states(self, index: int, neighbours: int) -> list[Choice]:
        """The states that an atom can have in any form, if it can have pi bonds to so many neighbours."""
        part = self.parts[index]
        single = part.outside + len(part.bonds)
        radicals = (0, 1) if self.radicals and part.number in RADICAL_COST else (0,)
        return [
            Choice(charge, unpaired, pi_bonds, cost + more + unpaired * RADICAL_COST.get(part.number, 0), separated)
            for charge, valence, cost, separated in self._valences(index)
            for unpaired in (radicals if not charge else (0,))
            for pi_bonds, more in _divided(part, valence - single - unpaired, neighbours)
        ]

    def _valences(self, index: int) -> Iterator[tuple[int, int, int, int]]:
        """Charge, number of bonds, cost, and charges that a state counts for, of every state of an atom."""
        part, around = self.parts[index], [self.parts[other] for other in self.parts[index].bonds]
        # C=S(IV) counts like the ylide that it is, so that thiazolium olates keep their charges.
        is_ylide = part.number in CHALCOGENS and part.degree == 2 and any(other.number == 6 for other in around)
        for charge, valences in VALENCES[part.number].items():
            cost = CHARGE_COST.get((part.number, charge), 0)
            if (part.number, charge) == (7, 1) and part.hydrogens:
                cost += PROTONATED_NITROGEN
            if (part.number, charge) == (7, -1) and any(other.is_tertiary_nitrogen for other in around):
                cost += NITROGEN_AT_CATION
            for level, valence in enumerate(valences):
                # RDKit writes P(V) with three neighbours as P+.
                if not (part.number in PNICTOGENS and valence == 5 and part.degree < 4):
                    yield charge, valence, cost + level * HYPERVALENT_COST, 2 if is_ylide and level == 1 else 0


def _is_in_ring(neighbours: dict[int, set[int]], first: int, second: int) -> bool:
    """Whether another way than their bond leads from an atom to its neighbour."""
    reached, waiting = {first}, [first]
    while waiting:
        index = waiting.pop()
        new = neighbours[index] - reached - ({second} if index == first else set())
        reached |= new
        waiting += new
    return second in reached


def _oxo_groups(parts: dict[int, Part]) -> Iterator[tuple[int, list[int]]]:
    """Central atom and terminal oxygens of every oxo group."""
    for center, part in parts.items():
        oxygens = [j for j in part.bonds if (parts[j].number, parts[j].degree) == (8, 1)]
        if (part.number, part.degree, len(oxygens)) in OXO_GROUPS:
            yield center, oxygens


def _divided(part: Part, extra: int, neighbours: int) -> Iterator[tuple[int, int]]:
    """The ways to divide pi bonds, with their cost: double bonds to so many neighbours, or a triple bond."""
    if 0 <= extra <= neighbours:
        is_cumulated = extra == 2 and part.number == 6
        yield extra, is_cumulated * CUMULATED_COST
    if extra == 2 and neighbours:
        yield TRIPLE, 0


def _pi_bond_cost(mol: Chem.Mol, benzenes: Sequence[set[int]], first: int, second: int) -> int:
    """The cost of a pi bond by the rings of its bond; ``benzenes`` are the atoms of all rings of six carbons."""
    if any(first in ring and second in ring for ring in benzenes):
        return BENZENE_COST
    sizes = mol.GetRingInfo().BondRingSizes(mol.GetBondBetweenAtoms(first, second).GetIdx())
    return 0 if not sizes else RING_COST if min(sizes) in (5, 6) else OTHER_RING_COST

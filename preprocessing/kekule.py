"""One Kekule form of every molecule: which bonds of a conjugated system are double where there are several ways.

A canonical SMILES is a function of bond orders. In rings that RDKit takes for aromatic they are all the same; in others
that alternate, such as those of biphenylene, cyclooctatetraene and azocine, the text depends on the form that was
drawn, though these are one molecule. The form that is written here is the first one in the canonical order of the
skeleton, in which all bonds of the system are alike.
"""

import functools
from collections.abc import Iterator, Sequence

from rdkit import Chem
from rdkit.Chem import BondStereo, BondType

MAX_STEPS = 2_000
"""Most steps of the search for a form; it needs about as many as there are bonds. Without one the drawn form stays."""
ORDERS = (BondType.SINGLE, BondType.DOUBLE, BondType.TRIPLE)


@functools.cache
def _between_double_bonds() -> Chem.Mol:
    """Query for a bond of a ring, not aromatic, between two atoms with double bonds."""
    return Chem.MolFromSmarts("[#6,#7;R;$(*=,:*)]!:;@[#6,#7;R;$(*=,:*)]")


def has_choice(mol: Chem.Mol) -> bool:
    """Whether :func:`canonical_kekule` may change a molecule, at a fraction of its time."""
    if not mol.HasSubstructMatch(_between_double_bonds()):
        return False
    return any(_alternates(mol, ring) for ring in mol.GetRingInfo().BondRings())


def _alternates(mol: Chem.Mol, ring: Sequence[int]) -> bool:
    """Whether every atom of a ring that is not aromatic has a double bond."""
    bonds = [mol.GetBondWithIdx(index) for index in ring]
    if all(bond.GetIsAromatic() for bond in bonds):
        return False
    return all(_is_unsaturated(bond.GetBeginAtom()) and _is_unsaturated(bond.GetEndAtom()) for bond in bonds)


def _is_unsaturated(atom: Chem.Atom) -> bool:
    return any(bond.GetBondType() in (BondType.DOUBLE, BondType.AROMATIC) for bond in atom.GetBonds())


def canonical_kekule(mol: Chem.Mol) -> Chem.Mol:
    """The sanitized molecule with its canonical choice of double bonds; ``mol`` itself where it has it already.

    A double bond that another form has as a single one loses its E or Z: the other form cannot say it, and the bond
    turns, as it does in cyclooctatetraene.
    """
    kekule = Chem.RWMol(mol)
    Chem.Kekulize(kekule, clearAromaticFlags=True)
    systems = list(_systems(kekule))
    ranks = _ranks(kekule, systems)
    changed = [_rewrite(kekule, system, ranks) for system in systems]
    if not any(changed):
        return mol
    for bond in kekule.GetBonds():
        bond.SetBondDir(Chem.BondDir.NONE)
    form = kekule.GetMol()
    Chem.SanitizeMol(form)
    # RDKit reads E and Z from the directions of single bonds; those around the bonds that lost it are gone.
    Chem.SetDoubleBondNeighborDirections(form)
    Chem.AssignStereochemistry(form, cleanIt=True, force=True)
    return form


def _systems(mol: Chem.Mol) -> Iterator[set[int]]:
    """The atoms of every conjugated system: neighbours with multiple bonds."""
    members = {end for bond in mol.GetBonds() if _extra(bond) for end in (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())}
    while members:
        system: set[int] = set()
        waiting = [min(members)]
        while waiting:
            index = waiting.pop()
            if index in members:
                members.remove(index)
                system.add(index)
                waiting += [other.GetIdx() for other in mol.GetAtomWithIdx(index).GetNeighbors()]
        yield system


def _extra(bond: Chem.Bond) -> int:
    """Bonds beyond the first one that a bond stands for."""
    return ORDERS.index(bond.GetBondType()) if bond.GetBondType() in ORDERS else 0


def _ranks(mol: Chem.Mol, systems: Sequence[set[int]]) -> list[int]:
    """Canonical ranks of the atoms of the skeleton: all bonds inside of systems are single."""
    skeleton = Chem.RWMol(mol)
    for system in systems:
        for index in system:
            atom = skeleton.GetAtomWithIdx(index)
            atom.SetNumExplicitHs(atom.GetTotalNumHs())
            atom.SetNoImplicit(True)
    for bond in skeleton.GetBonds():
        if any(bond.GetBeginAtomIdx() in system and bond.GetEndAtomIdx() in system for system in systems):
            bond.SetStereo(BondStereo.STEREONONE)
            bond.SetBondType(BondType.SINGLE)
    skeleton.UpdatePropertyCache(strict=False)
    return list(Chem.CanonicalRankAtoms(skeleton, breakTies=True))


def _rewrite(mol: Chem.RWMol, system: set[int], ranks: Sequence[int]) -> bool:
    """Give a system its canonical form, in place; returns whether that changes anything."""
    bonds = [b for b in mol.GetBonds() if b.GetBeginAtomIdx() in system and b.GetEndAtomIdx() in system]
    ends = {b.GetIdx(): tuple(sorted(ranks[end] for end in (b.GetBeginAtomIdx(), b.GetEndAtomIdx()))) for b in bonds}
    bonds.sort(key=lambda bond: ends[bond.GetIdx()])
    pairs = [(first, second) for first, second in (ends[bond.GetIdx()] for bond in bonds)]
    now = [_extra(bond) for bond in bonds]
    found = _Matching(pairs, now).first()
    if found is None:
        return False
    changed = found != now
    for number, bond in enumerate(bonds):
        is_stereo = bond.GetStereo() != BondStereo.STEREONONE
        if is_stereo and (not found[number] or _Matching(pairs, now).first(without=number) is not None):
            bond.SetStereo(BondStereo.STEREONONE)
            changed = True
    if found != now:
        for index in system:
            atom = mol.GetAtomWithIdx(index)
            atom.SetNumExplicitHs(atom.GetTotalNumHs())
            atom.SetNoImplicit(True)
        for bond, extra in zip(bonds, found, strict=True):
            bond.SetBondType(ORDERS[extra])
    return changed


class _Matching:
    """The search for multiple bonds that give every atom as many as it has.

    Args:
        pairs: the two atoms of every bond, in canonical order.
        extra: bonds beyond the first one that every bond stands for, in one of the forms.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]], extra: Sequence[int]):
        self.pairs = pairs
        self.at: dict[int, list[int]] = {}
        self.wanted: dict[int, int] = {}
        for number, ends in enumerate(pairs):
            for end in ends:
                self.at.setdefault(end, []).append(number)
                self.wanted[end] = self.wanted.get(end, 0) + extra[number]
        self.steps = 0

    def first(self, without: int | None = None) -> list[int] | None:
        """The first form, or the first in which a bond is single; None where there is none."""
        open_ = [-1] * len(self.pairs)
        if without is not None:
            open_[without] = 0
        return self._filled(dict(self.wanted), open_)

    def _filled(self, left: dict[int, int], extra: list[int]) -> list[int] | None:
        """Decide a bond of the atom that has the fewest open ones (-1), and then the rest."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            return None
        free = {atom: [k for k in self.at[atom] if extra[k] < 0] for atom, wanted in left.items() if wanted}
        if any(left[atom] > 2 * len(numbers) for atom, numbers in free.items()):
            return None
        if not free:
            return [max(each, 0) for each in extra]
        atom = min(free, key=lambda each: (len(free[each]), each))
        number = free[atom][0]
        first, second = self.pairs[number]
        for each in range(min(left[first], left[second], 2), -1, -1):
            decided = self._filled(
                {**left, first: left[first] - each, second: left[second] - each},
                [*extra[:number], each, *extra[number + 1 :]],
            )
            if decided is not None:
                return decided
        return None

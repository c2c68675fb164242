"""Whether the geometry of a text is one of the molecule that the text names.

One rule holds for every format. A text names a molecule: its elements, bonds, and the stereochemistry that it declares.
Every conformer must be one of this molecule. What the text leaves open, the first conformer that is adds.

- A bond must have the length of a bond, and atoms without one must not be as close as a bond (``bad_geometry``).
- The stereochemistry must be the one that the text declares, and that of the first conformer (``stereo_mismatch``).

A conformer that breaks the rule is left out and counted; a text whose conformers all do is rejected.
"""

from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from molstream.errors import MoleculeError
from molstream.preprocessing.alignment import MAX_SYMMETRIES
from molstream.preprocessing.geometry import MAX_ATOMIC_NUMBER, MAX_COORDINATE, MIN_ATOM_DISTANCE, GivenConformers
from molstream.preprocessing.hydrogens import without_hydrogens
from molstream.preprocessing.laying import atomic_numbers, laid, orders_can_move, stereochemistry

RADII = np.array([Chem.GetPeriodicTable().GetRcovalent(number) for number in range(MAX_ATOMIC_NUMBER + 1)])
"""Covalent radii by atomic number, angstrom."""

IS_NONMETAL = np.isin(np.arange(MAX_ATOMIC_NUMBER + 1), (1, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 53))
"""Elements, by atomic number, whose bonds are all drawn, one to a pair of electrons: not so those of metals and
boron."""

SHORTEST = 0.6
"""A bond is at least this times the sum of the covalent radii long. The shortest ones of computed geometries, triple
bonds, have 0.77 (QM9, PCQM4Mv2, MMFF94 suite). In models of the PDB some hydrogens on sulfur have 0.70; below 0.6 are
bonds such as C-C of 0.89 and C-Br of 1.07 angstrom, in 8 of 14,000."""

LONGEST = 1.3
"""A bond between non-metals is at most this times the sum long. The longest ones have 1.15 (O-O in PCQM4Mv2; QM9), 1.19
(C-O in MD17's trajectory of ethanol) and 1.26 (the hydrogens of one methyl group in a sample of GDB-7). Of 14,000
models of the PDB, 28 have a longer bond, from 1.99 angstrom between carbons on."""

LONGEST_OF_METALS = 1.5
"""The same limit for a bond of any other element: Cu-Cl at 3.11 angstrom, the longer bond of a Jahn-Teller complex, has
1.33."""

SEPARATE = 1.1
"""Non-metals without a bond are further apart than this times the sum. The closest ones have 1.15 (bridgeheads of
oxabicyclopentanes and ends of stretched O-N in QM9) and 1.18 (Si-Si across a ring), others 1.27 and more; the
longest bond of most molecules of QM9 has 1.00 to 1.08."""


@dataclass(frozen=True)
class Distances:
    """The distances that the pairs of m atoms of a molecule can have, angstrom."""

    shortest: np.ndarray
    """float64 [m, m]."""
    longest: np.ndarray
    """float64 [m, m]; infinite without a bond."""
    numbers: tuple[int, ...]
    """Atomic numbers."""

    @classmethod
    def of(cls, mol: Chem.Mol) -> "Distances":
        """The distances of a molecule by its bonds and elements."""
        numbers = atomic_numbers(mol)
        radii, drawn = RADII[numbers], IS_NONMETAL[numbers]
        sums, both = radii[:, None] + radii, drawn[:, None] & drawn
        bonded = Chem.GetAdjacencyMatrix(mol).astype(bool)
        shortest = sums * np.where(bonded, SHORTEST, np.where(both, SEPARATE, 0.0))
        np.maximum(shortest, MIN_ATOM_DISTANCE, out=shortest)
        np.fill_diagonal(shortest, 0.0)
        longest = np.where(bonded, sums * np.where(both, LONGEST, LONGEST_OF_METALS), np.inf)
        return cls(shortest, longest, tuple(numbers))

    def violation(self, positions: np.ndarray) -> str:
        """What is wrong with positions, float64 [m, 3]; empty if nothing is."""
        # NaN is not below anything.
        if not (np.abs(positions) < MAX_COORDINATE).all():
            return "a coordinate is not finite, or beyond a million angstrom"
        squared = np.zeros_like(self.shortest)
        for axis in positions.T:
            squared += (axis[:, None] - axis) ** 2
        wrong = (squared < self.shortest**2) | (squared > self.longest**2)
        if not wrong.any():
            return ""
        i, j = np.argwhere(wrong)[0].tolist()
        found, bonded = f"{squared[i, j] ** 0.5:.2f} angstrom", np.isfinite(self.longest[i, j])
        pair = " and ".join(Chem.GetPeriodicTable().GetElementSymbol(self.numbers[k]) for k in (i, j))
        if bonded:
            return f"a bond of {pair} is {found} long: expected {self.shortest[i, j]:.2f} to {self.longest[i, j]:.2f}"
        return f"{pair} without a bond are {found} apart: expected at least {self.shortest[i, j]:.2f}"


def parent_of(mol: Chem.Mol) -> Chem.Mol:
    """A molecule with a geometry, its hydrogens implicit where they can be, with the stereochemistry that it shows.

    Its double bonds are laid where the geometry has them before they are looked at.
    """
    parent = without_hydrogens(mol)
    if not orders_can_move(parent):
        return parent
    bare = Chem.Mol(parent)
    Chem.RemoveStereochemistry(bare)
    return without_hydrogens(laid(bare))


def checked_parent(mol: Chem.Mol, declared: Chem.Mol | None, distances: Distances) -> Chem.Mol:
    """The parent of a molecule with one conformer, by :func:`parent_of`.

    Args:
        declared: the molecule with the stereochemistry that its text declares, hydrogens implicit; None if it declares
            none.

    Raises:
        MoleculeError: the conformer is none of this molecule (reason ``bad_geometry`` or ``stereo_mismatch``).
    """
    if detail := distances.violation(mol.GetConformer().GetPositions()):
        raise MoleculeError("parse", "bad_geometry", detail)
    parent = parent_of(mol)
    if declared is not None and not has_stereochemistry(parent, declared):
        detail = f"the text names {Chem.MolToSmiles(declared)}, its geometry shows {Chem.MolToSmiles(parent)}"
        raise MoleculeError("parse", "stereo_mismatch", detail)
    return parent


def agreeing(given: GivenConformers, parent: Chem.Mol, distances: Distances) -> tuple[GivenConformers, tuple[str, ...]]:
    """The conformers that are of the same molecule as the first, which is right, and why each other one is not.

    Args:
        parent: of the first conformer, by :func:`checked_parent`.
    """
    if len(given.positions) == 1:
        return given, ()
    place = atoms_at(parent, given)
    shown = stereochemistry(parent)
    kept, left_out = [0], []
    for index in range(1, len(given.positions)):
        positions = given.positions[index]
        if distances.violation(positions):
            left_out.append("bad_geometry")
        elif stereochemistry(_moved(parent, positions[place])) != shown:
            left_out.append("stereo_mismatch")
        else:
            kept.append(index)
    return given.of_conformers(kept) if left_out else given, tuple(left_out)


def atoms_at(mol: Chem.Mol, given: GivenConformers) -> list[int]:
    """Indices in ``given`` of the atoms of ``mol``, found by their positions in the first conformer."""
    atom_at = {tuple(position): index for index, position in enumerate(given.positions[0].tolist())}
    return [atom_at[tuple(position)] for position in mol.GetConformer().GetPositions().tolist()]


def _moved(mol: Chem.Mol, positions: np.ndarray) -> Chem.Mol:
    """The molecule at other positions, with the stereochemistry that they show."""
    moved = Chem.Mol(mol)
    moved.GetConformer().SetPositions(positions)
    Chem.AssignStereochemistryFrom3D(moved)
    return moved


def has_stereochemistry(mol: Chem.Mol, declared: Chem.Mol) -> bool:
    """Whether ``mol`` has every stereocentre and double bond that ``declared`` specifies; it may have more.

    The two have the same atoms and bonds, in any order. A centre that the geometry shows flat does not have it. If
    MAX_SYMMETRIES ways to lay one on the other fail, none is taken to succeed.
    """
    shown = Chem.Mol(mol)
    # Unlike the tags of ``mol`` these include centres that RDKit takes for none because of others, as bridgeheads.
    Chem.AssignAtomChiralTagsFromStructure(shown, replaceExistingTags=True)
    tried = 0

    def within_bounds(_mol: Chem.Mol, _atoms: object) -> bool:
        nonlocal tried
        tried += 1
        return tried <= MAX_SYMMETRIES

    parameters = Chem.SubstructMatchParameters()
    parameters.useChirality = True
    parameters.maxMatches = 1
    parameters.setExtraFinalCheck(within_bounds)
    return shown.HasSubstructMatch(declared, parameters)

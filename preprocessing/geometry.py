"""Geometry that comes with an input: its conformers, and records of elements and positions that bonds are found for.

A geometry record is one line of JSON with these keys, absent ones left out::

    {"smiles": "O", "charge": 0, "numbers": [8, 1, 1], "positions": [[[x, y, z], ...], ...], "energies": [e, ...],
     "forces": [[[x, y, z], ...], ...]}

``numbers`` are the atomic numbers of all m atoms, hydrogens included; ``positions`` [c][m][3] are c conformers of one
molecule in angstrom; ``energies`` [c] in kcal/mol; ``forces`` [c][m][3] in kcal/mol/angstrom; ``charge`` is the total
charge, used if there is no ``smiles``. Other keys are ignored.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDetermineBonds, rdMolDescriptors

from molstream.errors import MoleculeError
from molstream.preprocessing.alignment import MAX_SYMMETRIES
from molstream.preprocessing.hydrogens import smiles_order
from molstream.preprocessing.rdkit_errors import rdkit_errors

MIN_ATOM_DISTANCE = 0.5
"""Angstrom: a given geometry with a closer pair of atoms is no geometry (the shortest bond, H-H, has 0.74)."""

MAX_COORDINATE = 1e6
"""Angstrom: a given geometry with a coordinate beyond it, or one that is not finite, is no geometry."""

BONDED = 1.15
"""Two atoms are bonded if they are closer than this times the sum of their covalent radii. Bonds have 0.9 to 1.1 in
QM9, PCQM4Mv2 and the ligands of the PDB; the closest atoms without a bond are bridgeheads of oxabicyclopentanes."""

STRETCHED = 1.4
"""The same limit if a SMILES says how many bonds there are; then the shortest ones are taken."""

MAX_ATOMIC_NUMBER = 118

MAX_CHARGE = 1000

MAX_BOND_ORDER_ITERATIONS = 10_000
"""Most assignments of bond orders that are tried if there is no SMILES: their number grows exponentially."""


@dataclass(frozen=True)
class GivenConformers:
    """The c conformers that an input brings for m atoms."""

    positions: np.ndarray
    """float64 [c, m, 3], angstrom."""
    energies: np.ndarray
    """float64 [c], kcal/mol; NaN where unknown."""
    forces: np.ndarray
    """float64 [c, m, 3], kcal/mol/angstrom; [0, m, 3] where unknown."""

    def of_atoms(self, index: np.ndarray | list[int]) -> "GivenConformers":
        """The conformers of the chosen atoms, in that order."""
        return GivenConformers(self.positions[:, index], self.energies, self.forces[:, index])

    @classmethod
    def from_positions(cls, positions: np.ndarray) -> "GivenConformers":
        """One conformer, float64 [m, 3], without energy and forces."""
        return cls(positions[None], np.full(1, np.nan), np.zeros((0, len(positions), 3)))


def is_geometry(positions: np.ndarray) -> bool:
    """Whether positions, float64 [m, 3], are finite and no two atoms collide."""
    # NaN is not below anything.
    if not (np.abs(positions) < MAX_COORDINATE).all():
        return False
    squared = ((positions[:, None] - positions[None]) ** 2).sum(-1)
    return squared[np.triu_indices(len(positions), 1)].min(initial=np.inf) >= MIN_ATOM_DISTANCE**2


def coordinate_order(positions: np.ndarray) -> np.ndarray:
    """Indices that sort atoms by x, then y, then z, int64 [m]: an order that does not depend on the file's."""
    return np.lexsort(positions.T[::-1])


def handed_as_written(mol: Chem.Mol) -> Chem.Mol:
    """``mol`` with its positions exchanged among equivalent atoms if they contradict its chirality tags.

    Canonical SMILES writes stereocentres that depend on each other, as in cis-1,3-dimethylcyclobutane, in one of the
    two ways that name the molecule, whichever way they were read; the other one then numbers equivalent atoms
    differently. If no numbering suits all tags, the molecule is returned as it is.
    """
    if _tags_hold(mol):
        return mol
    positions = mol.GetConformer().GetPositions()
    for numbering in mol.GetSubstructMatches(mol, uniquify=False, maxMatches=MAX_SYMMETRIES):
        dealt = Chem.Mol(mol)
        dealt.GetConformer().SetPositions(positions[list(numbering)])
        if _tags_hold(dealt):
            return dealt
    return mol


def _tags_hold(mol: Chem.Mol) -> bool:
    """Whether the positions show every specified stereocentre and double bond as the graph has it."""
    shown = Chem.Mol(mol)
    Chem.AssignAtomChiralTagsFromStructure(shown, replaceExistingTags=True)
    if not all(_is_tagged_like(atom, shown.GetAtomWithIdx(atom.GetIdx())) for atom in mol.GetAtoms()):
        return False
    Chem.AssignStereochemistryFrom3D(shown)
    return all(
        before.GetStereo() in (Chem.BondStereo.STEREONONE, after.GetStereo())
        for before, after in zip(mol.GetBonds(), shown.GetBonds(), strict=True)
    )


def _is_tagged_like(atom: Chem.Atom, shown: Chem.Atom) -> bool:
    """Whether an atom has no chirality tag, or that of another one with the same bonds."""
    if atom.GetChiralTag() == Chem.ChiralType.CHI_UNSPECIFIED:
        return True
    if atom.GetChiralTag() != shown.GetChiralTag():
        return False
    # More than four neighbours, or square planar ones, are told apart by a number beside the tag.
    number = "_chiralPermutation"
    return not atom.HasProp(number) or atom.GetIntProp(number) == shown.GetIntProp(number)


@dataclass(frozen=True)
class GeometryRecord:
    """One geometry record, its atoms sorted by their coordinates in the first conformer."""

    smiles: str | None
    charge: int
    numbers: np.ndarray
    """int64 [m], atomic numbers."""
    given: GivenConformers

    @classmethod
    def from_json(cls, text: str, max_atoms: int) -> "GeometryRecord":
        """The record of a line of JSON.

        Raises:
            MoleculeError: it is no geometry record (reason ``unparsable``), it has more than ``max_atoms`` atoms
                (``too_many_atoms``), or its positions are no geometry (``bad_geometry``).
        """
        try:
            record = _arrays(json.loads(text))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise MoleculeError("parse", "unparsable", f"geometry record: {type(error).__name__}: {error}") from error
        if len(record.numbers) > max_atoms:
            detail = f"{len(record.numbers)} atoms in the geometry; the limit max_smiles_length is {max_atoms}"
            raise MoleculeError("parse", "too_many_atoms", detail)
        for index, positions in enumerate(record.given.positions):
            if not is_geometry(positions):
                detail = f"conformer {index} is not finite, or two atoms are closer than {MIN_ATOM_DISTANCE} angstrom"
                raise MoleculeError("parse", "bad_geometry", detail)
        order = coordinate_order(record.given.positions[0])
        return cls(record.smiles, record.charge, record.numbers[order], record.given.of_atoms(order))

    def with_perceived_bonds(self) -> Chem.Mol:
        """The molecule whose bonds follow from distances, and their orders from the total charge.

        Raises:
            MoleculeError: no such orders exist (``no_bonds``).
        """
        with rdkit_errors("parse", "no_bonds"):
            mol = self._graph(BONDED, None)
            rdDetermineBonds.DetermineBondOrders(
                mol, charge=self.charge, embedChiral=False, maxIterations=MAX_BOND_ORDER_ITERATIONS
            )
            Chem.SanitizeMol(mol)
            return mol

    def matched(self, mol: Chem.Mol) -> Chem.Mol:
        """``mol``, which has all its hydrogens as atoms, with the geometry: its atoms in the order of the record's.

        Two graphs of elements and bonds are the same if their canonical SMILES are, and then the order of the atoms in
        the two SMILES is a match: unlike a substructure search this takes no longer for symmetric molecules.

        Raises:
            MoleculeError: elements or bonds are not those of the geometry (``geometry_mismatch``).
        """
        wanted = _skeleton(mol)
        geometry = self._graph(STRETCHED, wanted.GetNumBonds())
        formulas = [rdMolDescriptors.CalcMolFormula(skeleton) for skeleton in (wanted, geometry)]
        if formulas[0] != formulas[1]:
            detail = f"{self.smiles} is {formulas[0]}, the geometry {formulas[1]}"
            raise MoleculeError("parse", "geometry_mismatch", detail)
        if Chem.MolToSmiles(wanted) != Chem.MolToSmiles(geometry):
            detail = f"the bonds of {self.smiles} are not those of the atoms that are close to each other"
            raise MoleculeError("parse", "geometry_mismatch", detail)
        order = np.empty(len(self.numbers), dtype=np.int64)
        order[smiles_order(geometry)] = smiles_order(wanted)
        mol = Chem.RenumberAtoms(mol, order.tolist())
        mol.AddConformer(geometry.GetConformer(), assignId=True)
        return mol

    def _graph(self, limit: float, num_bonds: int | None) -> Chem.Mol:
        """Atoms, first conformer and single bonds: the pairs of atoms below ``limit``, at most the closest so many.

        Closeness is distance by the sum of covalent radii.
        """
        positions = self.given.positions[0]
        radius = np.array([Chem.GetPeriodicTable().GetRcovalent(number) for number in self.numbers.tolist()])
        first, second = np.triu_indices(len(positions), 1)
        closeness = np.linalg.norm(positions[first] - positions[second], axis=-1) / (radius[first] + radius[second])
        closest = np.argsort(closeness, kind="stable")[:num_bonds]
        pairs = closest[closeness[closest] < limit]
        mol = _bare(self.numbers.tolist(), zip(first[pairs].tolist(), second[pairs].tolist(), strict=True))
        conformer = Chem.Conformer(len(positions))
        conformer.SetPositions(positions)
        mol.AddConformer(conformer)
        return mol


def _arrays(record: Any) -> GeometryRecord:
    """The record in a parsed line of JSON, its atoms in the order of the line.

    Raises:
        ValueError, TypeError, KeyError: it is no geometry record.
    """
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    smiles, charge, numbers = record.get("smiles"), record.get("charge", 0), np.array(record["numbers"])
    if not isinstance(smiles, str | None):
        raise ValueError("'smiles' is no string")
    if not isinstance(charge, int) or abs(charge) > MAX_CHARGE:
        raise ValueError(f"'charge' is no whole number from -{MAX_CHARGE} to {MAX_CHARGE}")
    if numbers.dtype.kind != "i" or numbers.ndim != 1 or not ((numbers > 0) & (numbers <= MAX_ATOMIC_NUMBER)).all():
        raise ValueError(f"'numbers' is no list of atomic numbers from 1 to {MAX_ATOMIC_NUMBER}")
    positions = np.array(record["positions"], dtype=np.float64)
    energies = np.array(record.get("energies", [None] * len(positions)), dtype=np.float64)
    forces = np.array(record.get("forces", np.zeros((0, len(numbers), 3))), dtype=np.float64)
    shape = (len(positions), len(numbers), 3)
    if positions.shape != shape or not positions.size:
        raise ValueError(f"'positions' has the shape {positions.shape}; expected {shape} for {len(numbers)} atoms")
    if energies.shape != shape[:1] or forces.shape not in (shape, (0, *shape[1:])):
        raise ValueError(f"'energies' {energies.shape} or 'forces' {forces.shape} are not of the shape {shape}")
    if np.isinf(energies).any() or not np.isfinite(forces).all():
        raise ValueError("an energy is infinite, or a force is not finite")
    return GeometryRecord(smiles, charge, numbers, GivenConformers(positions, energies, forces))


def _skeleton(mol: Chem.Mol) -> Chem.Mol:
    """The graph of elements and bonds alone: no orders, charges, isotopes, stereochemistry or implicit hydrogens."""
    ends = ((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds())
    return _bare([atom.GetAtomicNum() for atom in mol.GetAtoms()], ends)


def _bare(numbers: list[int], ends: Iterable[tuple[int, int]]) -> Chem.Mol:
    """Atoms by number, single bonds between them, and nothing else."""
    mol = Chem.RWMol()
    for number in numbers:
        atom = Chem.Atom(number)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for begin, end in ends:
        mol.AddBond(begin, end, Chem.BondType.SINGLE)
    mol.UpdatePropertyCache(strict=False)
    return mol.GetMol()

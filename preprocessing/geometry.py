"""Geometry that comes with an input: its conformers, and records of elements and positions that bonds are found for.

A geometry record is one line of JSON with these keys, absent ones left out::

    {"smiles": "O", "charge": 0, "numbers": [8, 1, 1], "positions": [[[x, y, z], ...], ...], "energies": [e, ...],
     "forces": [[[x, y, z], ...], ...]}

``numbers`` are the atomic numbers of all m atoms, hydrogens included; ``positions`` [c][m][3] are c conformers of one
molecule in angstrom; ``energies`` [c] in kcal/mol; ``forces`` [c][m][3] in kcal/mol/angstrom; ``charge`` is the total
charge, used if there is no ``smiles``. Other keys are ignored.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDetermineBonds, rdMolDescriptors

from molstream.errors import MoleculeError
from molstream.preprocessing.hydrogens import smiles_order
from molstream.preprocessing.laying import bare_graph, coordinate_order, skeleton_of
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

    def of_conformers(self, index: Sequence[int]) -> "GivenConformers":
        """The chosen conformers, in that order."""
        chosen = list(index)
        forces = self.forces[chosen] if len(self.forces) else self.forces
        return GivenConformers(self.positions[chosen], self.energies[chosen], forces)

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


@dataclass(frozen=True)
class GeometryRecord:
    """One geometry record."""

    smiles: str | None
    charge: int
    numbers: np.ndarray
    """int64 [m], atomic numbers."""
    given: GivenConformers
    """All conformers of the record."""

    @classmethod
    def from_json(cls, text: str, max_atoms: int) -> "GeometryRecord":
        """The record of a line of JSON.

        Raises:
            MoleculeError: it is no geometry record (reason ``unparsable``), or it has more than ``max_atoms`` atoms
                (``too_many_atoms``).
        """
        try:
            record = _arrays(json.loads(text))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise MoleculeError("parse", "unparsable", f"geometry record: {type(error).__name__}: {error}") from error
        if len(record.numbers) > max_atoms:
            detail = f"{len(record.numbers)} atoms in the geometry; the limit max_smiles_length is {max_atoms}"
            raise MoleculeError("parse", "too_many_atoms", detail)
        return record

    def from_conformer(self, index: int) -> "GeometryRecord":
        """The record without the conformers before this one, its atoms sorted by their coordinates in this one."""
        order = coordinate_order(self.given.positions[index])
        given = self.given.of_conformers(range(index, len(self.given.positions))).of_atoms(order)
        return GeometryRecord(self.smiles, self.charge, self.numbers[order], given)

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
        wanted = skeleton_of(mol)
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
        mol = bare_graph(self.numbers.tolist(), zip(first[pairs].tolist(), second[pairs].tolist(), strict=True))
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

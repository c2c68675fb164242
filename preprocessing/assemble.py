"""From a record back to a molecule: elements, bonds, charges and positions -> an RDKit molecule, or why not."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import BondType

from molstream.errors import MoleculeError
from molstream.preprocessing.graph import ATOM_VOCABULARIES, BOND_VOCABULARIES, MISC

MAX_HYDROGENS = 4
"""Most hydrogens on aromatic nitrogens that are searched for; porphyrins, the largest such system of drugs, have 2."""


def assemble(
    atomic_number: np.ndarray,
    formal_charge: np.ndarray,
    bond_index: np.ndarray,
    bond_type: np.ndarray,
    positions: np.ndarray,
    has_hydrogens: bool,
) -> Chem.Mol:
    """The sanitized molecule with these atoms in this order, one conformer, and the stereochemistry that it shows.

    Implicit hydrogens fill the valences of the elements. Bonds do not say which nitrogens of an aromatic ring carry
    one: the fewest that give a Kekule structure do, and of equally few the first in the order of the atoms.

    Args:
        atomic_number: int [n], columns of the stored features: the atomic number - 1.
        formal_charge: int [n], indices in OGB's vocabulary.
        bond_index: int [2, b], each bond once.
        bond_type: int [b], indices in OGB's vocabulary.
        positions: float [n, 3], angstrom.
        has_hydrogens: whether every hydrogen is an atom; then no valence is filled.

    Raises:
        MoleculeError: a vocabulary index that several elements, charges or bonds share, an atom with too many bonds, or
            an aromatic system without a Kekule structure.
    """
    mol = Chem.RWMol()
    for column, charge in zip(atomic_number.tolist(), formal_charge.tolist(), strict=True):
        atom = Chem.Atom(_meaning(ATOM_VOCABULARIES["atomic_number"], column, "element"))
        atom.SetFormalCharge(_meaning(ATOM_VOCABULARIES["formal_charge"], charge, "charge"))
        atom.SetNoImplicit(has_hydrogens)
        mol.AddAtom(atom)
    for (i, j), index in zip(bond_index.T.tolist(), bond_type.tolist(), strict=True):
        kind = _meaning(BOND_VOCABULARIES["bond_type"], index, "bond")
        mol.AddBond(i, j, kind)
        if kind == BondType.AROMATIC:
            for end in (i, j):
                mol.GetAtomWithIdx(end).SetIsAromatic(True)
            mol.GetBondBetweenAtoms(i, j).SetIsAromatic(True)
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(positions.astype(np.float64))
    mol.AddConformer(conformer)
    with rdBase.BlockLogs():
        whole = _sanitized(mol)
        Chem.AssignStereochemistryFrom3D(whole)
    return whole


def _meaning(vocabulary: tuple, index: int, what: str):
    """The element, charge or bond type of a vocabulary index."""
    value = vocabulary[index]
    if value == MISC:
        raise MoleculeError("assemble", f"unknown_{what}", f"class {index} stands for every {what} not in OGB's table")
    return value


def _sanitized(mol: Chem.RWMol) -> Chem.Mol:
    """A copy with the fewest hydrogens on aromatic nitrogens that RDKit accepts."""
    problem: Exception = ValueError("no atoms")
    for nitrogens in _choices(mol):
        trial = Chem.Mol(mol)
        for index in nitrogens:
            trial.GetAtomWithIdx(index).SetNumExplicitHs(1)
        try:
            Chem.SanitizeMol(trial)
            return trial
        except Chem.KekulizeException as error:
            problem = error if not nitrogens else problem
        except Chem.MolSanitizeException as error:
            raise MoleculeError("assemble", "valence", " ".join(str(error).split())) from error
    raise MoleculeError("assemble", "no_kekule_structure", " ".join(str(problem).split())) from problem


def _choices(mol: Chem.RWMol) -> Iterator[tuple[int, ...]]:
    """Sets of aromatic nitrogens that could carry an implicit hydrogen, the smallest first."""
    able = [
        atom.GetIdx()
        for atom in mol.GetAtoms()
        if atom.GetAtomicNum() == 7 and atom.GetIsAromatic() and not atom.GetFormalCharge() and atom.GetDegree() == 2
    ]
    able = [] if all(atom.GetNoImplicit() for atom in mol.GetAtoms()) else able
    for count in range(min(len(able), MAX_HYDROGENS) + 1):
        yield from combinations(able, count)

"""Atom and bond features and bonds of a molecule, with the integer vocabularies of OGB (ogb >= 1.3, features.py).

An index is the value's position in its vocabulary. A value outside of a vocabulary gets the index of the last entry:
OGB does the same where it has an entry 'misc', and raises for unknown bond stereo, where we store STEREOANY.
"""

import functools

import numpy as np
from rdkit import Chem
from rdkit.Chem import BondStereo, BondType, ChiralType, HybridizationType

MISC = "misc"
"""The entry of a vocabulary for everything else."""

ATOM_VOCABULARIES: dict[str, tuple] = {
    "atomic_number": (*range(1, 119), MISC),
    "chirality": (
        ChiralType.CHI_UNSPECIFIED,
        ChiralType.CHI_TETRAHEDRAL_CW,
        ChiralType.CHI_TETRAHEDRAL_CCW,
        ChiralType.CHI_OTHER,
        MISC,
    ),
    "degree": (*range(11), MISC),
    "formal_charge": (*range(-5, 6), MISC),
    "num_hydrogens": (*range(9), MISC),
    "num_radical_electrons": (*range(5), MISC),
    "hybridization": (
        HybridizationType.SP,
        HybridizationType.SP2,
        HybridizationType.SP3,
        HybridizationType.SP3D,
        HybridizationType.SP3D2,
        MISC,
    ),
    "is_aromatic": (False, True),
    "is_in_ring": (False, True),
}
"""Name and vocabulary of the nine columns of ``atom_features``, in order."""

BOND_VOCABULARIES: dict[str, tuple] = {
    "bond_type": (BondType.SINGLE, BondType.DOUBLE, BondType.TRIPLE, BondType.AROMATIC, MISC),
    "stereo": (
        BondStereo.STEREONONE,
        BondStereo.STEREOZ,
        BondStereo.STEREOE,
        BondStereo.STEREOCIS,
        BondStereo.STEREOTRANS,
        BondStereo.STEREOANY,
    ),
    "is_conjugated": (False, True),
}
"""Name and vocabulary of the three columns of ``bond_features``, in order."""

ATOM_VOCABULARY_SIZES: tuple[int, ...] = tuple(map(len, ATOM_VOCABULARIES.values()))
"""(119, 5, 12, 12, 10, 6, 6, 2, 2): rows of the nine atom embedding tables."""

BOND_VOCABULARY_SIZES: tuple[int, ...] = tuple(map(len, BOND_VOCABULARIES.values()))
"""(5, 6, 2): rows of the three bond embedding tables."""

_ATOM_INDEX = [{value: index for index, value in enumerate(v)} for v in ATOM_VOCABULARIES.values()]
_BOND_INDEX = [{value: index for index, value in enumerate(v)} for v in BOND_VOCABULARIES.values()]


def atom_features(mol: Chem.Mol) -> np.ndarray:
    """OGB's nine columns of every atom, uint8 [n, 9].

    Hydrogens that are atoms of ``mol`` count in the degree of their neighbour, all others in its ``num_hydrogens``.
    """
    rows = [
        _atom_row(
            atom.GetAtomicNum(),
            atom.GetChiralTag(),
            atom.GetTotalDegree(),
            atom.GetFormalCharge(),
            atom.GetTotalNumHs(),
            atom.GetNumRadicalElectrons(),
            atom.GetHybridization(),
            atom.GetIsAromatic(),
            atom.IsInRing(),
        )
        # By index: with RDKit's own iterator this function takes a quarter longer.
        for atom in map(mol.GetAtomWithIdx, range(mol.GetNumAtoms()))
    ]
    return _matrix(rows, len(_ATOM_INDEX))


def bonds(mol: Chem.Mol) -> tuple[np.ndarray, np.ndarray]:
    """The two atoms of every bond, uint16 [2, b], and OGB's three columns, uint8 [b, 3]; each bond once."""
    ends: list[tuple[int, int]] = []
    rows: list[bytes] = []
    for bond in map(mol.GetBondWithIdx, range(mol.GetNumBonds())):
        ends.append((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        rows.append(_bond_row(bond.GetBondType(), bond.GetStereo(), bond.GetIsConjugated()))
    return np.array(ends, dtype=np.uint16).reshape(-1, 2).T.copy(), _matrix(rows, len(_BOND_INDEX))


@functools.cache
def _atom_row(*values: object) -> bytes:
    """Vocabulary indices of one atom; molecules have a few hundred kinds of atoms in all."""
    return bytes(index.get(value, len(index) - 1) for value, index in zip(values, _ATOM_INDEX, strict=True))


@functools.cache
def _bond_row(*values: object) -> bytes:
    """Vocabulary indices of one bond."""
    return bytes(index.get(value, len(index) - 1) for value, index in zip(values, _BOND_INDEX, strict=True))


def _matrix(rows: list[bytes], num_columns: int) -> np.ndarray:
    return np.frombuffer(bytearray().join(rows), dtype=np.uint8).reshape(-1, num_columns)

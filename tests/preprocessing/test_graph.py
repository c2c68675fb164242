"""Features against the ogb package itself, and the last entry of a vocabulary for what OGB does not know."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from rdkit import Chem

from molstream.preprocessing.graph import ATOM_VOCABULARY_SIZES, BOND_VOCABULARY_SIZES, atom_features, bonds
from molstream.preprocessing.standardize import StandardizedMolecule
from tests.support.diverse import DIVERSE, pubchem_substances, smiles_record, standardized, zinc


@pytest.fixture(scope="module")
def ogb() -> ModuleType:
    """``ogb.utils.features``, loaded alone: importing ogb itself may ask the network for a newer version."""
    spec = importlib.util.find_spec("ogb")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("ogb is not installed (pip install --no-deps ogb==1.3.6)")
    path = Path(spec.submodule_search_locations[0]) / "utils" / "features.py"
    features = importlib.util.spec_from_file_location("ogb_features", path)
    assert features is not None
    assert features.loader is not None
    module = importlib.util.module_from_spec(features)
    features.loader.exec_module(module)
    return module


def test_vocabulary_sizes(ogb):
    assert tuple(ogb.get_atom_feature_dims()) == ATOM_VOCABULARY_SIZES == (119, 5, 12, 12, 10, 6, 6, 2, 2)
    assert tuple(ogb.get_bond_feature_dims()) == BOND_VOCABULARY_SIZES == (5, 6, 2)


def assert_equals_ogb(ogb: ModuleType, mol: Chem.Mol) -> None:
    expected = [ogb.atom_to_feature_vector(atom) for atom in mol.GetAtoms()]
    assert atom_features(mol).tolist() == expected
    index, features = bonds(mol)
    assert features.tolist() == [ogb.bond_to_feature_vector(bond) for bond in mol.GetBonds()]
    assert index.T.tolist() == [[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()] for bond in mol.GetBonds()]


@pytest.mark.parametrize("text", DIVERSE.values(), ids=DIVERSE)
def test_equals_ogb(ogb, text):
    mol = Chem.MolFromSmiles(text)
    assert_equals_ogb(ogb, mol)
    assert_equals_ogb(ogb, Chem.AddHs(mol))


def test_equals_ogb_on_real_molecules(ogb, shared_data):
    checked = 0
    for text in zinc(shared_data)[::170] + pubchem_substances(shared_data)[::70]:
        molecule = standardized(smiles_record(text))
        if isinstance(molecule, StandardizedMolecule):
            assert_equals_ogb(ogb, molecule.mol)
            checked += 1
    assert checked > 2500


def test_arrays():
    features = atom_features(Chem.MolFromSmiles("O"))
    assert (features.dtype, features.shape) == (np.uint8, (1, 9))
    index, bond_features = bonds(Chem.MolFromSmiles("O"))
    assert (index.dtype, index.shape) == (np.uint16, (2, 0))
    assert (bond_features.dtype, bond_features.shape) == (np.uint8, (0, 3))
    assert index.flags.c_contiguous


def test_values_outside_the_vocabulary_take_its_last_entry():
    mol = Chem.MolFromSmiles("C->[Pt]")
    assert bonds(mol)[1][0, 0] == BOND_VOCABULARY_SIZES[0] - 1
    assert atom_features(Chem.MolFromSmiles("[Ti+6]"))[0, 3] == ATOM_VOCABULARY_SIZES[3] - 1
    atropisomer = Chem.MolFromSmiles("CC")
    atropisomer.GetBondWithIdx(0).SetStereo(Chem.BondStereo.STEREOATROPCW)
    assert bonds(atropisomer)[1][0, 1] == BOND_VOCABULARY_SIZES[1] - 1


def test_hydrogens_are_counted_or_atoms():
    mol = Chem.MolFromSmiles("CO")
    num_hydrogens, degree = 4, 2
    assert atom_features(mol)[:, num_hydrogens].tolist() == [3, 1]
    with_hydrogens = atom_features(Chem.AddHs(mol))
    assert with_hydrogens[:, num_hydrogens].tolist() == [0] * 6
    assert with_hydrogens[:2, degree].tolist() == atom_features(mol)[:, degree].tolist() == [4, 2]

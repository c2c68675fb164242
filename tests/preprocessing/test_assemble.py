"""Molecules put together again from the arrays of their records."""

import numpy as np
import pytest
from rdkit import Chem

from molstream.errors import MoleculeError
from molstream.preprocessing.assemble import assemble
from molstream.preprocessing.config import ConformerConfig, FeaturizeConfig
from molstream.preprocessing.featurize import describe, featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule
from tests.support.datasets import DRUGS

CHARGED = ("C[N+](C)(C)CC(=O)[O-]", "O=[N+]([O-])c1ccccc1", "C[n+]1ccccc1", "[C-]#[O+]", "CC(C)=[N+]=[N-]")
HETEROCYCLES = ("c1cc[nH]c1", "Cc1cnc[nH]1", "c1ccc2[nH]ccc2c1", "O=c1cc[nH]c(=O)[nH]1", "Nc1ncnc2nc[nH]c12", "c1ccsc1")
UNBONDED = FeaturizeConfig(conformers=ConformerConfig(force_field="none"))


def sample_of(smiles: str, config: FeaturizeConfig = UNBONDED) -> MoleculeSample:
    found = featurize(RawMolecule(smiles, "smiles", "", 0), config)
    assert isinstance(found, MoleculeSample), found
    return found


def assembled(sample: MoleculeSample, has_hydrogens: bool = False, **changes: np.ndarray) -> Chem.Mol:
    fields = {
        "atomic_number": sample.atom_features[:, 0],
        "formal_charge": sample.atom_features[:, 3],
        "bond_index": sample.bond_index,
        "bond_type": sample.bond_features[:, 0],
        "positions": sample.positions[0],
        **changes,
    }
    return assemble(**fields, has_hydrogens=has_hydrogens)


def key_of(mol: Chem.Mol) -> str:
    return describe(RawMolecule(Chem.MolToSmiles(mol), "smiles", "", 0), UNBONDED).sample.key


@pytest.mark.parametrize("smiles", [*DRUGS, *CHARGED, *HETEROCYCLES, "C", "[Na+]", "CC"])
def test_a_record_becomes_its_own_molecule_again(smiles):
    """Where the SMILES says all of the stereochemistry, with it: the positions have it too."""
    sample = sample_of(smiles)
    mol = assembled(sample)
    stereo = Chem.FindPotentialStereo(Chem.MolFromSmiles(sample.smiles))
    specified = all(centre.specified == Chem.StereoSpecified.Specified for centre in stereo)
    found, wanted = key_of(mol), sample.key
    assert found == wanted if specified else found.split("-")[0] == wanted.split("-")[0]
    assert [a.GetAtomicNum() - 1 for a in mol.GetAtoms()] == sample.atom_features[:, 0].tolist()
    np.testing.assert_allclose(mol.GetConformer().GetPositions(), sample.positions[0], atol=1e-6)


def test_the_mirror_image_of_the_positions_is_the_other_enantiomer():
    sample = sample_of("C[C@H](N)C(=O)O")
    mirrored = assembled(sample, positions=sample.positions[0] * [-1, 1, 1])
    assert Chem.MolToSmiles(mirrored) == Chem.CanonSmiles("C[C@@H](N)C(=O)O")


def test_with_all_hydrogens_as_atoms_none_is_added():
    config = FeaturizeConfig(hydrogens="all", conformers=ConformerConfig(force_field="none"))
    for smiles in ("CCO", "c1cc[nH]c1"):
        mol = assembled(sample_of(smiles, config), has_hydrogens=True)
        assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == Chem.CanonSmiles(smiles)
        assert all(atom.GetNumImplicitHs() == 0 for atom in mol.GetAtoms())


def test_what_is_no_molecule_is_told():
    ethane = sample_of("CC")
    neopentane, double = sample_of("CC(C)(C)C"), np.ones(4, np.int64)
    with pytest.raises(MoleculeError, match=r"valence.*for atom # 1 C, 8"):
        assembled(neopentane, bond_type=double)
    with pytest.raises(MoleculeError, match="no_kekule_structure"):
        assembled(sample_of("C1CCCC1"), bond_type=np.full(5, 3))
    with pytest.raises(MoleculeError, match="unknown_bond"):
        assembled(ethane, bond_type=np.array([4]))
    with pytest.raises(MoleculeError, match="unknown_charge"):
        assembled(ethane, formal_charge=np.array([5, 11]))
    with pytest.raises(MoleculeError, match="unknown_element"):
        assembled(ethane, atomic_number=np.array([5, 118]))

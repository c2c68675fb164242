"""Descriptors: RDKit's own values, the same bits for every spelling, NaN for what is undefined."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pytest
import rdkit
from rdkit import Chem, rdBase
from rdkit.Chem import Descriptors

from molstream.errors import ConfigError
from molstream.preprocessing import descriptors as module
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.descriptors import DESCRIPTORS_V1, descriptor_names, descriptors
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample
from tests.support.diverse import (
    DIVERSE,
    FLAT,
    heteroaromatics,
    natural_products,
    pubchem_substances,
    sample,
    screened,
    smiles_record,
    zinc,
)
from tests.support.spellings import other_spellings

OF_CHARGES = tuple(f"PEOE_VSA{k}" for k in range(1, 15)) + tuple(
    f"{which}PartialCharge" for which in ("Max", "Min", "MaxAbs", "MinAbs")
)


def by_name(mol: Chem.Mol) -> dict[str, float]:
    return dict(zip(DESCRIPTORS_V1, descriptors(mol).tolist(), strict=True))


@pytest.fixture
def other_rdkit(monkeypatch) -> Iterator[dict]:
    """The descriptors of RDKit by name, which a test may change."""
    known = dict(Descriptors.descList)
    module._functions.cache_clear()
    monkeypatch.setattr(Descriptors, "descList", known.items())
    yield known
    module._functions.cache_clear()


def test_the_list_is_fixed():
    """Another list needs another name: datasets and models say which numbers are at which place by it."""
    digest = hashlib.sha256(" ".join(DESCRIPTORS_V1).encode()).hexdigest()
    assert (len(DESCRIPTORS_V1), digest[:16]) == (200, "673932973cae3d01")
    assert len(set(DESCRIPTORS_V1)) == 200
    assert descriptor_names("rdkit2d") == DESCRIPTORS_V1
    assert descriptor_names("none") == ()


def test_stored_values_are_those_of_rdkit(shared_data):
    sets = (zinc, pubchem_substances, natural_products, heteroaromatics, screened)
    checked = 0
    for texts in (read(shared_data) for read in sets):
        for text in texts[7 :: len(texts) // 42]:
            stored = featurize(smiles_record(text), FLAT)
            if isinstance(stored, MoleculeSample):
                mol = Chem.MolFromSmiles(stored.smiles)
                with np.errstate(over="ignore"):
                    own = np.array([function(mol) for _, function in Descriptors.descList]).astype(np.float32)
                expected = dict(zip([name for name, _ in Descriptors.descList], own, strict=True))
                differing = [
                    name
                    for name, value in zip(DESCRIPTORS_V1, stored.descriptors, strict=True)
                    if value != expected[name] and not (np.isnan(value) and name in OF_CHARGES)
                ]
                assert not differing, (text, differing)
                checked += 1
    assert checked >= 200


def test_every_spelling_of_real_molecules_gives_the_same_bits(shared_data):
    checked = 0
    for text in zinc(shared_data)[::9000] + natural_products(shared_data)[::4000] + list(DIVERSE.values()):
        expected = featurize(smiles_record(text), FLAT)
        if isinstance(expected, MoleculeSample):
            for kind, spelling in other_spellings(expected.smiles, seed=3):
                if kind in ("order", "Kekule form"):
                    assert sample(spelling, FLAT).descriptors.tobytes() == expected.descriptors.tobytes(), spelling
                    checked += 1
    assert checked >= 150


@pytest.mark.parametrize("text", ["C[Hg]C", "C[Se]C", "C[As](C)CCCCCCCCCCCCCCCCCCO", "OCCCCCCCCCCCCCCCCCC[As](C)C"])
def test_without_charges_what_is_computed_from_them_is_missing(text):
    """RDKit's own extremes are infinite, finite or NaN there, depending on which atom comes first."""
    found = by_name(Chem.MolFromSmiles(text))
    assert {name for name, value in found.items() if np.isnan(value)} == set(OF_CHARGES)


def test_what_is_infinite_too_large_or_raises_is_missing(other_rdkit):
    def fails(mol: Chem.Mol) -> float:
        raise ZeroDivisionError

    other_rdkit |= {"MolWt": lambda mol: np.inf, "TPSA": lambda mol: -1e39, "MolLogP": fails}
    found = by_name(Chem.MolFromSmiles("CCO"))
    assert {name for name, value in found.items() if np.isnan(value)} == {"MolWt", "TPSA", "MolLogP"}


def test_an_rdkit_without_some_of_them_is_named(other_rdkit):
    del other_rdkit["TPSA"], other_rdkit["fr_urea"]
    with pytest.raises(ConfigError, match=rf"RDKit {rdkit.__version__} has no descriptors TPSA, fr_urea: .*=none"):
        descriptor_names("rdkit2d")
    with pytest.raises(ConfigError, match="no descriptors TPSA, fr_urea"):
        featurize("CCO")


def test_the_molecule_is_not_changed():
    mol = Chem.MolFromSmiles("CCO")
    before = mol.ToBinary(Chem.PropertyPickleOptions.AllProps)
    descriptors(mol)
    assert mol.ToBinary(Chem.PropertyPickleOptions.AllProps) == before
    assert not mol.GetAtomWithIdx(0).HasProp("_GasteigerCharge")


def test_a_record_has_them_unless_the_settings_want_none():
    with rdBase.BlockLogs():
        stored = sample("OCC", FeaturizeConfig(hydrogens="all", conformers=FLAT.conformers))
    assert stored.descriptors.dtype == np.float32
    # Of the molecule, not of its stored atoms: RDKit counts on implicit hydrogens.
    np.testing.assert_array_equal(stored.descriptors, descriptors(Chem.MolFromSmiles("CCO")))
    assert sample("OCC", FeaturizeConfig(conformers=FLAT.conformers, descriptors="none")).descriptors.shape == (0,)
    with pytest.raises(ConfigError, match="descriptors"):
        FeaturizeConfig(descriptors="mordred")  # pyright: ignore[reportArgumentType]

"""Vectors that are means over conformers: made ones, those of a molecule of RDKit, and those of a geometry record."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molstream.errors import ConfigError, DataError
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule
from molstream.training.inference.embedder import MoleculeEmbedder
from molstream.training.inference.pretrained import load_pretrained
from tests.support.exports import write_export

SMILES = ["OCCN(C)CC1CC1", "C[C@H](N)C(=O)OCC", "c1ccccc1CCN"]
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("export") / "both")


def several(smiles: str, count: int) -> Chem.Mol:
    """A molecule with hydrogens and 3D conformers."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert len(rdDistGeom.EmbedMultipleConfs(mol, count, randomSeed=5)) == count
    return mol


def vectors_of(embedder: MoleculeEmbedder, samples: list[MoleculeSample]) -> np.ndarray:
    """The vectors of molecules that are featurized already."""
    return embedder.embed_records([RawMolecule("", "smiles", "", 0)] * len(samples), lambda _: iter(samples)).vectors


@pytest.mark.parametrize("batch_size", [2, 256])
def test_the_3d_part_is_the_mean_over_the_conformers_that_are_made(both, batch_size):
    found = MoleculeEmbedder(both, batch_size=batch_size, num_conformers=4).transform(SMILES)
    trained_on = load_pretrained(both).featurize
    config = replace(trained_on, conformers=replace(trained_on.conformers, num_conformers=4))
    embedder = MoleculeEmbedder(both)
    for row, smiles in enumerate(SMILES):
        sample = featurize(smiles, config)
        assert isinstance(sample, MoleculeSample)
        assert len(sample.positions) == 4
        each = [replace(sample, positions=sample.positions[k : k + 1]) for k in range(4)]
        vectors = vectors_of(embedder, each)
        assert np.abs(vectors[0, 96:] - vectors[1, 96:]).max() > 1e-4
        np.testing.assert_allclose(found[row], vectors.mean(0), **CLOSE)


def test_one_conformer_is_that_of_the_default(both):
    one = MoleculeEmbedder(both, representation="3d", num_conformers=1).transform(SMILES)
    np.testing.assert_allclose(one, MoleculeEmbedder(both, representation="3d").transform(SMILES), **CLOSE)


def test_the_conformers_of_a_molecule_or_a_record_are_its_own(both):
    mol = several(SMILES[0], 3)
    singles = [Chem.Mol(mol, confId=k) for k in range(3)]
    record = {
        "smiles": SMILES[0],
        "numbers": [atom.GetAtomicNum() for atom in mol.GetAtoms()],
        "positions": [conformer.GetPositions().tolist() for conformer in mol.GetConformers()],
    }
    embedder = MoleculeEmbedder(both, num_conformers=7)
    first, *others = embedder.transform(singles)
    mean = np.mean([first, *others], axis=0)
    np.testing.assert_allclose(embedder.transform(mol)[0], mean, **CLOSE)
    # A mol block has four decimals.
    raw = RawMolecule(json.dumps(record), "geometry", "", 0)
    np.testing.assert_allclose(embedder.transform(raw)[0], mean, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(MoleculeEmbedder(both).transform([mol])[0], first, **CLOSE)


def test_rows_are_those_of_the_molecules_and_one_wrong_conformer_is_a_failure(both):
    wrong = several(SMILES[1], 3)
    wrong.GetConformer(2).SetPositions(wrong.GetConformer(2).GetPositions() * [-1, 1, 1])
    # Conformers of either form of a centre that the molecule leaves open.
    either = several("CC(N)C(=O)OCC", 2)
    either.GetConformer(1).SetPositions(either.GetConformer(0).GetPositions() * [-1, 1, 1])
    embedder = MoleculeEmbedder(both, num_conformers=2)
    vectors = embedder.transform([several(SMILES[0], 3), wrong, SMILES[2], either, "CCO"])
    assert sorted(embedder.failures_) == [1, 3]
    assert "its 3D conformer 2 is of another stereoisomer" in embedder.failures_[1]
    assert "stereo_mismatch: its 3D conformers show" in embedder.failures_[3]
    np.testing.assert_array_equal(np.isnan(vectors).any(1), [False, True, False, True, False])
    np.testing.assert_allclose(vectors[4], embedder.transform(["CCO"])[0], **CLOSE)
    with pytest.raises(DataError, match=r"row 1, .*its 3D conformer 2"):
        MoleculeEmbedder(both, num_conformers=2, on_error="raise").transform([several(SMILES[0], 3), wrong])


@pytest.mark.parametrize("number", [0, -1, 2.5, "3", 1001])
def test_numbers_of_conformers_that_are_none_are_refused(both, number):
    with pytest.raises(ConfigError, match=r"num_conformers=.*: expected a whole number from 1 to 1000, or None"):
        MoleculeEmbedder(both, num_conformers=number).fit(SMILES)


def test_graph_vectors_have_no_conformers_to_average(both):
    with pytest.raises(ConfigError, match="num_conformers=2: no vector depends on conformers"):
        MoleculeEmbedder(both, representation="2d", num_conformers=2).fit(SMILES)

"""Vectors of atoms in the order of the input, however this is written."""

import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molstream.errors import DataError
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import Format, MoleculeSample, RawMolecule
from molstream.preprocessing.hydrogens import smiles_order
from molstream.training.data.collate import collate_samples
from molstream.training.inference.embedder import MoleculeEmbedder
from molstream.training.inference.pretrained import load_pretrained
from tests.support.diverse import zinc
from tests.support.exports import write_export

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("export") / "both")


@pytest.fixture(scope="module")
def graphs(both):
    return MoleculeEmbedder(both, representation="2d")


def shuffled(mol: Chem.Mol, seed: int) -> tuple[Chem.Mol, list[int]]:
    """A molecule in another order of atoms, and which atom each was."""
    order = list(range(mol.GetNumAtoms()))
    random.Random(seed).shuffle(order)
    return Chem.RenumberAtoms(mol, order), order


def close(left: np.ndarray, right: np.ndarray) -> bool:
    return left.shape == right.shape and np.allclose(left, right, **CLOSE, equal_nan=True)


def test_an_atom_has_its_vector_in_any_order(graphs, shared_data):
    mols = [Chem.MolFromSmiles(text) for text in zinc(shared_data)[:6000:20]]
    assert len(mols) == 300
    others = [shuffled(mol, seed) for seed, mol in enumerate(mols)]
    texts = [Chem.MolToSmiles(mol, doRandom=True) for mol in mols]
    written_order = {text: smiles_order(mol) for text, mol in zip(texts, mols)}
    vectors = graphs.transform_atoms(mols)
    assert graphs.failures_ == {}
    assert all(not np.isnan(rows).any() and rows.shape == (mol.GetNumAtoms(), 32) for rows, mol in zip(vectors, mols))
    from_mols = graphs.transform_atoms([mol for mol, _ in others])
    from_texts = graphs.transform_atoms(texts)
    for mol, rows, (_, order), again, text, written in zip(mols, vectors, others, from_mols, texts, from_texts):
        assert close(rows[order], again), Chem.MolToSmiles(mol)
        assert close(rows[written_order[text]], written), text


def test_the_vectors_are_those_of_the_encoder_before_pooling(both, graphs, shared_data):
    config = load_pretrained(both).featurize
    for text in zinc(shared_data)[:2000:100]:
        sample = featurize(text, config)
        assert isinstance(sample, MoleculeSample)
        with torch.no_grad():
            nodes = load_pretrained(both, representation="2d").nodes(collate_samples([sample]))["2d"].numpy()
        mol, order = shuffled(Chem.MolFromSmiles(sample.smiles), seed=len(text))
        # Equivalent atoms have the mean of their vectors.
        ranks = np.array(Chem.CanonicalRankAtoms(Chem.MolFromSmiles(sample.smiles), breakTies=False))
        means = np.array([nodes[ranks == rank].mean(0) for rank in ranks])
        assert close(graphs.transform_atoms(mol)[0], means[order])


def test_what_standardization_changes_keeps_its_place(graphs):
    acid, salt, respelled = graphs.transform_atoms(["CC(=O)O", "CC(=O)[O-].[Na+]", "O[13CH2]C"])
    np.testing.assert_allclose(salt[:4], acid, **CLOSE)
    assert np.isnan(salt[4]).all()
    assert not np.isnan(respelled).any()
    [first, second] = graphs.transform_atoms(["[Na+].C[N+](=O)[O-].[Cl-]", "CN(=O)=O"])
    assert np.isnan(first).all(1).tolist() == [True, False, False, False, False, True]
    assert close(first[1:3], second[:2])
    # A hydrogen that is written is an atom for RDKit's molecule with hydrogens, and none for that of a SMILES.
    ethanol = Chem.MolFromSmiles("CCO")
    [whole] = graphs.transform_atoms([Chem.AddHs(ethanol)])
    assert np.isnan(whole).all(1).tolist() == [False] * 3 + [True] * 6
    assert close(whole[:3], graphs.transform_atoms(ethanol)[0])
    [written, plain] = graphs.transform_atoms(["[H]C([H])([H])CO", "CCO"])
    assert close(written, plain)


@pytest.mark.parametrize("hydrogens", ["heavy", "all"])
def test_geometry_follows_the_atoms(tmp_path, hydrogens):
    export = write_export(tmp_path / "export", featurize=FeaturizeConfig(descriptors="none", hydrogens=hydrogens))
    mol = Chem.AddHs(Chem.MolFromSmiles("C[C@H](N)C(=O)OCC1CC1"))
    assert len(rdDistGeom.EmbedMultipleConfs(mol, 3, randomSeed=2)) == 3
    other, order = shuffled(mol, 4)
    record = {
        "smiles": Chem.MolToSmiles(Chem.RemoveHs(mol)),
        "numbers": [atom.GetAtomicNum() for atom in other.GetAtoms()],
        "positions": [conformer.GetPositions().tolist() for conformer in other.GetConformers()],
    }
    inputs: tuple[tuple[Format, str], ...] = (
        ("molblock", Chem.MolToMolBlock(other)),
        ("geometry", json.dumps(record)),
    )
    raws = [RawMolecule(text, format, "", 0) for format, text in inputs]
    for number in (None, 2):
        embedder = MoleculeEmbedder(export, num_conformers=number)
        rows, again, block, geometry = embedder.transform_atoms([mol, other, *raws])
        heavy = [atom.GetAtomicNum() > 1 for atom in mol.GetAtoms()]
        assert (~np.isnan(rows).any(1)).tolist() == heavy
        assert close(rows[order], again)
        np.testing.assert_allclose(geometry, again, rtol=1e-2, atol=1e-3)
        if number is None:
            assert close(again, block)
        assert rows.shape[1] == 64


def test_atoms_pool_to_the_molecule_s_vector(both):
    embedder = MoleculeEmbedder(both, readout="mean")
    texts = ["CC(=O)Oc1ccccc1C(=O)O", "C", "OCC"]
    means = [rows.mean(0) for rows in embedder.transform_atoms(texts)]
    np.testing.assert_allclose(means, embedder.transform(texts), **CLOSE)


def test_a_molecule_that_fails_has_no_rows(both, graphs):
    rows = graphs.transform_atoms(["CCO", "junk", None, Chem.MolFromSmiles("*C"), "C"])
    assert [len(each) for each in rows] == [3, 0, 0, 0, 1]
    assert {each.shape[1] for each in rows} == {32}
    assert sorted(graphs.failures_) == [1, 2, 3]
    assert "dummy_atom" in graphs.failures_[3]
    with pytest.raises(DataError, match="row 1, 'junk': parse: unparsable"):
        MoleculeEmbedder(both, on_error="raise").transform_atoms(["C", "junk"])
    assert graphs.transform_atoms([]) == []

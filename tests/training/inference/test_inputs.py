"""What an embedder takes for molecules: the same vectors from every container, and a TypeError for what holds none."""

from collections import UserList

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from molstream import generate
from molstream.errors import CheckpointError, ConfigError, DataError
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import RawMolecule, Rejection
from molstream.training.inference.embedder import MoleculeEmbedder
from molstream.training.inference.inputs import records

SMILES = ["CCO", "c1ccccc1O", "C[C@H](N)C(=O)O", "C1CCNCC1"]
FRAME = pd.DataFrame({"id": [1, 2, 3, 4], "smiles": SMILES}, index=[7, 5, 3, 1])


@pytest.fixture(scope="module")
def embedder(export):
    return MoleculeEmbedder.from_pretrained(export, representation="2d")


CONTAINERS = {
    "tuple": tuple(SMILES),
    "sequence": UserList(SMILES),
    "keys": dict.fromkeys(SMILES).keys(),
    "array": np.array(SMILES),
    "objects": np.array(SMILES, dtype=object),
    "texts": np.array(SMILES, dtype=np.dtypes.StringDType()),
    "Series": FRAME["smiles"],
    "Index": pd.Index(SMILES),
    "categories": FRAME["smiles"].astype("category"),
    "frame": FRAME[["smiles"]],
    "frame whose column is a number": pd.DataFrame({0: SMILES}),
    "arrow table": pa.table({"smiles": SMILES}),
    "arrow column": pa.chunked_array([SMILES[:2], SMILES[2:]]),
    "records": [RawMolecule(text, "smiles", "a.smi", row) for row, text in enumerate(SMILES)],
    "RDKit": [Chem.MolFromSmiles(text) for text in SMILES],
    "mixed": [SMILES[0], Chem.MolFromSmiles(SMILES[1]), RawMolecule(SMILES[2], "smiles", "", 2), np.str_(SMILES[3])],
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_the_same_vectors(embedder, name):
    expected = embedder.transform(SMILES)
    np.testing.assert_array_equal(embedder.transform(CONTAINERS[name]), expected)
    assert embedder.failures_ == {}
    embedder.fit(CONTAINERS[name])


def test_a_generator_is_taken_once_by_fit_and_transform_together(embedder):
    np.testing.assert_array_equal(embedder.fit_transform(text for text in SMILES), embedder.transform(SMILES))


@pytest.mark.parametrize("molecule", ["CCO", Chem.MolFromSmiles("CCO"), RawMolecule("CCO", "smiles", "", 0)])
def test_a_single_molecule_is_one_row(embedder, molecule):
    np.testing.assert_array_equal(embedder.transform(molecule), embedder.transform(["CCO"]))


WRONG = [
    (FRAME, r"got pandas.DataFrame of 2 columns \(id, smiles\): expected one.*frame\['smiles'\]"),
    (FRAME[[]], r"DataFrame of 0 columns"),
    (pa.table({"a": SMILES, "b": SMILES}), r"got pyarrow.Table of 2 columns \(a, b\)"),
    (np.array([SMILES]), r"got numpy.ndarray of shape \[1, 4\]: expected SMILES, RDKit molecules"),
    (np.array([SMILES]).T, r"shape \[4, 1\]"),
    (np.array("CCO"), r"shape \[\]"),
    (b"CCO", r"got bytes: expected SMILES"),
    (bytearray(b"CCO"), "got bytearray"),
    ({"CCO": 1}, "got dict"),
    ({"CCO", "C"}, "got set"),
    (None, "got NoneType"),
    (3, "got int"),
    ([b"CCO"], r"item 0 is bytes, b'CCO': expected a SMILES, an RDKit molecule or a RawMolecule"),
    (np.array([b"CCO"]), "item 0 is numpy.bytes"),
    (np.array([1.5, 2.0]), "item 0 is numpy.float64"),
    (["CCO", 3], "item 1 is int, 3"),
    (["CCO", ["C"]], r"item 1 is list, \['C'\]"),
    ([{"smiles": "C"}], "item 0 is dict"),
    ([SMILES], "item 0 is list"),
    (FRAME["id"], "item 0 is int"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_what_holds_no_molecules_is_a_type_error(embedder, small_run, wrong, message):
    for call in (embedder.transform, embedder.fit, embedder.fit_transform):
        with pytest.raises(TypeError, match=message):
            call(wrong)
    with pytest.raises(TypeError, match=message):
        generate(small_run, wrong)


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT])
def test_a_missing_value_is_a_molecule_that_fails(embedder, missing):
    vectors = embedder.transform(pd.Series(["CCO", missing], dtype=object))
    assert embedder.failures_ == {1: "parse: empty_input: the text is empty"}
    assert np.isnan(vectors[1]).all()
    assert not np.isnan(vectors[0]).any()
    with pytest.raises(DataError, match="row 1, ''"):
        clone(embedder).set_params(on_error="raise").transform(["CCO", missing])


def embedded(smiles: str) -> Chem.Mol:
    """A molecule with hydrogens and a 3D conformer."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=3) == 0
    return mol


@pytest.mark.parametrize("smiles", [*SMILES, r"C/C=C\C", "[CH3]", "[13CH4]", "C[N+](C)(C)C", "C[S@](=O)CC"])
def test_an_rdkit_molecule_is_the_molecule_of_its_smiles_with_its_conformer(smiles):
    expected = featurize(smiles)
    [flat] = records(Chem.MolFromSmiles(smiles))
    assert featurize(flat).key == expected.key
    mol = embedded(smiles)
    [solid] = records([mol])
    found = featurize(solid)
    assert (found.key, found.smiles) == (expected.key, expected.smiles)
    positions = mol.GetConformer().GetPositions()[: Chem.MolFromSmiles(smiles).GetNumAtoms()]
    assert np.sort(np.linalg.norm(found.positions[0] - found.positions[0].mean(0), axis=1)) == pytest.approx(
        np.sort(np.linalg.norm(positions - positions.mean(0), axis=1)), abs=1e-3
    )


def test_the_conformer_of_an_rdkit_molecule_gives_the_3d_vector(export):
    solid = MoleculeEmbedder.from_pretrained(export, representation="3d")
    mol = embedded("OCCN(C)CC1CC1")
    other = Chem.Mol(mol)
    rdDistGeom.EmbedMolecule(other, randomSeed=11)
    block = RawMolecule(Chem.MolToMolBlock(mol), "molblock", "", 0)
    vectors = solid.transform([mol, block, other])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-4


def test_rdkit_molecules_that_stand_for_no_single_molecule_fail(embedder):
    mirrored = embedded("C[C@H](N)C(=O)O")
    positions = mirrored.GetConformer().GetPositions() * [-1, 1, 1]
    mirrored.GetConformer().SetPositions(positions)
    unsanitized = Chem.MolFromSmiles("c1cccc1", sanitize=False)
    unsanitized.AddConformer(Chem.RemoveHs(embedded("C1CCCC1")).GetConformer())
    wrong = [Chem.MolFromSmarts("[C,N]C"), mirrored, Chem.MolFromSmiles("*C"), Chem.Mol(), unsanitized, None]
    embedder.transform([*wrong, Chem.MolFromSmiles("CCO")])
    reasons = [embedder.failures_[row].split(": ")[1] for row in range(6)]
    assert reasons == ["query", "stereo_mismatch", "dummy_atom", "empty_input", "unsanitizable", "empty_input"]
    assert 6 not in embedder.failures_


def test_a_conformer_without_positions_is_no_geometry():
    mol = Chem.AddHs(Chem.MolFromSmiles("C[C@H](N)C(=O)O"))
    mol.AddConformer(Chem.Conformer(mol.GetNumAtoms()))
    [record] = records(mol)
    assert featurize(record).key == featurize("C[C@H](N)C(=O)O").key


def test_parameters_take_effect_when_they_are_set(embedder, export, small_run):
    for value, name in (("3d", "molecule_3d_0"), ("2d", "molecule_2d_0")):
        assert embedder.set_params(representation=value).get_feature_names_out()[0] == name
    with pytest.raises(CheckpointError, match="/nowhere is neither an export nor a run"):
        clone(embedder).set_params(path="/nowhere").transform(SMILES)
    other = clone(embedder).fit(SMILES)
    with pytest.raises(CheckpointError, match="/nowhere"):
        other.set_params(path="/nowhere").transform(SMILES)
    before = other.set_params(path=export).transform(SMILES)
    assert "run_dir" not in other.description
    after = other.set_params(path=small_run).transform(SMILES)
    assert other.description["run_dir"] == str(small_run)
    np.testing.assert_array_equal(before, after)
    for size in (0, -1, 2.5, "many"):
        with pytest.raises(ConfigError, match=r"batch_size=.*: expected a whole number, at least 1"):
            clone(embedder).set_params(batch_size=size).transform(SMILES)


def test_it_can_be_cloned_stored_and_used_on_a_column_of_a_frame(embedder, tmp_path):
    expected = embedder.transform(SMILES)
    joblib.dump(embedder, tmp_path / "embedder.joblib")
    for copy in (clone(embedder), joblib.load(tmp_path / "embedder.joblib")):
        assert copy.get_params() == embedder.get_params()
        np.testing.assert_array_equal(copy.transform(SMILES), expected)
    model = make_pipeline(make_column_transformer((embedder, ["smiles"]), ("passthrough", ["id"])), Ridge())
    assert model.fit(FRAME, FRAME["id"]).predict(FRAME).shape == (4,)
    frame = clone(embedder).set_output(transform="pandas").fit_transform(FRAME[["smiles"]])
    assert list(frame.index) == [7, 5, 3, 1]


@pytest.mark.parametrize("wrong", [None, b"CCO", 3, ["CCO"], FRAME, Chem.MolFromSmiles("C")])
def test_featurize_takes_a_smiles_or_a_record(wrong):
    with pytest.raises(TypeError, match=r"featurize: got .*: expected a SMILES string or a RawMolecule"):
        featurize(wrong)
    assert not isinstance(featurize("C"), Rejection)

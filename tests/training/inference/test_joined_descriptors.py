"""Vectors with RDKit's descriptors behind them."""

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem

from molstream.errors import ConfigError
from molstream.preprocessing.descriptors import DESCRIPTORS_V1, descriptors
from molstream.training.inference.embedder import MoleculeEmbedder
from tests.support.exports import write_export

SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "junk", "C[C@H](N)C(=O)O", "CCO"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("export") / "both")


@pytest.mark.parametrize("n_jobs", [None, 1])
def test_descriptors_follow_the_vector(both, n_jobs):
    plain = MoleculeEmbedder(both).transform(SMILES)
    joined = MoleculeEmbedder(both, descriptors=True, n_jobs=n_jobs)
    found = joined.transform(SMILES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, :128], plain, rtol=1e-5, atol=1e-6)
    assert np.isnan(found[1]).all()
    for row in (0, 2, 3):
        np.testing.assert_allclose(found[row, 128:], descriptors(Chem.MolFromSmiles(SMILES[row])), rtol=1e-5)
    # Of aspirin, C9H8O4.
    assert found[0, 128 + DESCRIPTORS_V1.index("MolWt")] == pytest.approx(180.16, abs=0.01)
    assert [rows.shape for rows in joined.transform_atoms(SMILES[3:])] == [(3, 64)]


def test_columns_have_their_names(both):
    embedder = MoleculeEmbedder(both, representation="2d", descriptors=True)
    frame = embedder.set_output(transform="pandas").fit_transform(pd.DataFrame({"smiles": SMILES}, index=[5, 3, 1, 0]))
    assert list(frame.columns) == [*(f"molecule_2d_{k}" for k in range(96)), *DESCRIPTORS_V1]
    assert list(frame.index) == [5, 3, 1, 0]
    assert frame.loc[0, "MolWt"] == pytest.approx(46.069)


def test_what_rdkit_cannot_compute_is_nan(both):
    metal = "C[Se]C"
    [row] = MoleculeEmbedder(both, representation="2d", descriptors=True).transform([metal])
    unknown = [name for name, value in zip(DESCRIPTORS_V1, row[96:], strict=True) if np.isnan(value)]
    assert "MaxPartialCharge" in unknown
    assert "MolWt" not in unknown


def test_a_cache_tells_them_apart(both, tmp_path):
    for _ in range(2):
        for wanted in (False, True):
            embedder = MoleculeEmbedder(both, representation="2d", descriptors=wanted, cache=tmp_path / "cache")
            assert embedder.transform(["CCO"]).shape == (1, 296 if wanted else 96)
    with pytest.raises(ConfigError, match="descriptors='yes': expected True or False"):
        MoleculeEmbedder(both, descriptors="yes").fit(SMILES)  # pyright: ignore[reportArgumentType]

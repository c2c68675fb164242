"""What is compared: fingerprints and descriptors as RDKit has them, crashes that end no run, and vectors of others."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors, rdFingerprintGenerator

from molstream.errors import DataError
from molstream.training.evaluation.vectors import features
from molstream.training.evaluation.vectors.features import describe, ecfp4, read_vectors
from tests.support.datasets import DRUGS


def test_fingerprints_are_log_counts_of_rdkit():
    found = ecfp4(["CCCCO"])[0]
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    counts = generator.GetCountFingerprint(Chem.MolFromSmiles("CCCCO")).GetNonzeroElements()
    assert {k: round(float(np.expm1(found[k]))) for k in np.flatnonzero(found)} == counts
    assert max(counts.values()) > 1


def test_descriptors_are_all_of_rdkit_in_their_order():
    found, lost = describe(["CCO", "", DRUGS[0]], 1)
    expected = [function(Chem.MolFromSmiles(DRUGS[0])) for _, function in Descriptors.descList]
    assert found.shape == (3, 217)
    assert found[2] == pytest.approx(np.array(expected, np.float32), nan_ok=True)
    assert np.isnan(found[1]).all()
    assert lost == set()


def test_molecules_that_crash_rdkit_are_lost_alone(monkeypatch):
    def described(smiles):
        if "N" in smiles:
            os._exit(1)
        return np.full((len(smiles), 217), len(smiles), np.float32)

    monkeypatch.setattr(features, "_described", described)
    found, lost = describe(["C", "CC", "N", "CCC", "N"], 2)
    assert lost == {2, 4}
    assert np.isnan(found[:, 0]).tolist() == [False, False, True, False, True]


VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_vectors_of_others_are_read_from_all_that_people_write(tmp_path):
    np.save(tmp_path / "a.npy", VECTORS.astype(np.float64))
    assert (read_vectors(tmp_path / "a.npy", 4) == VECTORS).all()
    pq.write_table(
        pa.table({"name": list("abcd"), "x": VECTORS[:, 0], "y": VECTORS[:, 1].astype(int)}), tmp_path / "b.parquet"
    )
    assert (read_vectors(tmp_path / "b.parquet", 4) == VECTORS[:, :2]).all()
    rows = [VECTORS[0].tolist(), None, *VECTORS[2:].tolist()]
    pq.write_table(pa.table({"row": [0, 1, 2, 3], "embedding": rows}), tmp_path / "c.parquet")
    found = read_vectors(tmp_path / "c.parquet", 4)
    assert np.isnan(found[1]).all()
    assert (found[[0, 2, 3]] == VECTORS[[0, 2, 3]]).all()


def test_vectors_that_do_not_fit_are_refused(tmp_path):
    np.save(tmp_path / "short.npy", VECTORS[:3])
    np.save(tmp_path / "flat.npy", VECTORS[0])
    np.save(tmp_path / "texts.npy", np.array(["a"] * 4))
    np.save(tmp_path / "objects.npy", np.array([object()] * 4), allow_pickle=True)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"name": list("abcd")}), tmp_path / "names.parquet")
    for name, part in {
        "short.npy": "got 3 x 3 numbers",
        "flat.npy": "got 3 numbers",
        "texts.npy": "cannot be read",
        "objects.npy": "cannot be read",
        "cut.parquet": "cannot be read",
        "names.parquet": "got 0 x 0 numbers",
        "none.npy": "cannot be read",
    }.items():
        with pytest.raises(DataError, match=part) as caught:
            read_vectors(tmp_path / name, 4)
        assert "expected 4 vectors" in str(caught.value)

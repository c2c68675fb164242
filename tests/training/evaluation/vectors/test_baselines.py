"""Fingerprints and descriptors as RDKit has them, and crashes that end no run."""

import os
import subprocess
import sys

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors, rdFingerprintGenerator

from molstream.training.evaluation.vectors import baselines
from molstream.training.evaluation.vectors.baselines import describe, ecfp4
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

    monkeypatch.setattr(baselines, "_described", described)
    found, lost = describe(["C", "CC", "N", "CCC", "N"], 2)
    assert lost == {2, 4}
    assert np.isnan(found[:, 0]).tolist() == [False, False, True, False, True]


def test_children_start_without_torch():
    modules = [f"molstream.training.evaluation.vectors.{name}" for name in ("baselines", "scores")]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

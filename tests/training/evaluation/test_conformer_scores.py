"""Scores of ensembles whose answer is known."""

import numpy as np
import pytest

from molstream.preprocessing.config import ConformerConfig, FeaturizeConfig
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import RawMolecule
from molstream.training.evaluation.conformer_scores import (
    ensemble_score,
    handedness,
    posebusters_validity,
    score_conformers,
)

ALANINE = "C[C@H](N)C(=O)O"


def conformers_of(smiles: str, number: int = 1) -> tuple[str, np.ndarray]:
    config = FeaturizeConfig(conformers=ConformerConfig(num_conformers=number))
    sample = featurize(RawMolecule(smiles, "smiles", "", 0), config)
    return sample.smiles, sample.positions


def scaled(positions: np.ndarray, *factors: float) -> np.ndarray:
    """The first conformer at other sizes: its RMSD to itself at size 1 is |factor - 1| times its radius of gyration."""
    return np.stack([positions[0] * factor for factor in factors])


def test_coverage_and_matching_of_molecules_of_other_sizes():
    smiles, positions = conformers_of("CCC#N")
    radius = float(np.sqrt((positions[0] ** 2).sum(1).mean()))
    reference, generated = scaled(positions, 1.0, 1.5), scaled(positions, 1.1, 1.2, 3.0)
    score = score_conformers(smiles, reference, generated, threshold=0.15 * radius)
    assert score.cov_r == 0.5
    assert score.cov_p == pytest.approx(1 / 3)
    assert score.mat_r == pytest.approx(radius * (0.1 + 0.3) / 2, abs=1e-4)
    assert score.mat_p == pytest.approx(radius * (0.1 + 0.2 + 1.5) / 3, abs=1e-4)
    assert score_conformers(smiles, reference, generated[:0], threshold=1.0) is None


def test_handedness_is_kept_flipped_or_flat():
    smiles, positions = conformers_of(ALANINE)
    mirrored, flat = positions[0] * [-1, 1, 1], positions[0] * [1, 1, 0]
    assert handedness(smiles, positions) == (1, 1, 0)
    assert handedness(smiles, np.stack([positions[0], mirrored, mirrored])) == (3, 1, 2)
    assert handedness(smiles, flat[None])[1:] == (0, 0)
    assert handedness("CC(N)C(=O)O", positions) == (0, 0, 0)


def test_a_molecule_that_failed_counts_as_not_covered():
    smiles, positions = conformers_of(ALANINE)
    found = score_conformers(smiles, positions, positions, 0.5)
    whole = ensemble_score("x", [found, None, found, found], None)
    assert (whole.molecules, whole.failed) == (3, 1)
    assert whole.cov_r == (0.75, 1.0)
    assert whole.mat_r[0] < 1e-4
    assert whole.chirality_kept == 1.0
    assert ensemble_score("x", [None], None).chirality_kept is None


def test_posebusters_tells_a_molecule_from_a_heap(caplog):
    pytest.importorskip("posebusters", reason="posebusters is not installed")
    smiles, positions = conformers_of("CCO")
    assert posebusters_validity([(smiles, positions)]) == 1.0
    assert posebusters_validity([(smiles, positions), (smiles, positions * 0.5)]) == 0.5
    assert posebusters_validity([(smiles, scaled(positions, 1.0, 0.5, 1.0, 1.0))]) == 0.75
    assert posebusters_validity([]) is None
    # A check that cannot be made is reported and passes: all of them can be made, for every conformer.
    assert "failed" not in caplog.text

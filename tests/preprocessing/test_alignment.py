"""The distance between conformers: a superposition of our own, and symmetries that are known."""

from itertools import permutations

import numpy as np
import pytest

from molstream.preprocessing.alignment import best_rmsd
from molstream.preprocessing.config import ConformerConfig, FeaturizeConfig
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import RawMolecule


def positions_of(smiles: str) -> tuple[str, np.ndarray]:
    sample = featurize(
        RawMolecule(smiles, "smiles", "", 0), FeaturizeConfig(conformers=ConformerConfig(num_conformers=4))
    )
    return sample.smiles, sample.positions.astype(np.float64)


def kabsch_rmsd(p: np.ndarray, q: np.ndarray) -> float:
    """By the singular values of the covariance, without reflections (Kabsch 1976)."""
    p, q = p - p.mean(0), q - q.mean(0)
    u, s, vt = np.linalg.svd(p.T @ q)
    s[2] *= np.sign(np.linalg.det(u) * np.linalg.det(vt))
    return float(np.sqrt(max((p**2).sum() + (q**2).sum() - 2 * s.sum(), 0.0) / len(p)))


def moved(positions: np.ndarray, seed: int = 0) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return positions @ (q * np.sign(np.linalg.det(q))).T + [3.0, -1.0, 2.0]


def test_without_symmetry_it_is_the_kabsch_rmsd():
    smiles, positions = positions_of("CC[C@H](N)C(=O)OCC#N")
    noised = positions + np.random.default_rng(1).normal(scale=0.4, size=positions.shape)
    found = best_rmsd(smiles, positions, np.stack([moved(x) for x in noised[:3]]))
    wanted = [[kabsch_rmsd(p, q) for q in noised[:3]] for p in positions]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_equivalent_atoms_may_be_exchanged():
    """Neopentane: the least over all 24 orders of its methyl groups."""
    smiles, positions = positions_of("CC(C)(C)C")
    noised = positions[:1] + np.random.default_rng(2).normal(scale=0.8, size=positions[:1].shape)
    noised = noised[:, [2, 1, 0, 3, 4]]
    methyls = [0, 2, 3, 4]
    orders = []
    for order in permutations(methyls):
        index = np.arange(5)
        index[methyls] = order
        orders.append(kabsch_rmsd(positions[0][index], noised[0]))
    assert best_rmsd(smiles, positions[:1], noised)[0, 0] == pytest.approx(min(orders), abs=1e-4)
    assert min(orders) < kabsch_rmsd(positions[0], noised[0]) - 0.01


def test_mirror_images_are_apart_and_hydrogens_are_not_looked_at():
    smiles, positions = positions_of("C[C@H](N)C(=O)OCC")
    mirrored = positions[:1] * [-1, 1, 1]
    assert best_rmsd(smiles, positions[:1], mirrored)[0, 0] > 0.3
    with_hydrogens = np.concatenate([moved(positions[:1]), np.full((1, 5, 3), 40.0)], axis=1)
    assert best_rmsd(smiles, positions[:1], with_hydrogens)[0, 0] < 1e-4


@pytest.mark.parametrize("smiles", ["C", "CC"])
def test_single_atoms_and_pairs(smiles):
    smiles, positions = positions_of(smiles)
    np.testing.assert_allclose(best_rmsd(smiles, positions[:1], moved(positions[:1])), [[0.0]], atol=1e-4)

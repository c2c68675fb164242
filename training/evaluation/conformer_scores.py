"""Scores of conformer ensembles: coverage, matching, handedness and physical validity."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from rdkit import Chem

from molstream.preprocessing.alignment import best_rmsd, with_conformers


@dataclass(frozen=True)
class ConformerScore:
    """Scores of a molecule's conformers against reference conformers (GEOM-QM9 protocol of Ganea et al. 2021)."""

    cov_r: float
    """COV-R: share of the reference conformers with a generated one within the threshold."""
    mat_r: float
    """MAT-R: mean over the reference conformers of the RMSD to the nearest generated one, angstrom."""
    cov_p: float
    """COV-P: share of the generated conformers that are within the threshold of a reference."""
    mat_p: float
    """MAT-P: mean over the generated conformers of the RMSD to the nearest reference, angstrom."""
    centres: int
    """Number of tetrahedral stereocentres that the SMILES specifies, times that of generated conformers."""
    kept: int
    """Number of these stereocentres with the specified handedness."""
    flipped: int
    """Number of these stereocentres with the opposite handedness; the others are flat."""


def score_conformers(
    smiles: str, reference: np.ndarray, generated: np.ndarray, threshold: float
) -> ConformerScore | None:
    """Score one molecule; None if no conformer was generated.

    Args:
        smiles: stored SMILES, whose atoms are in the order of the positions.
        reference: [r, n, 3], angstrom, r > 0.
        generated: [g, n, 3], angstrom.
        threshold: largest RMSD of a match, angstrom.
    """
    if not len(generated):
        return None
    rmsd = best_rmsd(smiles, reference, generated)
    nearest_generated, nearest_reference = rmsd.min(1), rmsd.min(0)
    centres, kept, flipped = handedness(smiles, generated)
    return ConformerScore(
        cov_r=float((nearest_generated <= threshold).mean()),
        mat_r=float(nearest_generated.mean()),
        cov_p=float((nearest_reference <= threshold).mean()),
        mat_p=float(nearest_reference.mean()),
        centres=centres,
        kept=kept,
        flipped=flipped,
    )


def handedness(smiles: str, positions: np.ndarray) -> tuple[int, int, int]:
    """Count the stereocentres that ``smiles`` specifies, over conformers [g, n, 3]: all, kept and flipped ones."""
    mol = with_conformers(smiles, positions)
    centres = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetChiralTag() in TETRAHEDRAL]
    kept = flipped = 0
    for conformer in mol.GetConformers():
        shown = Chem.Mol(mol)
        Chem.AssignAtomChiralTagsFromStructure(shown, confId=conformer.GetId(), replaceExistingTags=True)
        for index in centres:
            # Tags are relative to the order of the bonds, which the copy shares.
            tag = shown.GetAtomWithIdx(index).GetChiralTag()
            kept += tag == mol.GetAtomWithIdx(index).GetChiralTag()
            flipped += tag in TETRAHEDRAL and tag != mol.GetAtomWithIdx(index).GetChiralTag()
    return len(centres) * len(positions), kept, flipped


TETRAHEDRAL = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)


@dataclass(frozen=True)
class EnsembleScore:
    """Scores of a method over all molecules."""

    method: str
    """Name of the method, such as ETKDG."""
    molecules: int
    """Number of molecules with at least one conformer; the others count as not covered."""
    failed: int
    """Number of molecules without a conformer."""
    cov_r: tuple[float, float]
    """Mean and median of COV-R over all molecules, 0 for those that failed."""
    mat_r: tuple[float, float]
    """Mean and median of MAT-R over the molecules that did not fail, angstrom."""
    cov_p: tuple[float, float]
    """Mean and median of COV-P over all molecules, 0 for those that failed."""
    mat_p: tuple[float, float]
    """Mean and median of MAT-P over the molecules that did not fail, angstrom."""
    chirality_kept: float | None
    """Share of the specified stereocentres with the specified handedness; None if there are none."""
    chirality_flipped: float | None
    """Share of the specified stereocentres with the opposite handedness; None if there are none."""
    valid: float | None
    """Share of the conformers that pass every check of PoseBusters; None if it is not installed."""


def ensemble_score(method: str, scores: Sequence[ConformerScore | None], valid: float | None) -> EnsembleScore:
    """Aggregate the scores of all molecules to means, medians and shares."""
    found = [score for score in scores if score is not None]
    failed = len(scores) - len(found)

    def both(name: str, absent: Sequence[float]) -> tuple[float, float]:
        values = [*(asdict(score)[name] for score in found), *absent]
        return (float(np.mean(values)), float(np.median(values))) if values else (float("nan"), float("nan"))

    centres = sum(score.centres for score in found)
    return EnsembleScore(
        method=method,
        molecules=len(found),
        failed=failed,
        cov_r=both("cov_r", [0.0] * failed),
        mat_r=both("mat_r", []),
        cov_p=both("cov_p", [0.0] * failed),
        mat_p=both("mat_p", []),
        chirality_kept=sum(score.kept for score in found) / centres if centres else None,
        chirality_flipped=sum(score.flipped for score in found) / centres if centres else None,
        valid=valid,
    )


def posebusters_validity(molecules: Sequence[tuple[str, np.ndarray]]) -> float | None:
    """Share of conformers that pass every check of PoseBusters' ``mol`` suite.

    Missing hydrogens are first placed by geometry. Buttenschoen et al. 2024 check bond lengths and angles, flatness,
    clashes and the internal energy; checks that PoseBusters cannot run count as passed. None without molecules, or if
    posebusters is not installed.

    Args:
        molecules: stored SMILES and positions [g, n, 3] in angstrom, g > 0.
    """
    try:
        from posebusters import PoseBusters
    except ModuleNotFoundError:
        return None
    if not molecules:
        return None
    poses = []
    for smiles, positions in molecules:
        mol = with_conformers(smiles, positions)
        for conformer in mol.GetConformers():
            pose = Chem.Mol(mol, confId=conformer.GetId())
            # The copy keeps the conformer's number, but PoseBusters computes energies of conformer 0.
            pose.GetConformer().SetId(0)
            poses.append(Chem.AddHs(pose, addCoords=True))
    # Otherwise it warns for each conformer about the checks that it cannot run.
    logging.getLogger("posebusters").setLevel(logging.ERROR)
    checks = PoseBusters(config="mol").bust(poses)
    return float(checks.astype(bool).all(axis=1).mean())

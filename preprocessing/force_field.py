"""Force fields: relaxation of embedded conformers, and their energies."""

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers

FORCE_FIELDS = ("MMFF94s", "MMFF94", "UFF", "none")
"""Names of the force fields; none leaves the conformers as they are."""


def relax(mol: Chem.Mol, force_field: str, max_steps: int) -> np.ndarray:
    """Minimize the energy of every conformer of ``mol`` in place.

    Args:
        mol: with all its hydrogens as atoms.
        force_field: one of FORCE_FIELDS.
        max_steps: of the minimization, per conformer.

    Returns:
        float64 [c], energies in kcal/mol; NaN where the force field is none or lacks parameters for the molecule.
    """
    num_conformers = mol.GetNumConformers()
    if num_conformers == 0 or force_field == "none" or not _has_parameters(mol, force_field):
        return np.full(num_conformers, np.nan)
    common = {"numThreads": 1, "maxIters": max_steps, "ignoreInterfragInteractions": False}
    if force_field == "UFF":
        results = rdForceFieldHelpers.UFFOptimizeMoleculeConfs(mol, **common)
    else:
        results = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, mmffVariant=force_field, **common)
    return np.array([energy if outcome >= 0 else np.nan for outcome, energy in results], dtype=np.float64)


def _has_parameters(mol: Chem.Mol, force_field: str) -> bool:
    """Whether the force field knows every atom of the molecule."""
    if force_field == "UFF":
        return rdForceFieldHelpers.UFFHasAllMoleculeParams(mol)
    return rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol)

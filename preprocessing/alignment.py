"""Distance between conformers of a molecule, whichever way equivalent atoms are numbered."""

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdMolAlign

from molstream.preprocessing.rdkit_errors import rdkit_errors

MAX_SYMMETRIES = 10_000
"""Most numberings of equivalent atoms that are tried."""


def best_rmsd(smiles: str, reference: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """Root mean square deviation of heavy atoms after the best superposition, float64 [r, g], angstrom.

    Equivalent atoms may be exchanged (RDKit's GetBestRMS, which also takes the two oxygens of a carboxylate for
    equivalent), as is usual for conformer ensembles (GEOM, Axelrod and Gomez-Bombarelli 2022). Mirror images are not
    superposed: a wrong handedness counts.

    Args:
        smiles: stored SMILES; its atoms, in their order, are the first ones of the conformers.
        reference: [r, n, 3], angstrom; atoms behind those of ``smiles`` are hydrogens, and ignored.
        generated: [g, n, 3], angstrom.

    Raises:
        MoleculeError: RDKit cannot read the SMILES.
    """
    with rdkit_errors("alignment"):
        probe, target = with_conformers(smiles, generated), with_conformers(smiles, reference)
        distances = [
            # The probe is moved onto the target; a copy would cost more than moving it again.
            rdMolAlign.GetBestRMS(probe, target, g, r, maxMatches=MAX_SYMMETRIES)
            for r in range(len(reference))
            for g in range(len(generated))
        ]
    return np.array(distances, dtype=np.float64).reshape(len(reference), len(generated))


def with_conformers(smiles: str, positions: np.ndarray) -> Chem.Mol:
    """The molecule of ``smiles`` with conformers at ``positions`` [c, n, 3]; positions behind its atoms are ignored."""
    mol = Chem.MolFromSmiles(smiles)
    for conformer_positions in positions:
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(conformer_positions[: mol.GetNumAtoms()].astype(np.float64))
        mol.AddConformer(conformer, assignId=True)
    return mol

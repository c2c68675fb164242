"""What vectors are compared with that nobody trains: fingerprints and descriptors. Children need no torch here."""

import warnings
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from rdkit import Chem, rdBase
from rdkit.Chem import Descriptors, rdFingerprintGenerator

BITS = 2048
"""Columns of the fingerprints."""
PART = 64
"""Molecules whose descriptors a process computes at a time."""


def ecfp4(smiles: Sequence[str]) -> np.ndarray:
    """Compute log(1 + count) of Morgan's environments of radius 2, float32 [n, 2048]."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=BITS)
    counts = [generator.GetCountFingerprintAsNumPy(Chem.MolFromSmiles(text)) for text in smiles]
    return np.log1p(np.array(counts, np.float32).reshape(-1, BITS))


def describe(smiles: Sequence[str], processes: int) -> tuple[np.ndarray, set[int]]:
    """Compute RDKit's descriptors (``Descriptors.descList``) in child processes, float32 [n, 217].

    What is not a number, or too large for float32, is not finite; heads complete it.

    Args:
        smiles: of molecules that RDKit can read, or empty for a row of NaN.
        processes: number of children, at least two, since a process that computes alone would be this one.

    Returns:
        The descriptors, and the rows of the molecules that ended a child process.
    """
    parts = [smiles[start : start + PART] for start in range(0, len(smiles), PART)]
    try:
        blocks: Any = Parallel(n_jobs=max(2, processes))(delayed(_described)(part) for part in parts)
        return np.concatenate([*blocks, _described([])]), set()
    except BrokenProcessPool:
        if len(smiles) == 1:
            return np.full((1, len(Descriptors.descList)), np.nan, np.float32), {0}
    half = len(smiles) // 2
    (first, lost), (second, others) = describe(smiles[:half], processes), describe(smiles[half:], processes)
    return np.concatenate([first, second]), lost | {half + row for row in others}


def _described(smiles: Sequence[str]) -> np.ndarray:
    """The descriptors of some molecules, computed in this process."""
    values = np.full((len(smiles), len(Descriptors.descList)), np.nan)
    with rdBase.BlockLogs(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row, text in enumerate(smiles):
            if not text:
                continue
            mol = Chem.MolFromSmiles(text)
            for column, (_, function) in enumerate(Descriptors.descList):
                try:
                    values[row, column] = function(mol)
                except Exception:  # noqa: BLE001 - they raise what they like; the value is unknown
                    continue
    with np.errstate(over="ignore"):
        return values.astype(np.float32)

"""Featurized molecules as padded batches, the inputs of programs of an export."""

from collections.abc import Sequence

import numpy as np
import torch

from molstream.preprocessing.fields import MoleculeSample
from molstream.training.models.padded import PaddedMolecules


def padded(samples: Sequence[MoleculeSample], extra: int = 0) -> PaddedMolecules:
    """Pad molecules to the largest of them, and ``extra`` slots more."""
    size = max(sample.num_atoms for sample in samples) + extra
    atoms = np.zeros((len(samples), size, 9), np.int64)
    for number, sample in enumerate(samples):
        atoms[number, : sample.num_atoms] = sample.atom_features
    bonds = [sample.bond_index.astype(np.int64) + number * size for number, sample in enumerate(samples)]
    return PaddedMolecules(
        torch.from_numpy(atoms),
        torch.tensor([sample.num_atoms for sample in samples]),
        torch.from_numpy(np.concatenate(bonds, axis=1)),
        torch.from_numpy(np.concatenate([sample.bond_features for sample in samples]).astype(np.int64)),
    )

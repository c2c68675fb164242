"""Featurized molecules to rows of numbers: their vectors, or those of their atoms."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from molstream.preprocessing.fields import MoleculeSample
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.collate import collate_samples
from molstream.training.inference.pretrained import IMAGE, SPATIAL, PretrainedEncoders

UNDRAWN = "image: undrawable: RDKit cannot draw the molecule"
"""Why a molecule has no vector of its image: stage, reason and detail."""


@dataclass(frozen=True)
class Encoding:
    """How molecules are encoded."""

    pretrained: PretrainedEncoders
    """The encoders, on ``device``."""
    device: torch.device
    """Where they compute."""
    every_conformer: bool
    """Whether what depends on positions is the mean over all conformers of a molecule, or that of the first one."""
    batch_size: int
    """Conformers that are encoded at a time, where all of them are."""

    @property
    def atom_widths(self) -> dict[str, int]:
        """Numbers of an atom's row by every encoder, which pooling by the mean keeps; an image has no atoms."""
        names = (name for name in self.pretrained.widths if name != IMAGE)
        return {name: self.pretrained.model.readout_width(name, "mean") for name in names}

    def rows(self, samples: Sequence[MoleculeSample], of_atoms: bool = False) -> np.ndarray:
        """Encode molecules that are one batch, the 2D part before the 3D part.

        Args:
            samples: g molecules with n atoms together, of the featurizer of the encoders.
            of_atoms: whether a row is that of an atom, before pooling, or of a molecule.

        Returns:
            float32 [g, d], NaN for a molecule that an image encoder sees and RDKit cannot draw; or [n, d] of atoms.
        """
        compute = self.pretrained.nodes if of_atoms else self.pretrained.molecules
        batch = collate_samples(samples, image_size=None if of_atoms else self.pretrained.image_size).to(self.device)
        names = list(self.atom_widths if of_atoms else self.pretrained.widths)
        several = [name for name in names if name in SPATIAL and self.every_conformer]
        with torch.inference_mode():
            parts = compute(_whole(batch), [name for name in names if name not in several])
            parts |= {name: self._mean(name, samples, of_atoms) for name in several}
            rows = torch.cat([parts[name] for name in names], dim=1).float()
            if batch.has_image is not None:
                rows[~batch.has_image] = torch.nan
            return rows.cpu().numpy()

    def _mean(self, name: str, samples: Sequence[MoleculeSample], of_atoms: bool) -> Tensor:
        """A part of rows that depends on positions, each the mean over the conformers of its molecule."""
        sizes = [sample.num_atoms if of_atoms else 1 for sample in samples]
        ends = list(accumulate(sizes))
        totals: Tensor | None = None
        for owners, batch in self._conformers(samples):
            compute = self.pretrained.nodes if of_atoms else self.pretrained.molecules
            found = compute(batch, [name])[name].float()
            index = torch.cat([torch.arange(ends[k] - sizes[k], ends[k]) for k in owners]).to(self.device)
            totals = found.new_zeros((ends[-1], found.shape[1])) if totals is None else totals
            totals.index_add_(0, index, found)
        assert totals is not None, "the featurizer requires a conformer of every molecule"
        counts = torch.tensor([len(sample.positions) for sample in samples]).repeat_interleave(torch.tensor(sizes))
        return totals / counts.to(totals).unsqueeze(1)

    def _conformers(self, samples: Sequence[MoleculeSample]) -> Iterator[tuple[list[int], MoleculeBatch]]:
        """Batches of all conformers, each with the number of the molecule of every conformer."""
        places = [(k, conformer) for k, sample in enumerate(samples) for conformer in range(len(sample.positions))]
        for start in range(0, len(places), self.batch_size):
            owners, draw = zip(*places[start : start + self.batch_size], strict=True)
            yield list(owners), collate_samples([samples[k] for k in owners], np.array(draw, np.uint64)).to(self.device)


def _whole(batch: MoleculeBatch) -> MoleculeBatch:
    """The batch as if every molecule were drawn: encoders refuse one that is not, and its row is left out later."""
    return batch if batch.has_image is None else replace(batch, has_image=torch.ones_like(batch.has_image))


def content(sample: MoleculeSample, drawn: bool) -> bytes:
    """A checksum of what encoders see of a molecule, which they may see drawn."""
    digest = hashlib.blake2b(sample.smiles.encode() if drawn else b"", digest_size=16)
    for values in (sample.atom_features, sample.bond_index, sample.bond_features, sample.positions):
        digest.update(f"{values.dtype.str}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.digest()

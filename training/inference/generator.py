"""Generates conformers of bond graphs, and bonds of conformers, with a pretraining run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch

from molstream.preprocessing import conformers
from molstream.preprocessing.fields import MoleculeSample
from molstream.randomness import keyed_seed
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.collate import collate_samples
from molstream.training.diffusion.bond_transformer import decode
from molstream.training.diffusion.conditional import Conditional, sample_molecules
from molstream.training.diffusion.config import SamplerConfig
from molstream.training.diffusion.position_transformer import centred
from molstream.training.diffusion.sampling import Tensors
from molstream.training.inference.device import device_named
from molstream.training.inference.generative import load_generative
from molstream.training.inference.trained import Generative
from molstream.training.models.encoders import Encoders
from molstream.training.models.graph import molecule_pairs

Watch = Callable[[float], None]
"""Callback that takes the number of samples done, which may be fractional."""


@dataclass(frozen=True)
class GeneratedBonds:
    """Bonds and charges that were generated for one conformer."""

    bond_index: np.ndarray
    """int64 [2, b]: atoms of each bond, once, the lower one first."""
    bond_type: np.ndarray
    """int64 [b]: bond types as indices in OGB's vocabulary."""
    formal_charge: np.ndarray
    """int64 [n]: formal charges as indices in OGB's vocabulary."""


class MoleculeGenerator:
    """Generates positions and bonds of molecules with the model of a run, or of an export that has its heads.

    A sample is a function of the molecule's key, the number of the sample and ``seed``, independent of the batch (up to
    rounding; see :mod:`molstream.training.diffusion.conditional`).

    Args:
        trained: the model.
        sampler: sampling method and number of steps.
        seed: random seed of the samples.
        batch_size: number of samples that are drawn at a time.
    """

    def __init__(self, trained: Generative, sampler: SamplerConfig, seed: int = 0, batch_size: int = 64):
        self.trained, self.sampler, self.seed, self.batch_size = trained, sampler, seed, batch_size

    @classmethod
    def load(
        cls,
        source: str | Path,
        sampler: SamplerConfig | None = None,
        step: int | None = None,
        device: str = "auto",
        seed: int = 0,
        batch_size: int = 64,
    ) -> "MoleculeGenerator":
        """Create a generator from a run or an export; arguments and errors are those of :func:`load_generative`.

        Raises:
            ConfigError: the device does not exist, too.
        """
        trained = load_generative(source, step, device_named(device))
        return cls(trained, sampler or SamplerConfig(), seed, batch_size)

    def conformers(
        self, samples: Sequence[MoleculeSample], repeats: int = 1, watch: Watch = lambda done: None
    ) -> list[np.ndarray]:
        """Generate positions of each molecule, float32 [repeats, n, 3], angstrom, centred; its own are not used.

        Raises:
            ConfigError: the run's objective does not generate positions.
        """
        objective = self.trained.module.objective
        found: list[list[np.ndarray]] = [[] for _ in samples]
        for number, (pos,), batch in self._drawn(samples, repeats, objective.conformer_distribution, watch):
            for k, part in zip(number, centred(pos, batch).cpu().split(batch.ptr.diff().tolist()), strict=True):
                found[k].append(part.numpy())
        return [np.stack(parts) for parts in found]

    def bonds(
        self, samples: Sequence[MoleculeSample], repeats: int = 1, watch: Watch = lambda done: None
    ) -> list[list[GeneratedBonds]]:
        """Generate bonds and charges of each molecule ``repeats`` times; sample r is for conformer r modulo c.

        Only elements and positions are used; every molecule must have a conformer.

        Raises:
            ConfigError: the run's objective does not generate bonds.
        """
        objective = self.trained.module.objective
        found: list[list[GeneratedBonds]] = [[] for _ in samples]
        for number, x, batch in self._drawn(samples, repeats, objective.bond_distribution, watch):
            kinds, charges = (classes.cpu() for classes in decode(*x))
            size = batch.ptr.diff().cpu()
            pairs = molecule_pairs(batch.batch)
            pairs = (pairs - batch.ptr[batch.batch[pairs[0]]]).cpu()
            of_pairs, of_atoms = (size * (size - 1) // 2).tolist(), size.tolist()
            columns = zip(number, pairs.split(of_pairs, 1), kinds.split(of_pairs), charges.split(of_atoms), strict=True)
            for k, index, kind, charge in columns:
                is_bond = kind > 0
                found[k].append(GeneratedBonds(index[:, is_bond].numpy(), (kind[is_bond] - 1).numpy(), charge.numpy()))
        return found

    def _drawn(
        self,
        samples: Sequence[MoleculeSample],
        repeats: int,
        distribution: Callable[[MoleculeBatch, Encoders], Conditional],
        watch: Watch,
    ) -> Iterator[tuple[list[int], Tensors, MoleculeBatch]]:
        """Yield for each batch the numbers of its molecules in ``samples``, the drawn tensors, and the batch."""
        todo = list(product(range(len(samples)), range(repeats)))
        for start in range(0, len(todo), self.batch_size):
            chosen = todo[start : start + self.batch_size]
            repeat = np.array([r for _, r in chosen], np.uint64)
            batch = collate_samples([samples[k] for k, _ in chosen], repeat).to(self.trained.device)
            seeds = [keyed_seed(self.seed, r, conformers.seed(samples[k].key)) for k, r in chosen]
            with torch.inference_mode():
                learned = distribution(batch, self.trained.module.encoders)
                x = sample_molecules(self.sampler, learned, seeds, partial(_tell, watch, start, len(chosen)))
            yield [k for k, _ in chosen], x, batch


def _tell(watch: Watch, before: int, count: int, done: int, total: int) -> None:
    """Report progress: ``done`` of ``total`` steps for a batch of ``count`` samples, after ``before`` finished ones."""
    watch(before + count * done / total)

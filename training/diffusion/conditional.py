"""Samples batches of molecules from score networks, with separate noise per molecule.

A sample is a function of the molecule and its seed, up to rounding, and does not depend on the rest of the batch;
except with ``predictor_corrector``, whose corrector step is averaged over the batch, as in the original.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from molstream.training.diffusion.config import SamplerConfig
from molstream.training.diffusion.draws import normal
from molstream.training.diffusion.sampling import Diffused, JointScore, Tensors, sample, silent
from molstream.training.diffusion.sde import SDE
from molstream.training.models.graph import segment_sum


def unchanged(x: Tensor) -> Tensor:
    """Return ``x``: the projection onto the whole space."""
    return x


class Part(NamedTuple):
    """One of the tensors that are sampled together: rows [m, width], each of a molecule."""

    sde: SDE
    """Forward process of the tensor."""
    molecule: Tensor
    """int64 [m]: molecule of each row, ascending."""
    width: int
    """Number of columns of the tensor."""
    project: Callable[[Tensor], Tensor] = unchanged
    """Projection onto the subspace of the data, such as zero mean per molecule."""


class Conditional(NamedTuple):
    """Learned distribution of some tensors of a batch of molecules, given the rest of the batch."""

    parts: tuple[Part, ...]
    """The tensors that are sampled."""
    score: JointScore
    """Scores of all parts at a diffusion time."""


def sample_molecules(
    config: SamplerConfig,
    conditional: Conditional,
    seeds: Sequence[int],
    progress: Callable[[int, int], None] = silent,
) -> Tensors:
    """Draw one sample of each part, float32 [m, width].

    Args:
        config: sampling method and number of steps.
        conditional: the distribution to sample from.
        seeds: one per molecule of the batch, 0 to 2^63 - 1, the seed of all noise of the molecule.
        progress: called with (steps done, total steps) after each step.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return sample(
        config, [_diffused(part, generators) for part in conditional.parts], conditional.score, None, progress
    )


def _diffused(part: Part, generators: Sequence[torch.Generator]) -> Diffused:
    rows = torch.bincount(part.molecule, minlength=len(generators)).tolist()

    def noise() -> Tensor:
        draws = [normal((count, part.width), generator) for count, generator in zip(rows, generators, strict=True)]
        return part.project(torch.cat(draws).to(part.molecule.device))

    def norm(x: Tensor) -> Tensor:
        return segment_sum(x.square().sum(1), part.molecule, len(rows)).sqrt().mean()

    return Diffused(part.sde, noise, norm)

"""Sampling what score networks have learned of molecules: many of them at once, each with noise of its own.

What a molecule becomes is a function of its seed, whatever it is batched with, up to rounding; with
``predictor_corrector`` alone the step of the corrector is an average over the batch, as in the original.
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
    """The projection onto all of the space."""
    return x


class Part(NamedTuple):
    """One of the tensors that are diffused together: rows [m, width] that belong to molecules."""

    sde: SDE
    """Its forward process."""
    molecule: Tensor
    """int64 [m]: the molecule of every row, ascending."""
    width: int
    """Columns."""
    project: Callable[[Tensor], Tensor] = unchanged
    """Onto the subspace where it lives."""


class Conditional(NamedTuple):
    """The distribution of some tensors of a batch of molecules, given the rest of the batch."""

    parts: tuple[Part, ...]
    score: JointScore


def sample_molecules(
    config: SamplerConfig,
    conditional: Conditional,
    seeds: Sequence[int],
    progress: Callable[[int, int], None] = silent,
) -> Tensors:
    """One sample of every part [m, width], float32.

    Args:
        config: the method and its steps.
        conditional: what is sampled.
        seeds: one per molecule of the batch, 0 to 2^63 - 1: where all noise of the molecule comes from.
        progress: told (steps done, steps in all) after every step.
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

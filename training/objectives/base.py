"""Base class of objectives: modules with their own heads, noise and masks that compute a loss from a batch."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from molstream.errors import ConfigError
from molstream.training.data.batch import MoleculeBatch
from molstream.training.diffusion.conditional import Conditional
from molstream.training.models.encoders import Encoders

GENERATING = "Use a run with objective=moleculesde, which generates both."
"""Advice in the error of an objective that cannot generate."""


@dataclass(frozen=True)
class ObjectiveOutput:
    """Loss and metrics of one micro-batch."""

    loss: Tensor
    """float32 scalar, to be differentiated."""
    metrics: dict[str, Tensor]
    """Detached scalars by name, on the device, so that only logging synchronises with it."""
    branches: dict[str, Tensor] = field(default_factory=dict)
    """Detached weighted losses of the branches, by name; their sum is the loss."""
    codes: dict[str, Tensor] = field(default_factory=dict)
    """What a loss of the global batch is computed from, [g, ...] by name; see ``objectives/global_batch.py``."""

    def detached(self) -> "ObjectiveOutput":
        """Loss and metrics without a gradient, and without codes."""
        return replace(self, loss=self.loss.detach(), codes={})

    def branch_loss(self, prefix: str) -> Tensor:
        """Sum the losses of the branches whose names begin with ``prefix``."""
        return reduce(torch.add, [loss for name, loss in self.branches.items() if name.startswith(prefix)])


@dataclass(frozen=True)
class Term:
    """One term of an objective's loss: that of one branch."""

    coefficient: float
    """Weight of the term in the loss."""
    loss: Tensor
    """float32 scalar, to be differentiated."""
    metrics: Mapping[str, Tensor]
    """Scalars to log, by name."""
    time: Tensor | None = None
    """Diffusion time of each molecule, [g] in (0, 1); None for a term without diffusion."""
    per_molecule: Mapping[str, Tensor] = field(default_factory=dict)
    """Losses of molecules, [g], by name; the metric of that name is their mean over molecules with a conformer."""
    compared: tuple[Tensor, Tensor] | None = None
    """The 2D and 3D rows that a contrast compares, [m, d] each; None for other terms."""


class Split(NamedTuple):
    """What an objective computes of a micro-batch alone."""

    terms: dict[str, Term]
    """By branch."""
    codes: dict[str, Tensor]
    """[g, ...] by name: what the terms of the global batch are computed from."""


@dataclass(frozen=True)
class GlobalBatch:
    """The codes of the molecules of a step."""

    codes: Mapping[str, Tensor]
    """[B, ...] by name, of all lanes in lane order."""
    progress: float | None = None
    """Share of the run's steps that are done, from 0 to 1; None where there is no run, or as of the last step."""


@dataclass(frozen=True)
class GlobalShare:
    """What the loss of the global batch means for one lane."""

    output: ObjectiveOutput | None
    """Loss and metrics of the global batch, detached; None while they are not known yet."""
    gradients: Mapping[str, Tensor]
    """Gradient of that loss with respect to the lane's codes, times the number of lanes, by the names of the codes."""

    def added(self, local: ObjectiveOutput) -> ObjectiveOutput:
        """The output of a lane with the loss of the global batch added, whose gradient flows through the codes."""
        if self.output is None:
            return local
        inner = [(local.codes[name] * gradient).sum() for name, gradient in self.gradients.items()]
        through = torch.stack(inner).sum()
        return replace(
            local,
            # The value is that of the global loss; the difference is zero, with the gradient.
            loss=local.loss + self.output.loss + (through - through.detach()),
            metrics={**local.metrics, **self.output.metrics},
            branches={**local.branches, **self.output.branches},
        )


NOT_YET = GlobalShare(None, {})
"""What a lane is given while the codes are collected."""


def denoising_term(coefficient: float, time: Tensor, per_molecule: Mapping[str, Tensor], has_pos: Tensor) -> Term:
    """Build a diffusion's term: the mean of its losses ``per_molecule`` [g], each averaged over ``has_pos`` [g]."""
    means = {name: graph_mean(values, has_pos) for name, values in per_molecule.items()}
    return Term(coefficient, reduce(torch.add, means.values()) / len(means), means, time, per_molecule)


class Objective(nn.Module, ABC):
    """Base class of pretraining tasks on the shared encoders.

    Every parameter must be used in every forward pass, whatever the batch contains: mask molecules without a conformer,
    never branch, because under ZeRO every module must run on every rank at every step.
    """

    required_fields: frozenset[str]
    """Names of the stored fields (``preprocessing/fields.py``) that the dataset must have."""
    modalities: frozenset[str] = frozenset({"2d", "3d"})
    """Modalities of the encoders that it trains."""
    notes: tuple[str, ...] = ()
    """What it leaves out of the dataset's labels, sentences for the log of a run."""
    is_global: bool = False
    """Whether it has terms of the global batch, see ``objectives/global_batch.py``."""

    @abstractmethod
    def terms(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> dict[str, Term]:
        """Compute the loss terms by branch; noise, times, permutations and dropout masks come from ``generator``."""

    def split(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> Split:
        """Compute the terms of the micro-batch alone, and the codes of its molecules."""
        return Split(self.terms(batch, encoders, generator), {})

    def global_terms(self, whole: GlobalBatch, generator: torch.Generator) -> dict[str, Term]:
        """Compute the terms of the global batch from its codes, by branch; none by default."""
        return {}

    def end_step(self, generator: torch.Generator) -> None:
        """Update what learns without a gradient, from the last :meth:`global_terms`; nothing by default."""
        return

    def forward(
        self,
        batch: MoleculeBatch,
        encoders: Encoders,
        generator: torch.Generator,
        share: GlobalShare | None = None,
    ) -> ObjectiveOutput:
        """Compute the weighted sum of the terms, and their metrics.

        Args:
            batch: micro-batch.
            encoders: shared encoders.
            generator: source of all draws.
            share: what the loss of the global batch means for this lane; None takes the micro-batch for the global one.
        """
        if share is None:
            return weighted_sum(self.terms(batch, encoders, generator))
        own = self.split(batch, encoders, generator)
        return share.added(weighted_sum(own.terms, own.codes))

    def conformer_distribution(self, batch: MoleculeBatch, encoders: Encoders) -> Conditional:
        """Learned distribution of positions [n, 3], angstrom, centred per molecule, given the bonds of ``batch``.

        Raises:
            ConfigError: the objective does not learn this distribution.
        """
        raise ConfigError(f"{type(self).__name__} does not generate positions. {GENERATING}")

    def bond_distribution(self, batch: MoleculeBatch, encoders: Encoders) -> Conditional:
        """Learned distribution of bonds and charges, given the elements and positions of ``batch``.

        Its parts are the arguments of :func:`molstream.training.diffusion.bond_transformer.decode`.

        Raises:
            ConfigError: the objective does not learn this distribution.
        """
        raise ConfigError(f"{type(self).__name__} does not generate bonds. {GENERATING}")

    def learning_rate_scale(self, name: str) -> float:
        """Factor on the learning rate of a parameter; ``name`` is its full name, ``encoders.*`` or ``objective.*``."""
        return 1.0


def graph_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average ``values`` [g] over the molecules where ``mask`` [g] is True; zero, with gradient, if there is none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def weighted_sum(terms: Mapping[str, Term], codes: dict[str, Tensor] | None = None) -> ObjectiveOutput:
    """Add up terms, and collect their metrics."""
    losses = {branch: term.coefficient * term.loss for branch, term in terms.items()}
    metrics = {name: value.detach() for term in terms.values() for name, value in term.metrics.items()}
    branches = {branch: loss.detach() for branch, loss in losses.items()}
    return ObjectiveOutput(reduce(torch.add, losses.values()), metrics, branches, codes or {})

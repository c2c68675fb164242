"""What an objective is: a module that owns its heads, noise and masks, and turns a batch into a loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor, nn

from molstream.errors import ConfigError
from molstream.training.data.batch import MoleculeBatch
from molstream.training.diffusion.conditional import Conditional
from molstream.training.models.encoders import Encoders

GENERATING = "Give a run of objective=moleculesde, which generates both."
"""What to do where an objective cannot generate."""


@dataclass(frozen=True)
class ObjectiveOutput:
    """The loss of one micro-batch and what to log about it."""

    loss: Tensor
    """float32 scalar, to be differentiated."""
    metrics: dict[str, Tensor]
    """Detached scalars by name, left on the device so that logging alone decides when to wait for them."""
    branches: dict[str, Tensor] = field(default_factory=dict)
    """Detached weighted losses of the branches, by name; they add up to the loss."""

    def branch_loss(self, prefix: str) -> Tensor:
        """The sum of the branches whose names begin with ``prefix``."""
        return reduce(torch.add, [loss for name, loss in self.branches.items() if name.startswith(prefix)])


@dataclass(frozen=True)
class Term:
    """A summand of an objective's loss, of one branch between the modalities."""

    coefficient: float
    """Its weight in the loss."""
    loss: Tensor
    """float32 scalar, to be differentiated."""
    metrics: Mapping[str, Tensor]
    """Scalars to log, by name."""
    time: Tensor | None = None
    """Diffusion time of every molecule, [g] in (0, 1); None where nothing is diffused."""
    per_molecule: Mapping[str, Tensor] = field(default_factory=dict)
    """[g] by name: what the metric of the same name is the mean of, over the molecules that have a conformer."""


def denoising_term(coefficient: float, time: Tensor, per_molecule: Mapping[str, Tensor], has_pos: Tensor) -> Term:
    """The term of a diffusion: the mean of its losses ``per_molecule`` [g], each the mean over ``has_pos`` [g]."""
    means = {name: graph_mean(values, has_pos) for name, values in per_molecule.items()}
    return Term(coefficient, reduce(torch.add, means.values()) / len(means), means, time, per_molecule)


class Objective(nn.Module, ABC):
    """A pretraining task on top of the shared encoders.

    Every parameter must take part in every forward, whatever the batch holds: a molecule without a conformer is
    masked, never branched around, because under ZeRO every module has to run on every rank at every step.
    """

    required_fields: frozenset[str]
    """Names of the stored fields (``preprocessing/fields.py``) that a dataset must have."""

    @abstractmethod
    def terms(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> dict[str, Term]:
        """The summands of the loss by branch; noise, times, permutations, dropout masks come from ``generator``."""

    def forward(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> ObjectiveOutput:
        """The weighted sum of the terms, and the metrics of all of them."""
        terms = self.terms(batch, encoders, generator)
        losses = {branch: term.coefficient * term.loss for branch, term in terms.items()}
        metrics = {name: value.detach() for term in terms.values() for name, value in term.metrics.items()}
        branches = {branch: loss.detach() for branch, loss in losses.items()}
        return ObjectiveOutput(reduce(torch.add, losses.values()), metrics, branches)

    def conformer_distribution(self, batch: MoleculeBatch, encoders: Encoders) -> Conditional:
        """What is known of the positions [n, 3] of ``batch``, in angstrom about their centre, given its bonds.

        Raises:
            ConfigError: the objective does not learn it.
        """
        raise ConfigError(f"{type(self).__name__} does not generate positions. {GENERATING}")

    def bond_distribution(self, batch: MoleculeBatch, encoders: Encoders) -> Conditional:
        """What is known of the bonds and charges of ``batch``, given its elements and positions.

        Its parts are those of :func:`molstream.training.diffusion.bond_transformer.decode`.

        Raises:
            ConfigError: the objective does not learn it.
        """
        raise ConfigError(f"{type(self).__name__} does not generate bonds. {GENERATING}")

    def learning_rate_scale(self, name: str) -> float:
        """Factor on the learning rate of the parameter ``encoders.*`` or ``objective.*`` with this full name."""
        return 1.0


def graph_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` [g] over the molecules where ``mask`` [g] is True; zero, with gradient, if there is none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)

"""What an objective is: a module that owns its heads, noise and masks, and turns a batch into a loss."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.data.batch import MoleculeBatch
from training.models.encoders import Encoders


@dataclass(frozen=True)
class ObjectiveOutput:
    """The loss of one micro-batch and what to log about it."""

    loss: Tensor
    """float32 scalar, to be differentiated."""
    metrics: dict[str, Tensor]
    """Detached scalars by name, left on the device so that logging alone decides when to wait for them."""


class Objective(nn.Module, ABC):
    """A pretraining task on top of the shared encoders.

    Every parameter must take part in every forward, whatever the batch holds: a molecule without a conformer is
    masked, never branched around, because under ZeRO every module has to run on every rank at every step.
    """

    required_fields: ClassVar[frozenset[str]]
    """Names of the stored fields (``preprocessing/fields.py``) that a dataset must have."""

    @abstractmethod
    def forward(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> ObjectiveOutput:
        """The loss of ``batch``; all noise, times, permutations and dropout masks come from ``generator``."""

    def learning_rate_scale(self, name: str) -> float:
        """Factor on the learning rate of the parameter ``encoders.*`` or ``objective.*`` with this full name."""
        return 1.0


def graph_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` [g] over the molecules where ``mask`` [g] is True; zero, with gradient, if there is none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)

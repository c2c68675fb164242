"""Objectives whose loss needs the global batch: all molecules of a step, whatever the number of processes.

A lane's loss sees its own micro-batch, and memory has room for few of them at once. Cached gradients (GradCache, Gao et
al. 2021, section 3) give the exact gradient of a loss of all lanes:

1. Every lane runs forward without a gradient and keeps its *codes*, a few vectors of each molecule.
2. The codes of all lanes, in lane order, give the loss and its gradient with respect to the codes. Every process
   computes the same.
3. Every lane runs forward again, with the same random draws, and differentiates <codes, cached gradient>.

:class:`~molstream.training.look_ahead.LookAhead` does this for a run. Called as any other module, an objective takes
the micro-batch for the global batch, as in validation.
"""

from abc import abstractmethod

import torch

from molstream.training.data.batch import MoleculeBatch
from molstream.training.models.encoders import Encoders
from molstream.training.objectives.base import GlobalBatch, Objective, Split, Term


class GlobalObjective(Objective):
    """Base of objectives with a loss of the global batch.

    A subclass computes codes in :meth:`split` and the loss of all codes in :meth:`global_terms`. Its state that learns
    without a gradient, such as a queue, is in buffers that :meth:`end_step` changes.
    """

    is_global = True

    @abstractmethod
    def split(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> Split:
        """Compute the terms of the micro-batch alone, and codes; floating-point ones, in float32, have a gradient."""

    @abstractmethod
    def global_terms(self, whole: GlobalBatch, generator: torch.Generator) -> dict[str, Term]:
        """Compute the terms of the global batch, in float32, the same on every process."""

    def terms(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> dict[str, Term]:
        """Compute all terms, with the micro-batch as the global one."""
        own = self.split(batch, encoders, generator)
        with torch.autocast(batch.pos.device.type, enabled=False):
            return {**own.terms, **self.global_terms(GlobalBatch(own.codes), generator)}

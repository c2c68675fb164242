"""Computes the loss of the global batch before the lanes are accumulated; see ``objectives/global_batch.py``."""

from collections.abc import Sequence

import torch
from torch import Tensor

from molstream.training.data.batch import MoleculeBatch
from molstream.training.engine.engine import Engine
from molstream.training.objectives.base import NOT_YET, GlobalBatch, GlobalShare, Objective


class LookAhead:
    """The first pass of a step over its lanes, for an objective with terms of the global batch.

    Args:
        engine: trains the module that ``objective`` belongs to.
        objective: what is learned; for one that sees micro-batches only, nothing is computed.
        lanes: number of lanes of all processes together.
    """

    def __init__(self, engine: Engine, objective: Objective, lanes: int):
        self._engine, self._objective, self._lanes = engine, objective, lanes

    def shares(
        self,
        lanes: Sequence[tuple[MoleculeBatch, torch.Generator]],
        generator: torch.Generator,
        progress: float,
    ) -> list[tuple[GlobalShare, ...]]:
        """Compute what each of this process's lanes is given besides its micro-batch and generator (collective).

        Args:
            lanes: micro-batch and generator of each lane of this process; the generators are used up.
            generator: of the draws of the global batch, the same on all processes.
            progress: share of the run's steps that are done.

        Returns:
            For each lane its share, or nothing where the objective does not need it.
        """
        if not self._objective.is_global:
            return [()] * len(lanes)
        own = [self._engine.look_ahead(batch, draws, NOT_YET).codes for batch, draws in lanes]
        codes = {name: self._gathered([each[name] for each in own]) for name in own[0]}
        leaves = {name: rows for name, rows in codes.items() if rows.requires_grad}
        whole = GlobalBatch(codes, progress)
        output, gradients = self._engine.accumulate_once(list(leaves.values()), whole, generator)
        self._generator = generator
        by_lane = {name: self._own(found) for name, found in zip(leaves, gradients, strict=True)}
        return [
            (GlobalShare(output.detached(), {name: found[k] for name, found in by_lane.items()}),)
            for k in range(len(lanes))
        ]

    def end_step(self, finite: bool) -> None:
        """Let the objective update what learns without a gradient, if the gradient of the step was ``finite``."""
        if self._objective.is_global and finite:
            self._objective.end_step(self._generator)

    def _gathered(self, rows: list[Tensor]) -> Tensor:
        """Codes [B, ...] of all lanes, of those [g, ...] of this process's; with gradient if they are numbers."""
        every = self._engine.context.gather_lanes(torch.stack(rows)).flatten(0, 1)
        return every.requires_grad_(every.is_floating_point())

    def _own(self, gradient: Tensor) -> Tensor:
        """Of a gradient [B, ...], the part [L / W, g, ...] of this process's lanes, times the number of lanes."""
        context = self._engine.context
        every = gradient.unflatten(0, (self._lanes, -1))
        # Over lanes the mean is taken, of losses that are the parts of a sum.
        return self._lanes * every[context.rank :: context.world_size]

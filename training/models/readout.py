"""Readouts: how the rows of a molecule's atoms are pooled to one row."""

from dataclasses import dataclass

import torch
from torch import Tensor

from molstream.training.models.config import READOUT_PARTS
from molstream.training.models.graph import segment_mean, segment_sum

TYPICAL_ATOMS = 20.0
"""Divides a sum that stands beside a mean: a molecule of so many atoms has both of one size."""


@dataclass(frozen=True)
class Readout:
    """Pools atom rows [n, d] to molecule rows [g, parts * d]: the poolings named by ``parts``, one after the other."""

    parts: tuple[str, ...]

    def __call__(self, nodes: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """Pool the rows of ``nodes`` [n, d] with the same molecule ``batch`` [n]; every molecule has an atom."""
        return self._joined([_POOLINGS[part](nodes, batch, num_graphs) for part in self.parts])

    def padded(self, nodes: Tensor, real: Tensor) -> Tensor:
        """Pool padded rows ``nodes`` [g, s, d], of which those that are ``real`` (bool [g, s]) have an atom."""
        is_atom = real.unsqueeze(2)
        total = torch.where(is_atom, nodes, 0.0).sum(1)
        pooled = {
            "sum": lambda: total,
            "mean": lambda: total / real.sum(1, keepdim=True),
            "max": lambda: torch.where(is_atom, nodes, -torch.inf).amax(1),
        }
        return self._joined([pooled[part]() for part in self.parts])

    def _joined(self, pooled: list[Tensor]) -> Tensor:
        """One row of the parts' rows."""
        if len(pooled) == 1:
            return pooled[0]
        scaled = (rows / TYPICAL_ATOMS if part == "sum" else rows for part, rows in zip(self.parts, pooled))
        return torch.cat(list(scaled), dim=1)


def segment_max(values: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """Largest entries of the rows of ``values`` [m, d] with the same ``index`` [m]; zero for a segment without rows.

    The gradient of a maximum that several rows share is divided among them.
    """
    rows = values.new_zeros((num_segments, values.shape[1]))
    return rows.scatter_reduce(0, index.unsqueeze(1).expand_as(values), values, "amax", include_self=False)


_POOLINGS = {"mean": segment_mean, "sum": segment_sum, "max": segment_max}
READOUTS = {name: Readout(parts) for name, parts in READOUT_PARTS.items()}
"""Readouts by name."""

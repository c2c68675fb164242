"""The batch that models and objectives see: PyG's names for PyG's things, true molecules only, no padding."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class MoleculeBatch:
    """g molecules with n atoms and e directed bonds in all, as one disjoint graph.

    Every bond stands twice, as the adjacent columns (i, j) and (j, i) of ``edge_index`` with the same ``edge_attr``.
    Where a molecule has no conformer, ``has_pos`` is False and its rows of ``pos`` are zero: mask, never branch.
    """

    x: Tensor
    """int64 [n, 9]: OGB atom features; ``x[:, 0]`` is the atomic number - 1."""
    edge_index: Tensor
    """int64 [2, e]."""
    edge_attr: Tensor
    """int64 [e, 3]: OGB bond features."""
    pos: Tensor
    """float32 [n, 3]: angstrom, centred on each molecule's centroid."""
    has_pos: Tensor
    """bool [g]."""
    batch: Tensor
    """int64 [n]: the molecule of every atom, ascending."""
    ptr: Tensor
    """int64 [g + 1]: first atom of every molecule."""
    y: Tensor
    """float32 [g, t]: targets, NaN where missing."""
    index: Tensor
    """int64 [g]: position of every molecule in the dataset, in manifest order."""

    @property
    def num_graphs(self) -> int:
        """Number of molecules g."""
        return self.ptr.numel() - 1

    @property
    def num_nodes(self) -> int:
        """Number of atoms n."""
        return self.x.shape[0]

    def to(self, device: torch.device | str) -> "MoleculeBatch":
        """The same batch on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def to_pyg(self):
        """The batch as a ``torch_geometric.data.Batch`` for code that expects one; tensors are shared."""
        from torch_geometric.data import Batch

        return Batch(**{f.name: getattr(self, f.name) for f in fields(self)})

"""The batch of molecules that models and objectives take: one disjoint graph, PyG's field names, no padding."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch_geometric.data import Batch


NOT_READ = torch.zeros(0, dtype=torch.int64)
"""What a batch has of a field that was not asked for."""


@dataclass(frozen=True)
class MoleculeBatch:
    """A batch of g molecules with n atoms and e directed bonds in total, as one disjoint graph.

    Each bond appears twice, as the adjacent columns (i, j) and (j, i) of ``edge_index``, with the same ``edge_attr``.
    If a molecule has no conformer, ``has_pos`` is False and its rows of ``pos`` are zero: mask them, never branch.
    """

    x: Tensor
    """int64 [n, 9]: OGB atom features; ``x[:, 0]`` is the atomic number - 1."""
    edge_index: Tensor
    """int64 [2, e]: source and target atom of each directed bond."""
    edge_attr: Tensor
    """int64 [e, 3]: OGB bond features."""
    pos: Tensor
    """float32 [n, 3]: angstrom, centred on each molecule's centroid."""
    has_pos: Tensor
    """bool [g]: whether the molecule has a conformer."""
    batch: Tensor
    """int64 [n]: molecule of each atom, ascending."""
    ptr: Tensor
    """int64 [g + 1]: first atom of each molecule, then n."""
    y: Tensor
    """float32 [g, t]: targets, NaN where missing; t = 0 if they were not asked for, or the dataset has none."""
    descriptors: Tensor
    """float32 [g, k]: descriptors as stored, NaN where undefined; k = 0 if they were not asked for, or the dataset has
    none."""
    index: Tensor
    """int64 [g]: position of each molecule in the dataset, in manifest order."""
    key_hash: Tensor = NOT_READ
    """int64 [g]: a hash of each molecule's key, which tells that two datasets of a mixture have the same one; [0] if
    keys were not asked for."""
    images: Tensor | None = None
    """uint8 [g, 3, s, s]: drawings, zero for a molecule that cannot be drawn; None if they were not asked for."""
    has_image: Tensor | None = None
    """bool [g]: whether the molecule is drawn: mask the others, never branch; None without ``images``."""

    @property
    def num_graphs(self) -> int:
        """Number of molecules in the batch, g."""
        return self.ptr.numel() - 1

    @property
    def num_nodes(self) -> int:
        """Number of atoms in the batch, n."""
        return self.x.shape[0]

    def to(self, device: torch.device | str) -> "MoleculeBatch":
        """Copy the batch to a device, asynchronously where possible."""
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The fields that there are, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def present(self, modality: str) -> Tensor:
        """bool [g]: whether a molecule has what the encoder of a modality, 2d, 3d or image, sees."""
        if modality == "image":
            return torch.zeros_like(self.has_pos) if self.has_image is None else self.has_image
        return self.has_pos if modality == "3d" else torch.ones_like(self.has_pos)

    def to_pyg(self, **texts: Sequence[str]) -> "Batch":
        """Convert to a PyG batch, equal to ``Batch.from_data_list`` of the molecules; tensors are shared.

        Objects of single molecules are created only on request, by ``batch[0]`` or ``to_data_list()``.

        Args:
            texts: further attributes, one string per molecule, such as ``smiles``.

        Returns:
            A ``torch_geometric.data.Batch`` with the fields that there are, except that ``index`` is called ``idx``
            (PyG adds the number of atoms to every attribute with "index" in its name), without ``key_hash``, and with
            ``z``, int64 [n], the atomic numbers, as PyG's 3D models expect.
        """
        from torch_geometric.data import Batch

        tensors = {name: value for name, value in self.tensors().items() if name not in ("index", "key_hash")}
        batch = Batch(**tensors, idx=self.index, z=self.x[:, 0] + 1, **{k: list(text) for k, text in texts.items()})
        atoms, molecules = self.ptr.cpu(), torch.arange(self.num_graphs + 1)
        num_edges = torch.bincount(self.batch[self.edge_index[0]], minlength=self.num_graphs).cpu()
        edges = torch.cat([molecules[:1], num_edges.cumsum(0)])
        slices = {"x": atoms, "edge_index": edges, "edge_attr": edges, "pos": atoms, "z": atoms}
        drawn = () if self.images is None else ("images", "has_image")
        slices |= dict.fromkeys(("has_pos", "y", "descriptors", "idx", *drawn, *texts), molecules)
        nothing = torch.zeros(self.num_graphs, dtype=torch.long)
        # from_data_list sets these too; PyG needs them to separate the molecules.
        batch._num_graphs, batch._slice_dict = self.num_graphs, slices
        batch._inc_dict = {
            name: None if name in texts else atoms[:-1] if name == "edge_index" else nothing for name in slices
        }
        return batch

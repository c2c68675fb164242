"""Length buckets: the padded rectangles that attention runs on, and the conversion of ragged rows to and from them.

Batches are ragged; only attention needs rectangles. The molecules of a batch are therefore sorted into a few buckets of
similar size; in a bucket, every molecule is padded to the size of the largest. The cost of a molecule does not depend
on the largest molecule of the batch, and its result does not depend on the other molecules.

Symbols of shapes: ``n`` atoms, ``p`` unordered atom pairs in the order of :func:`~.graph.molecule_pairs`; ``b``
molecules and ``s`` slots per molecule of a bucket, a slot being an atom or padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from molstream.training.models.graph import expand

MAX_PADDING_SHARE = 0.08
"""Largest allowed share of padding among the attention entries of a batch."""
MASKED = -1e4
"""Logit of a padded key: finite in half precision, while its weight underflows to zero in every precision."""


class Bucket(NamedTuple):
    """Molecules that attention processes together, padded to the same size."""

    num_molecules: int
    """Number of molecules in the bucket, b."""
    size: int
    """Slots per molecule, s: the number of atoms of the largest one."""


@dataclass(frozen=True)
class Layout:
    """Positions of the atoms and atom pairs of a batch in its buckets."""

    buckets: tuple[Bucket, ...]
    """The buckets of the batch, ascending in size."""
    atom_of_slot: Tensor
    """int64 [sum of b s]: atom of each slot; padding repeats the molecule's last atom."""
    slot_of_atom: Tensor
    """int64 [n]: slot of each atom."""
    row_of_entry: Tensor
    """int64 [sum of b s^2]: row of each entry (query, key) in a table of pairs, as extended by :meth:`spread`."""
    padding_share: float
    """Share of the entries (query, key) that are padding."""
    num_rows: int
    """Rows of a table of pairs: p + 1, or 2p + n of a layout of ordered pairs."""

    def pad(self, rows: Tensor) -> list[Tensor]:
        """Convert atom rows [n, ...] to one padded tensor [b, s, ...] per bucket."""
        counts = [bucket.num_molecules * bucket.size for bucket in self.buckets]
        parts = rows.index_select(0, self.atom_of_slot).split(counts)
        return [part.unflatten(0, bucket) for part, bucket in zip(parts, self.buckets, strict=True)]

    def unpad(self, parts: Sequence[Tensor]) -> Tensor:
        """Convert the buckets' padded tensors [b, s, ...] to atom rows [n, ...]: the inverse of :meth:`pad`."""
        return torch.cat([part.flatten(0, 1) for part in parts]).index_select(0, self.slot_of_atom)

    def spread(self, bias: Tensor) -> list[Tensor]:
        """Convert biases of pairs to one attention bias [b, h, s, s] per bucket.

        Args:
            bias: [p + 1, h], a row per unordered pair, used for both directions, then the row of the diagonal; of a
                layout of ordered pairs [2p + n, h], in the order of :func:`ordered_rows`.
        """
        table = torch.cat([bias, bias.new_full((1, bias.shape[1]), MASKED)]).t()
        counts = [bucket.num_molecules * bucket.size**2 for bucket in self.buckets]
        parts = table.index_select(1, self.row_of_entry).split(counts, dim=1)
        return [
            part.view(-1, bucket.num_molecules, bucket.size, bucket.size).transpose(0, 1)
            for part, bucket in zip(parts, self.buckets, strict=True)
        ]

    def collect(self, parts: Sequence[Tensor]) -> Tensor:
        """Convert one tensor [b, s, s, ...] per bucket to rows [2p + n, ...] of ordered pairs: undoes :meth:`spread`.

        The layout must be one of ordered pairs, each of which is one entry.
        """
        real = self.row_of_entry < self.num_rows
        entry = torch.empty(self.num_rows, dtype=torch.long, device=real.device)
        entry[self.row_of_entry[real]] = real.nonzero().squeeze(1)
        return torch.cat([part.flatten(0, 2) for part in parts]).index_select(0, entry)


@dataclass(frozen=True)
class PaddedLayout:
    """The layout of molecules that come padded to one size s: a single bucket, found without reading their sizes.

    Atoms are the g s slots, and pairs the g s^2 entries (query, key), of padding too. It replaces :class:`Layout` where
    a network is exported, since nothing in it depends on the content of a batch.
    """

    real: Tensor
    """bool [g, s]: whether a slot has an atom."""

    def pad(self, rows: Tensor) -> list[Tensor]:
        """Convert rows of slots [g s, ...] to [g, s, ...]."""
        return [rows.unflatten(0, self.real.shape)]

    def unpad(self, parts: Sequence[Tensor]) -> Tensor:
        """Undo :meth:`pad`."""
        # A copy: attention's result has other strides in the operations that exporters replace it by.
        return parts[0].clone(memory_format=torch.contiguous_format).flatten(0, 1)

    def spread(self, bias: Tensor) -> list[Tensor]:
        """Convert biases of entries [g s^2, h] to an attention bias [g, h, s, s], in which padded keys are masked."""
        (num_molecules, size), key = self.real.shape, self.real[:, None, None, :]
        entries = bias.unflatten(0, (num_molecules, size, size)).permute(0, 3, 1, 2)
        return [torch.where(key, entries, entries.new_full((), MASKED))]


def bucketed(batch: Tensor, ordered: bool = False) -> Layout:
    """Compute the layout of a batch from the molecule of each atom, ``batch`` (int64 [n], ascending).

    Synchronises with the device once, to read the sizes of the molecules.

    Args:
        batch: molecule of each atom.
        ordered: whether a pair has a row for each direction, and each atom one to itself; see :func:`ordered_rows`.
    """
    _, molecule, size_on_device = torch.unique_consecutive(batch, return_inverse=True, return_counts=True)
    size = size_on_device.cpu()
    limits = torch.tensor(bucket_limits(size))
    bucket = torch.searchsorted(limits, size)
    padded = limits[bucket]
    order = torch.argsort(bucket, stable=True)
    first_atom, first_pair = size.cumsum(0) - size, (size * (size - 1) // 2).cumsum(0) - size * (size - 1) // 2
    first_slot = torch.empty_like(size)
    first_slot[order] = padded[order].cumsum(0) - padded[order]
    ordering = torch.stack([size, padded, first_atom, first_pair])[:, order].to(batch.device, non_blocking=True)
    sizes, slots, atoms, rows = ordering.unbind()
    num_pairs = int((size * (size - 1) // 2).sum())
    shift = (first_slot - first_atom).to(batch.device, non_blocking=True)
    return Layout(
        buckets=tuple(Bucket(*pair) for pair in zip(torch.bincount(bucket).tolist(), limits.tolist(), strict=True)),
        atom_of_slot=_atoms(sizes, slots, atoms),
        slot_of_atom=torch.arange(batch.numel(), device=batch.device) + shift[molecule],
        row_of_entry=(
            _ordered_pair_rows(sizes, slots, atoms, rows, num_pairs)
            if ordered
            else _pair_rows(sizes, slots, rows, num_pairs)
        ),
        padding_share=_padding_share(size, padded),
        num_rows=2 * num_pairs + batch.numel() if ordered else num_pairs + 1,
    )


def ordered_rows(pairs: Tensor, num_atoms: int) -> Tensor:
    """The atoms (i, j) of each row of a table of ordered pairs, int64 [2, 2p + n].

    First the unordered ``pairs`` [2, p] with i < j, then the same with i > j, then each of n atoms with itself.
    """
    itself = torch.arange(num_atoms, device=pairs.device).expand(2, -1)
    return torch.cat([pairs, pairs.flip(0), itself], dim=1)


def padding_share(size: Tensor) -> float:
    """Share of padding in the layout of molecules of ``size`` atoms (int64 [g], on the CPU), without computing it."""
    limits = torch.tensor(bucket_limits(size))
    return _padding_share(size, limits[torch.searchsorted(limits, size)])


def bucket_limits(sizes: Tensor, max_padding_share: float = MAX_PADDING_SHARE) -> list[int]:
    """Choose the buckets; returns the largest size of each, ascending.

    Takes the smallest number of buckets (each costs a kernel launch per layer) whose padding is at most
    ``max_padding_share`` of all entries (query, key), with the bounds that minimise padding for this number: dynamic
    programming over the distinct sizes.

    Args:
        sizes: int64 [g], number of atoms of each molecule, on the CPU; g > 0.
        max_padding_share: from 0 (a bucket per size) to 1 (one bucket).
    """
    size, count = torch.unique(sizes, return_counts=True)
    up_to = count.cumsum(0)
    before = up_to - count
    # one_bucket[i, j]: number of entries of one bucket with the distinct sizes i to j.
    one_bucket = ((up_to - before.unsqueeze(1)) * size**2).double()
    position = torch.arange(len(size))
    one_bucket[position.unsqueeze(1) > position] = torch.inf
    needed = float((count * size**2).sum())
    # entries[j]: smallest number of entries of the distinct sizes 0 to j, with the number of buckets of this iteration.
    entries, last_begins = one_bucket[0], []
    while needed < (1.0 - max_padding_share) * float(entries[-1]):
        entries, cut = (entries[:-1].unsqueeze(1) + one_bucket[1:]).min(0)
        last_begins.append(cut + 1)
    end, limits = len(size) - 1, []
    for begins in reversed(last_begins):
        limits.append(int(size[end]))
        end = int(begins[end]) - 1
    return [int(size[end]), *reversed(limits)]


def _padding_share(size: Tensor, padded: Tensor) -> float:
    return 1.0 - int((size**2).sum()) / int((padded**2).sum())


def _atoms(size: Tensor, padded: Tensor, first_atom: Tensor) -> Tensor:
    """Atom of each slot, from sizes, padded sizes and first atoms [g] in bucket order."""
    molecule, rank = expand(padded)
    return first_atom[molecule] + torch.minimum(rank, size[molecule] - 1)


def _pair_rows(size: Tensor, padded: Tensor, first_pair: Tensor, num_pairs: int) -> Tensor:
    """Row of each entry, from [g] in bucket order: p pairs, then the row of the diagonal, then that of padding."""
    molecule, query, key = _entries(padded)
    size = size[molecule]
    row = first_pair[molecule] + _rank_of_pair(query, key, size)
    row = torch.where((query == key) | (query >= size), num_pairs, row)
    return torch.where(key >= size, num_pairs + 1, row)


def _ordered_pair_rows(size: Tensor, padded: Tensor, first_atom: Tensor, first_pair: Tensor, num_pairs: int) -> Tensor:
    """Row of each entry, from [g] in bucket order: the rows of :func:`ordered_rows`, then that of padding."""
    molecule, query, key = _entries(padded)
    num_rows = 2 * num_pairs + int(size.sum())
    row = first_pair[molecule] + _rank_of_pair(query, key, size[molecule]) + torch.where(query < key, 0, num_pairs)
    row = torch.where(query == key, 2 * num_pairs + first_atom[molecule] + query, row)
    return torch.where(torch.maximum(query, key) >= size[molecule], num_rows, row)


def _entries(padded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Molecule, query and key of each entry, from padded sizes [g]."""
    molecule, rank = expand(padded**2)
    return molecule, rank // padded[molecule], rank % padded[molecule]


def _rank_of_pair(query: Tensor, key: Tensor, size: Tensor) -> Tensor:
    """Number of each pair of different atoms among the pairs of its molecule of ``size`` atoms."""
    low, high = torch.minimum(query, key), torch.maximum(query, key)
    return low * (2 * size - low - 1) // 2 + high - low - 1

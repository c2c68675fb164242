"""Length buckets: the rectangles that attention runs on, and the way of ragged rows there and back.

Batches are ragged, and so is everything that works on one row at a time. Attention alone needs rectangles. The
molecules of a batch are therefore sorted into few buckets of similar size; in a bucket every molecule takes as many
slots as its largest. What a molecule costs does not depend on the largest molecule of the batch, and its result on
none of the others.

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
"""At most this share of a batch's attention entries is padding."""
MASKED = -1e4
"""Logit of a padded key: its weight underflows to zero in every precision, and it is finite in half precision."""


class Bucket(NamedTuple):
    """Molecules that attention takes at once."""

    num_molecules: int
    size: int
    """Slots per molecule, the atoms of the largest one."""


@dataclass(frozen=True)
class Layout:
    """Where the atoms and the atom pairs of a batch stand in its buckets."""

    buckets: tuple[Bucket, ...]
    """Ascending in size."""
    atom_of_slot: Tensor
    """int64 [sum of b s]: which atom fills a slot; padding repeats the molecule's last atom."""
    slot_of_atom: Tensor
    """int64 [n]."""
    row_of_entry: Tensor
    """int64 [sum of b s^2]: which row of a pair table, extended by :meth:`spread`, an entry (query, key) shows."""
    padding_share: float
    """Share of the entries (query, key) that are padding."""

    def pad(self, rows: Tensor) -> list[Tensor]:
        """Each bucket's atoms [b, s, ...] from rows [n, ...]."""
        counts = [bucket.num_molecules * bucket.size for bucket in self.buckets]
        parts = rows.index_select(0, self.atom_of_slot).split(counts)
        return [part.unflatten(0, bucket) for part, bucket in zip(parts, self.buckets, strict=True)]

    def unpad(self, parts: Sequence[Tensor]) -> Tensor:
        """The rows [n, ...] of each bucket's atoms [b, s, ...]: the way back from :meth:`pad`."""
        return torch.cat([part.flatten(0, 1) for part in parts]).index_select(0, self.slot_of_atom)

    def spread(self, bias: Tensor) -> list[Tensor]:
        """Each bucket's attention bias [b, h, s, s].

        Args:
            bias: [p + 1, h], a row for every unordered pair, which both its directions show, then the diagonal's.
        """
        table = torch.cat([bias, bias.new_full((1, bias.shape[1]), MASKED)]).t()
        counts = [bucket.num_molecules * bucket.size**2 for bucket in self.buckets]
        parts = table.index_select(1, self.row_of_entry).split(counts, dim=1)
        return [
            part.view(-1, bucket.num_molecules, bucket.size, bucket.size).transpose(0, 1)
            for part, bucket in zip(parts, self.buckets, strict=True)
        ]


def bucketed(batch: Tensor) -> Layout:
    """The layout of a batch whose atoms belong to the molecules ``batch`` (int64 [n], ascending).

    It waits for the device once, to learn the sizes of the molecules.
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
    plan = torch.stack([size, padded, first_atom, first_pair])[:, order].to(batch.device, non_blocking=True)
    shift = (first_slot - first_atom).to(batch.device, non_blocking=True)
    return Layout(
        buckets=tuple(Bucket(*pair) for pair in zip(torch.bincount(bucket).tolist(), limits.tolist(), strict=True)),
        atom_of_slot=_atoms(*plan[:3]),
        slot_of_atom=torch.arange(batch.numel(), device=batch.device) + shift[molecule],
        row_of_entry=_pair_rows(plan[0], plan[1], plan[3]),
        padding_share=_padding_share(size, padded),
    )


def padding_share(size: Tensor) -> float:
    """The share of padding in the layout of molecules of ``size`` atoms (int64 [g], on the CPU), without making it."""
    limits = torch.tensor(bucket_limits(size))
    return _padding_share(size, limits[torch.searchsorted(limits, size)])


def bucket_limits(sizes: Tensor, max_padding_share: float = MAX_PADDING_SHARE) -> list[int]:
    """The largest size of every bucket, ascending.

    The fewest buckets (each is a launch per layer) whose padding is no more than ``max_padding_share`` of all entries
    (query, key), cut where so many buckets pad least: dynamic programming over the distinct sizes.

    Args:
        sizes: int64 [g], atoms of every molecule, on the CPU; g > 0.
        max_padding_share: from 0, a bucket for every size, to 1, one bucket.
    """
    size, count = torch.unique(sizes, return_counts=True)
    up_to = count.cumsum(0)
    before = up_to - count
    # one_bucket[i, j]: entries of one bucket that holds the distinct sizes i to j.
    one_bucket = ((up_to - before.unsqueeze(1)) * size**2).double()
    position = torch.arange(len(size))
    one_bucket[position.unsqueeze(1) > position] = torch.inf
    needed = float((count * size**2).sum())
    # entries[j]: the least that so many buckets as are tried make of the distinct sizes 0 to j.
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
    """The atom of every slot, from [g] in bucket order."""
    molecule, rank = expand(padded)
    return first_atom[molecule] + torch.minimum(rank, size[molecule] - 1)


def _pair_rows(size: Tensor, padded: Tensor, first_pair: Tensor) -> Tensor:
    """The row of every entry, from [g] in bucket order: p pairs, then the diagonal's row, then padding's."""
    molecule, rank = expand(padded**2)
    num_pairs = int((size * (size - 1) // 2).sum())
    query, key = rank // padded[molecule], rank % padded[molecule]
    size = size[molecule]
    low, high = torch.minimum(query, key), torch.maximum(query, key)
    row = first_pair[molecule] + low * (2 * size - low - 1) // 2 + high - low - 1
    row = torch.where((query == key) | (query >= size), num_pairs, row)
    return torch.where(key >= size, num_pairs + 1, row)

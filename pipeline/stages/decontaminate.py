"""Decontamination: which rows share a key, its first block or a scaffold with which benchmark set and are left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from molstream.pipeline.stages.dedup import digest, write_array

MAX_SETS = 64
"""Most benchmark sets: each has a bit in a 64-bit mask."""

_ENTRY = np.dtype([("digest", "S16"), ("sets", "<u8")])


@dataclass(frozen=True)
class Benchmarks:
    """The identities in all benchmark sets.

    ``entries`` is sorted by the digests of the identities; bit k of ``sets`` is 1 if set k holds the identity.
    """

    names: tuple[str, ...]
    entries: np.ndarray

    @classmethod
    def of(cls, identities: Mapping[str, Sequence[str]]) -> "Benchmarks":
        """The benchmarks with these identities by the name of their set; empty strings are no identity."""
        digests = [[digest(i) for i in found if i] for found in identities.values()]
        flat = np.array([d for found in digests for d in found], "S16")
        bits = np.repeat(np.uint64(1) << np.arange(len(digests), dtype=np.uint64), [len(found) for found in digests])
        unique, inverse = np.unique(flat, return_inverse=True)
        entries = np.zeros(len(unique), _ENTRY)
        entries["digest"] = unique
        np.bitwise_or.at(entries["sets"], inverse, bits)
        return cls(tuple(identities), entries)

    def save(self, path: Path) -> None:
        """Write the entries; the names of the sets are in the plan."""
        write_array(path, self.entries)

    @classmethod
    def load(cls, path: Path, names: Sequence[str]) -> "Benchmarks":
        """The benchmarks whose entries :meth:`save` wrote, with the names of the sets in their order."""
        return cls(tuple(names), np.load(path, allow_pickle=False))

    def sets(self, identities: Sequence[str]) -> list[tuple[str, ...]]:
        """For every identity, the names of the sets that hold it."""
        if not len(self.entries):
            return [()] * len(identities)
        digests = np.array([digest(i) for i in identities], "S16")
        at = np.minimum(np.searchsorted(self.entries["digest"], digests), len(self.entries) - 1)
        hit = self.entries["digest"][at] == digests
        masks = np.where(hit, self.entries["sets"][at], np.uint64(0))
        return [
            tuple(name for k, name in enumerate(self.names) if int(mask) >> k & 1) if identity else ()
            for identity, mask in zip(identities, masks, strict=True)
        ]

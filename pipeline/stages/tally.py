"""Counts and times of the molecules that are written, for the manifest, ``inspect`` and the dataset card."""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from molstream.pipeline.shards.columns import Columns
from molstream.preprocessing.fields import ConformerStatus

SLOWEST = 12
"""Number of slowest molecules that are kept with the times they took."""

ENERGY_BIN = 10
"""Width of the bins of the energy histogram, kcal/mol."""


@dataclass
class Tally:
    """Counts over written molecules: a pure function of them, hence part of the manifest."""

    conformer_status: Counter[str] = field(default_factory=Counter)
    """Molecules by ConformerStatus name."""
    changes: Counter[str] = field(default_factory=Counter)
    """Molecules that a step of standardization changed, by step."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Given conformers that are not of their molecule, hence not stored, by reason."""
    histograms: dict[str, Counter[str]] = field(default_factory=dict)
    """Molecules by heavy atoms, rings, rotatable bonds and energy of the lowest conformer (lower edge of a bin of
    10 kcal/mol); atoms by element."""

    def add(self, written: pa.RecordBatch, described: pa.RecordBatch) -> None:
        """Count molecules, given as records and, in the same order, as described."""
        names = ("atom_features", "conformer_status", "conformer_energy")
        columns = Columns.from_batch(written, names)
        numbers = columns.values["atom_features"][:, 0].astype(np.int64) + 1
        molecule = np.repeat(np.arange(columns.num_rows), np.diff(columns.offsets["atom_features"]))
        heavy = np.bincount(molecule, weights=numbers > 1, minlength=columns.num_rows).astype(np.int64)
        self.conformer_status.update(ConformerStatus(s).name.lower() for s in columns.values["conformer_status"])
        self.changes.update(step for steps in described.column("changes").to_pylist() for step in steps)
        self.left_out.update(reason for reasons in described.column("left_out").to_pylist() for reason in reasons)
        self._count("heavy_atoms", heavy)
        self._count("rings", described.column("num_rings").to_numpy())
        self._count("rotatable_bonds", described.column("num_rotatable_bonds").to_numpy())
        offsets = columns.offsets["conformer_energy"]
        lowest = columns.values["conformer_energy"][offsets[:-1][np.diff(offsets) > 0]]
        energies = lowest[np.isfinite(lowest)]
        self._count("energy", (np.floor(energies / ENERGY_BIN) * ENERGY_BIN).astype(np.int64))
        found, counts = np.unique(numbers, return_counts=True)
        elements = self.histograms.setdefault("elements", Counter())
        for number, count in zip(found.tolist(), counts.tolist()):
            elements[_symbol(number)] += count

    def _count(self, name: str, values: np.ndarray) -> None:
        found, counts = np.unique(values, return_counts=True)
        self.histograms.setdefault(name, Counter()).update(dict(zip(map(str, found.tolist()), counts.tolist())))

    def update(self, other: "Tally") -> None:
        """Add the counts of ``other``."""
        self.conformer_status.update(other.conformer_status)
        self.changes.update(other.changes)
        self.left_out.update(other.left_out)
        for name, histogram in other.histograms.items():
            self.histograms.setdefault(name, Counter()).update(histogram)

    def to_dict(self) -> dict[str, Any]:
        """As stored; the order of the keys does not depend on the order of counting."""
        return {
            "conformer_status": dict(sorted(self.conformer_status.items())),
            "changes": dict(sorted(self.changes.items())),
            "left_out": dict(sorted(self.left_out.items())),
            "histograms": {
                name: dict(sorted(counts.items(), key=lambda kv: (_number(kv[0]), kv[0])))
                for name, counts in sorted(self.histograms.items())
            },
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Tally":
        """The inverse of :meth:`to_dict`."""
        histograms = {name: Counter(counts) for name, counts in record["histograms"].items()}
        status, changes, left_out = (Counter(record[name]) for name in ("conformer_status", "changes", "left_out"))
        return cls(status, changes, left_out, histograms)


def _number(text: str) -> int:
    return int(text) if text.lstrip("-").isdigit() else 0


def _symbol(number: int) -> str:
    from rdkit import Chem

    return Chem.GetPeriodicTable().GetElementSymbol(number) if number <= 118 else "?"


@dataclass
class Timing:
    """CPU seconds of the chemistry; they differ from run to run, so they are kept beside the manifest and not in it."""

    describe_s: float = 0.0
    """CPU seconds of stage one, for the molecules that are written."""
    embed_s: float = 0.0
    """CPU seconds of stage two, for the same molecules."""
    histogram: Counter[str] = field(default_factory=Counter)
    """Molecules by time: key k counts those of 10^(k/3) to 10^((k+1)/3) seconds."""
    slowest: list[tuple[float, str]] = field(default_factory=list)
    """Seconds and SMILES of the slowest molecules, slowest first."""
    rejected_s: Counter[str] = field(default_factory=Counter)
    """CPU seconds of rejected rows, in the stage that rejected them, by reason."""

    def add_rejected(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add the times of rejected rows, given with ``reason`` and ``seconds``."""
        for row in rows:
            self.rejected_s[row["reason"]] += row["seconds"]  # pyright: ignore[reportArgumentType]

    def add(self, smiles: Iterable[str], describe_s: np.ndarray, embed_s: np.ndarray) -> None:
        """Add the times of molecules, CPU seconds of each in both stages."""
        self.describe_s += float(describe_s.sum())
        self.embed_s += float(embed_s.sum())
        total = (describe_s + embed_s).tolist()
        self.histogram.update(str(math.floor(3 * math.log10(max(seconds, 1e-6)))) for seconds in total)
        self.slowest = heapq.nlargest(SLOWEST, [*self.slowest, *zip(total, smiles)])

    def update(self, other: "Timing") -> None:
        """Add the times of ``other``."""
        self.describe_s += other.describe_s
        self.embed_s += other.embed_s
        self.histogram.update(other.histogram)
        self.slowest = heapq.nlargest(SLOWEST, [*self.slowest, *other.slowest])
        self.rejected_s.update(other.rejected_s)

    def to_dict(self) -> dict[str, Any]:
        """The times as JSON values, rounded to 0.1 ms."""
        return {
            "describe_s": round(self.describe_s, 4),
            "embed_s": round(self.embed_s, 4),
            "histogram": dict(sorted(self.histogram.items(), key=lambda kv: int(kv[0]))),
            "slowest": [[round(seconds, 4), smiles] for seconds, smiles in self.slowest],
            "rejected_s": {reason: round(seconds, 4) for reason, seconds in sorted(self.rejected_s.items())},
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Timing":
        """The inverse of :meth:`to_dict`."""
        slowest = [(seconds, smiles) for seconds, smiles in record["slowest"]]
        rejected_s = Counter(record.get("rejected_s", {}))
        return cls(record["describe_s"], record["embed_s"], Counter(record["histogram"]), slowest, rejected_s)

"""How a number is distributed over the molecules of a dataset, as its manifest says it: enough to normalise by."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

INTERVALS = 128
"""Quantiles divide the values into so many parts: those of the probabilities 0, 1/128, ..., 1 are kept."""
_PROBABILITIES = np.arange(INTERVALS + 1) / INTERVALS


@dataclass(frozen=True, slots=True)
class Distribution:
    """Counts, moments and quantiles of a number; what is missing (NaN) counts as missing only."""

    known: int
    """Molecules with a value."""
    missing: int
    """Molecules without."""
    mean: float | None
    """None if no value is known, like the deviation."""
    deviation: float | None
    """Standard deviation of the known values, their number being the divisor."""
    quantiles: tuple[float, ...]
    """Of the known values, at the 129 probabilities i/128, each to float32; between two values they are interpolated
    linearly. Empty if no value is known."""

    @classmethod
    def of(cls, values: np.ndarray) -> "Distribution":
        """The distribution of values, float32 [n]; sums are exact, so that every machine gives the same bits."""
        known = values[~np.isnan(values)].astype(np.float64)
        missing = len(values) - len(known)
        if not len(known):
            return cls(0, missing, None, None, ())
        mean = math.fsum(known.tolist()) / len(known)
        deviation = math.sqrt(math.fsum(((known - mean) ** 2).tolist()) / len(known))
        return cls(len(known), missing, mean, deviation, _rounded(np.quantile(known, _PROBABILITIES)))

    def to_dict(self) -> dict[str, Any]:
        """As stored: what JSON gives back."""
        return {**asdict(self), "quantiles": list(self.quantiles)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Distribution":
        """The inverse of :meth:`to_dict`; :meth:`problem` says whether it can be true."""
        return cls(**{**record, "quantiles": tuple(record["quantiles"])})

    def problem(self) -> str | None:
        """What cannot be true of it, a clause; None if all can."""
        if any(type(count) is not int or not 0 <= count < 2**63 for count in (self.known, self.missing)):
            return f"known and missing are {self.known!r} and {self.missing!r}"
        if not self.known:
            empty = (self.mean, self.deviation, self.quantiles) == (None, None, ())
            return None if empty else "no value is known, but there is a mean, deviation or quantile"
        numbers = (self.mean, self.deviation, *self.quantiles)
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            return "a mean, deviation or quantile is no finite number"
        if len(self.quantiles) != INTERVALS + 1 or list(self.quantiles) != sorted(self.quantiles):
            return f"expected {INTERVALS + 1} ascending quantiles"
        return None


def distributions(records: Mapping[str, dict[str, Any]]) -> dict[str, Distribution]:
    """Distributions by name, as stored."""
    return {name: Distribution.from_dict(each) for name, each in records.items()}


def merged(parts: Sequence[Distribution], molecules: Sequence[int]) -> Distribution:
    """The distribution over several datasets together, each weighted by its molecules.

    A dataset stands for its molecules as those that its distribution counts do. Quantiles are those of the weighted sum
    of the distribution functions, which are taken to be linear between the quantiles of each dataset.

    Args:
        parts: the distribution in every dataset.
        molecules: number of molecules of every dataset.
    """
    counted = [part.known + part.missing for part in parts]
    known = [n * part.known / max(1, count) for n, part, count in zip(molecules, parts, counted, strict=True)]
    total = math.fsum(known)
    if not total:
        return Distribution(0, sum(molecules), None, None, ())
    present = [(part, weight / total) for part, weight in zip(parts, known, strict=True) if weight]
    mean = math.fsum(share * float(part.mean or 0) for part, share in present)
    spread = (
        share * (float(part.deviation or 0) ** 2 + (float(part.mean or 0) - mean) ** 2) for part, share in present
    )
    tables = [np.array(part.quantiles) for part, _ in present]
    values = np.unique(np.concatenate(tables))
    below, up_to = (
        sum(share * cumulated(table, values) for table, (_, share) in zip(tables, present, strict=True))
        for cumulated in (_below, _up_to)
    )
    # Where many molecules have one value, the function jumps: both of its ends are points of the curve.
    curve = np.stack([below, up_to], axis=1).reshape(-1), np.repeat(values, 2)
    quantiles = _rounded(np.interp(_PROBABILITIES, *curve))
    return Distribution(round(total), sum(molecules) - round(total), mean, math.sqrt(math.fsum(spread)), quantiles)


def _up_to(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of a distribution that is at most each of the values, by its quantiles."""
    after = np.searchsorted(table, values, side="right")
    lower, upper = table[np.maximum(after - 1, 0)], table[np.minimum(after, INTERVALS)]
    inside = np.divide(values - lower, upper - lower, out=np.zeros(len(values)), where=upper > lower)
    return np.where(after == 0, 0.0, np.where(after > INTERVALS, 1.0, (after - 1 + inside) / INTERVALS))


def _below(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of a distribution that is below each of the values, by its quantiles."""
    return 1.0 - _up_to(-table[::-1], -values)


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    """Numbers to float32, each as the float64 that has its shortest decimal text; no negative zero."""
    return tuple(float(str(value)) for value in values.astype(np.float32) + np.float32(0))

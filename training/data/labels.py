"""What a dataset offers objectives to predict: numbers of every molecule, and how their values are distributed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from molstream.errors import DataError
from molstream.io.reading import mismatch
from molstream.pipeline.shards.distributions import INTERVALS, Distribution, distributions
from molstream.preprocessing.descriptors import DESCRIPTORS_V1

ROUNDING = 1e-12
"""Largest error of a variance of numbers from 0 to 1; a value of 1e-6 among 131,072 of 0 and 1 makes a larger one."""


@dataclass(frozen=True)
class LabelTable:
    """k numbers of every molecule, and the distributions of their known values in a dataset."""

    names: tuple[str, ...]
    mean: np.ndarray
    """float64 [k]; NaN where no value is known."""
    deviation: np.ndarray
    """float64 [k]: standard deviations; NaN where no value is known."""
    quantiles: np.ndarray
    """float64 [k, 129]: quantiles at probabilities 0, 1/128, ..., 1; NaN where no value is known."""

    @classmethod
    def of(cls, distributions: Mapping[str, Distribution]) -> "LabelTable":
        """The numbers with these distributions, by name."""
        unknown = (np.nan,) * (INTERVALS + 1)
        found = distributions.values()
        # numpy makes NaN of None.
        mean = np.array([each.mean for each in found], np.float64)
        deviation = np.array([each.deviation for each in found], np.float64)
        quantiles = np.array([each.quantiles or unknown for each in found], np.float64).reshape(-1, INTERVALS + 1)
        return cls(tuple(distributions), mean, deviation, quantiles)

    def take(self, columns: np.ndarray) -> "LabelTable":
        """Some of the numbers, by their places, int64 [j]."""
        names = tuple(self.names[k] for k in columns)
        return LabelTable(names, self.mean[columns], self.deviation[columns], self.quantiles[columns])

    @property
    def known(self) -> np.ndarray:
        """bool [k]: whether any value is known."""
        return ~np.isnan(self.mean)

    @property
    def constant(self) -> np.ndarray:
        """bool [k]: whether all known values are equal, or too close for their deviation in float32."""
        return (self.quantiles[:, 0] == self.quantiles[:, -1]) | (self.deviation.astype(np.float32) == 0.0)

    @property
    def binary(self) -> np.ndarray:
        """bool [k]: whether all known values are 0 or 1, and both occur.

        Of all numbers from 0 to 1, these alone have the variance mean * (1 - mean). Quantiles cannot tell, since one
        between a 0 and a 1 is interpolated.
        """
        spread = self.mean * (1.0 - self.mean) - self.deviation**2
        return (self.quantiles[:, 0] == 0.0) & (self.quantiles[:, -1] == 1.0) & (np.abs(spread) < ROUNDING)


NO_LABELS = LabelTable.of({})


@dataclass(frozen=True)
class Labels:
    """The tables of labels of a dataset."""

    descriptors: LabelTable
    targets: LabelTable = NO_LABELS

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Labels":
        """Those of a dataset, by its record in a run (``Mixture.record``); one from before they were counted has none.

        Raises:
            DataError: the record is damaged.
        """
        return cls(_table(record, "descriptor_statistics"), _table(record, "target_statistics"))

    @classmethod
    def unknown(cls) -> "Labels":
        """Those of no dataset: the descriptors of this version and no targets, for the sizes of an untrained module."""
        return cls(LabelTable.of(dict.fromkeys(DESCRIPTORS_V1, Distribution.of(np.zeros(0, np.float32)))))


def _table(record: Mapping[str, Any], key: str) -> LabelTable:
    records: Any = record.get(key, {})
    wrong = mismatch(records, dict[str, Distribution], key)
    found = {} if wrong else distributions(records)
    problems = (f"{key}.{name}: {problem}" for name, each in found.items() if (problem := each.problem()))
    wrong = wrong or next(problems, None)
    if wrong:
        raise DataError(
            f"the record of the dataset cannot be used: {wrong}. Restore the run's dataset.json from a copy."
        )
    return LabelTable.of(found)

"""What a dataset offers objectives to predict: numbers of every molecule, and how their values are distributed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from molstream.pipeline.shards.distributions import INTERVALS, Distribution
from molstream.preprocessing.descriptors import DESCRIPTORS_V1


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


@dataclass(frozen=True)
class Labels:
    """The tables of labels of a dataset."""

    descriptors: LabelTable

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Labels":
        """Those of a dataset, by the record of a run (``Mixture.record``); one from before descriptors has none."""
        statistics: dict[str, Any] = record.get("descriptor_statistics", {})
        return cls(LabelTable.of({name: Distribution.from_dict(each) for name, each in statistics.items()}))

    @classmethod
    def unknown(cls) -> "Labels":
        """Those of no dataset, with the descriptors of this version: for the sizes of a module that is not trained."""
        return cls(LabelTable.of(dict.fromkeys(DESCRIPTORS_V1, Distribution.of(np.zeros(0, np.float32)))))

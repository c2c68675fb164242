"""Prediction of the targets of a dataset, the ``target_columns`` of its sources, from the vectors of molecules.

Several targets, any of which may be missing, are learned together: measured properties and classes (multi-task
pretraining as in Beaini et al. 2023, Graphium, and Klaser et al. 2024, MiniMol). Their distributions over the dataset,
which are in its manifest, tell classes from numbers.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from molstream.errors import ConfigError
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.labels import Labels, LabelTable
from molstream.training.models.config import ModelConfig
from molstream.training.models.graph import in_float32
from molstream.training.objectives.config import TargetsConfig
from molstream.training.objectives.prediction import NORMALIZATIONS, Prediction

MOST_NAMES = 8
"""Most targets that a message names."""


class Targets(Prediction):
    """L = mean over encoders, molecules and known targets of the loss of a prediction from the vector.

    A target whose known values are all 0 or 1 is a class, with the binary cross-entropy of a logit in bits as its loss;
    any other is normalised as a descriptor is, with the squared error. Either is about 1 for a prediction that knows
    nothing. A target that is the same for all molecules, or known for none, is left out, with a note.

    Raises:
        ConfigError: the dataset has no targets, or none of a name in ``columns``, or all are left out.
    """

    columns: Tensor
    """int64 [k]: places of the learned targets among those of the dataset."""
    is_class: Tensor
    """bool [k]: which of them are classes."""

    def __init__(self, config: TargetsConfig, model: ModelConfig, labels: Labels):
        chosen = _chosen(labels.targets, config.columns)
        wanted = labels.targets.take(chosen)
        columns = chosen[wanted.known & ~wanted.constant]
        notes = _left_out(wanted)
        if not len(columns):
            raise ConfigError(f"{notes[0]} Nothing is left to learn: choose others by objective.targets.columns=[...].")
        table = labels.targets.take(columns)
        super().__init__("targets", "targets", len(columns), config.hidden, model)
        self.notes = notes
        self.normalize = NORMALIZATIONS[config.transform](table)
        self.register_buffer("columns", torch.from_numpy(columns), persistent=False)
        self.register_buffer("is_class", torch.from_numpy(table.binary), persistent=False)

    def labels(self, batch: MoleculeBatch) -> tuple[Tensor, Tensor]:
        """Classes, 0 or 1, and normalised numbers, float32 [g, k]; and which are known, bool [g, k]."""
        values = in_float32(batch.y)[:, self.columns]
        numbers, known = self.normalize(values)
        # Molecules that the statistics do not count, as those of a validation dataset, may have other values.
        classes = torch.where(known, values, 0.0).clamp(0.0, 1.0)
        return torch.where(self.is_class, classes, numbers), known

    def losses(self, predicted: Tensor, label: Tensor) -> Tensor:
        """The loss of each prediction, [g, k]: the cross-entropy of classes in bits, the squared error of numbers."""
        bits = F.binary_cross_entropy_with_logits(predicted, label, reduction="none") / math.log(2.0)
        return torch.where(self.is_class, bits, super().losses(predicted, label))


def _chosen(table: LabelTable, columns: Sequence[str] | None) -> np.ndarray:
    """Places of the configured targets among those of the dataset, int64.

    Raises:
        ConfigError: there are none, or none of a name.
    """
    if not table.names:
        raise ConfigError(
            "objective=targets: expected a dataset with targets and their statistics, got none. Preprocess with "
            "target_columns=[...]; a dataset of an earlier molstream has no statistics: preprocess it again."
        )
    wanted = table.names if columns is None else columns
    if unknown := [name for name in wanted if name not in table.names]:
        raise ConfigError(
            f"objective.targets.columns: the dataset has no target {_named(unknown)}; it has {_named(table.names)}."
        )
    return np.array([table.names.index(name) for name in wanted], np.int64)


def _left_out(table: LabelTable) -> tuple[str, ...]:
    """A sentence about the targets that are left out; none if all are learned."""
    unknown, constant = (
        [name for name, chosen in zip(table.names, mask, strict=True) if chosen]
        for mask in (~table.known, table.known & table.constant)
    )
    reasons = [f"{len(unknown)} known for no molecule ({_named(unknown)})"] if unknown else []
    reasons += [f"{len(constant)} with one value for all molecules ({_named(constant)})"] if constant else []
    count = f"{len(unknown) + len(constant)} of {len(table.names)} targets"
    return (f"objective=targets leaves out {count}: {', '.join(reasons)}.",) if reasons else ()


def _named(names: Sequence[str]) -> str:
    each = [f"'{name}'" for name in names]
    return ", ".join([*each[:MOST_NAMES], *(["..."] if len(each) > MOST_NAMES else [])])

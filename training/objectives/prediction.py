"""Predicting numbers of molecules from their vectors: heads, what makes numbers comparable, and the loss.

:class:`Descriptors`, :class:`Targets` and :class:`Shapes` differ in what they predict.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.labels import LabelTable
from molstream.training.models.config import ModelConfig, spoken
from molstream.training.models.encoders import Encoders
from molstream.training.models.graph import in_float32
from molstream.training.objectives.base import Objective, Term, graph_mean

MAX_DEVIATIONS = 6.0
"""Bound of a winsorised value."""


class Prediction(Objective):
    """L = mean over encoders, molecules and known labels of the loss of a prediction from the vector.

    Every encoder, or some, have a head of two layers on their readout. The mean over molecules is one of means over the
    known labels of each; a molecule without any counts nothing. The 3D encoder learns from molecules with a conformer
    only, the image encoder from those with an image.

    Args:
        name: of the terms.
        field: the stored field with the labels, or with what they are computed from.
        count: number of labels, k.
        hidden: hidden width of the heads.
        model: sizes of the encoders.
        modalities: of the encoders that have a head; all that there are by default.
    """

    def __init__(
        self,
        name: str,
        field: str,
        count: int,
        hidden: int,
        model: ModelConfig,
        modalities: frozenset[str] | None = None,
    ):
        super().__init__()
        self._name = name
        self.modalities = frozenset(model.encoders()) if modalities is None else modalities
        self.required_fields = frozenset({"atom_features", "bond_index", "bond_features", field})
        self.heads = nn.ModuleDict(
            {modality: _head(model.readout_width(modality), hidden, count) for modality in sorted(self.modalities)}
        )

    @abstractmethod
    def labels(self, batch: MoleculeBatch) -> tuple[Tensor, Tensor]:
        """What shall be predicted, float32 [g, k], zero where it is not known; and what is known, bool [g, k]."""

    def losses(self, predicted: Tensor, label: Tensor) -> Tensor:
        """The loss of each prediction, [g, k]: the squared error."""
        return (predicted - label).square()

    def terms(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> dict[str, Term]:
        """Compute a term for every encoder; metrics are the losses."""
        label, known = self.labels(batch)
        terms = {}
        for modality, head in self.heads.items():
            predicted = in_float32(head(encoders.molecules(modality, batch, generator)))
            losses = torch.where(known, self.losses(predicted, label), 0.0).sum(1) / known.sum(1).clamp(min=1)
            loss = graph_mean(losses, known.any(1) & batch.present(modality))
            terms[f"{self._name} {spoken(modality)}"] = Term(1.0 / len(self.heads), loss, {f"{modality}_loss": loss})
        return terms


def _head(width: int, hidden: int, count: int) -> nn.Sequential:
    """A network of two layers that starts by predicting zero, the mean of what it shall predict."""
    last = nn.Linear(hidden, count)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), last)


class NormalScores(nn.Module):
    """The normal score of a value's rank in the dataset: the quantile of N(0, 1) at its mean rank among equal values.

    Ranks are interpolated between the 129 quantiles of the manifest; the largest score is 2.66.
    """

    quantiles: Tensor
    useful: Tensor

    def __init__(self, table: LabelTable):
        super().__init__()
        quantiles = torch.tensor(table.quantiles, dtype=torch.float32)
        self.register_buffer("quantiles", quantiles.nan_to_num(0.0), persistent=False)
        self.register_buffer("useful", quantiles[:, 0] < quantiles[:, -1], persistent=False)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [g, k] of values [g, k], zero where they are not known; and which are, bool [g, k]."""
        known = values.isfinite() & self.useful
        columns = torch.where(known, values, 0.0).T.contiguous()
        last = self.quantiles.shape[1] - 1
        first = torch.searchsorted(self.quantiles, columns)
        after = torch.searchsorted(self.quantiles, columns, right=True)
        below, above = (self.quantiles.gather(1, at.clamp(0, last)) for at in (after - 1, after))
        between = (columns - below) / (above - below).clamp(min=torch.finfo(columns.dtype).tiny)
        # Equal to one quantile or several: their mean rank. Between two: linear.
        rank = torch.where(first < after, 0.5 * (first + after - 1), after - 1 + between)
        edge = 0.5 / (last + 1)
        share = (rank / last).clamp(edge, 1.0 - edge)
        return torch.where(known, torch.special.ndtri(share).T, 0.0), known


class Winsorised(nn.Module):
    """(value - mean) / standard deviation, cut off at six."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, table: LabelTable):
        super().__init__()
        self.register_buffer("mean", torch.tensor(table.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("deviation", torch.tensor(table.deviation, dtype=torch.float32), persistent=False)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised values [g, k], zero where they are not known; and which are, bool [g, k]."""
        known = values.isfinite() & (self.deviation > 0.0)
        scaled = ((values - self.mean) / self.deviation).clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS)
        return torch.where(known, scaled, 0.0), known


NORMALIZATIONS = {"rank": NormalScores, "winsorise": Winsorised}
"""How values are made comparable, by name."""

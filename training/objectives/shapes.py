"""Regression of the shape of a conformer on its vector, for the 3D encoder."""

import torch
from torch import Tensor

from molstream.errors import ConfigError
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.labels import Labels
from molstream.training.models.config import ModelConfig
from molstream.training.models.graph import in_float32, segment_mean
from molstream.training.objectives.config import ShapesConfig
from molstream.training.objectives.prediction import Prediction

TYPICAL = {
    "logarithm of the radius of gyration": (1.4, 0.2),
    "first ratio of principal moments": (0.2, 0.1),
    "second ratio of principal moments": (0.9, 0.1),
    "mean distance from the centroid": (3.8, 0.65),
    "standard deviation of these distances": (1.5, 0.4),
    "cube root of their skewness": (0.0, 0.55),
}
"""Mean and standard deviation of each number over molecules of ZINC250k with a conformer of ETKDG; lengths in angstrom.
They make the numbers comparable, whatever the dataset."""

MIN_DEVIATION = 1e-3
"""Deviation of the distances, in angstrom, below which they count as equal."""


class Shapes(Prediction):
    """L = mean over molecules with a conformer of the squared error of six numbers of its shape.

    They are invariant to motions and reflections: the radius of gyration, the ratios of the principal moments of
    inertia (Sauer and Schwarz 2003), and the moments of the atoms' distances from the centroid (Ballester and Richards
    2007), all atoms with the same mass.

    Raises:
        ConfigError: the model has no 3D encoder.
    """

    def __init__(self, config: ShapesConfig, model: ModelConfig, labels: Labels):
        if "3d" not in model.encoders():
            raise ConfigError(
                "objective=shapes: the model has no 3D encoder to learn from. Choose one by model/encoder_3d=NAME."
            )
        super().__init__("shape", "positions", len(TYPICAL), config.hidden, model, frozenset({"3d"}))

    def labels(self, batch: MoleculeBatch) -> tuple[Tensor, Tensor]:
        """Normalised numbers of the shape, float32 [g, 6], known where there is a conformer of two atoms or more."""
        centre, spread = torch.tensor(list(TYPICAL.values()), device=batch.pos.device).T
        known = batch.has_pos & (batch.ptr.diff() > 1)
        numbers = torch.where(known.unsqueeze(1), (shape(batch) - centre) / spread, 0.0)
        return numbers, known.unsqueeze(1).expand_as(numbers)


def shape(batch: MoleculeBatch) -> Tensor:
    """The numbers of :data:`TYPICAL` of each molecule, float32 [g, 6]; not finite without positions or for one atom."""
    count = batch.num_graphs
    pos = in_float32(batch.pos)
    offset = pos - segment_mean(pos, batch.batch, count)[batch.batch]
    products = segment_mean(offset.unsqueeze(2) * offset.unsqueeze(1), batch.batch, count)
    # Ascending; the moments of inertia are sums of two.
    least, middle, most = torch.linalg.eigvalsh(products).clamp(min=0.0).unbind(1)
    distance = offset.norm(dim=1)
    mean = segment_mean(distance, batch.batch, count)
    apart = distance - mean[batch.batch]
    deviation = segment_mean(apart.square(), batch.batch, count).sqrt()
    third = segment_mean(apart**3, batch.batch, count)
    numbers = (
        0.5 * (least + middle + most).log(),
        (least + middle) / (middle + most),
        (least + most) / (middle + most),
        mean,
        deviation,
        # Two atoms, or a ring, have one distance, and no skewness.
        third.sign() * third.abs() ** (1 / 3) / deviation.clamp(min=MIN_DEVIATION),
    )
    return torch.stack(numbers, 1)

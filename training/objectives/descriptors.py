"""Regression of RDKit's descriptors on the vectors of molecules.

Descriptors are computed by the preprocessing; their distributions over the dataset, which make them comparable, are in
its manifest. Of the ways to pretrain a frozen encoder this one gave most for its cost (Ahmad et al. 2022, ChemBERTa-2;
Burns et al. 2025, CheMeleon).
"""

from torch import Tensor

from molstream.errors import ConfigError
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.labels import Labels
from molstream.training.models.config import ModelConfig
from molstream.training.models.graph import in_float32
from molstream.training.objectives.config import DescriptorsConfig
from molstream.training.objectives.prediction import NORMALIZATIONS, Prediction


class Descriptors(Prediction):
    """L = mean over encoders, molecules and known descriptors of the squared error of a prediction from the vector.

    Values are of unit variance, or nearly (ranks of counts), so that the loss is about 1 for a prediction that knows
    nothing. A descriptor that is the same for all molecules, or known for none, is left out.

    Raises:
        ConfigError: the dataset has no descriptors.
    """

    def __init__(self, config: DescriptorsConfig, model: ModelConfig, labels: Labels):
        table = labels.descriptors
        if not table.names:
            raise ConfigError(
                "objective=descriptors: the dataset has no descriptors. Preprocess with featurize.descriptors=rdkit2d."
            )
        super().__init__("descriptors", "descriptors", len(table.names), config.hidden, model)
        self.normalize = NORMALIZATIONS[config.transform](table)

    def labels(self, batch: MoleculeBatch) -> tuple[Tensor, Tensor]:
        """Normalised descriptors, float32 [g, k], and which are known, bool [g, k]."""
        return self.normalize(in_float32(batch.descriptors))

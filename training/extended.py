"""Configurations of models and objectives that include the encoders and objectives of other packages.

They are separate from the plain configurations, because modules of these packages import the plain ones.
"""

from typing import TYPE_CHECKING

from molstream.config import with_sections
from molstream.extensions import extensions
from molstream.training.models import config as models
from molstream.training.objectives import config as objectives

if TYPE_CHECKING:
    ModelConfig = models.ModelConfig
    ObjectiveConfig = objectives.ObjectiveConfig
else:
    ModelConfig = with_sections(
        models.ModelConfig,
        {name: (encoder.Config, {"encoder": encoder.modality}) for name, encoder in extensions("encoders").items()},
    )
    ObjectiveConfig = with_sections(
        objectives.ObjectiveConfig,
        {name: (objective.Config, {}) for name, objective in extensions("objectives").items()},
    )

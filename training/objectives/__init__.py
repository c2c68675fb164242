"""Pretraining objectives: each owns its heads, noise and masks, and shares the encoders."""

from molstream.training.objectives.base import Objective, ObjectiveOutput
from molstream.training.objectives.table import OBJECTIVES, ObjectiveConfig, build_objective

__all__ = ["OBJECTIVES", "Objective", "ObjectiveConfig", "ObjectiveOutput", "build_objective"]

"""Table of objectives by name, and the function that builds the configured ones."""

from collections.abc import Callable
from typing import Any

from molstream.extensions import extended
from molstream.training.models.config import ModelConfig
from molstream.training.objectives.base import Objective
from molstream.training.objectives.combined import CombinedObjective
from molstream.training.objectives.config import ObjectiveConfig
from molstream.training.objectives.moleculesde import MoleculeSDE
from molstream.training.objectives.moleculesde_paper import PaperMoleculeSDE

OBJECTIVES: dict[str, Callable[[Any, ModelConfig], Objective]] = {
    "moleculesde": MoleculeSDE,
    "moleculesde_paper": PaperMoleculeSDE,
}
"""Objective classes by the field of :class:`ObjectiveConfig` with their configuration; they also take the model's."""


def build_objective(config: ObjectiveConfig, model: ModelConfig) -> CombinedObjective:
    """Build the configured objectives as one combined objective, with heads that match the sizes of ``model``.

    Raises:
        ConfigError: no objective is configured, the model lacks a required network, or values contradict each other.
    """
    chosen = config.chosen()
    table = extended(OBJECTIVES, "objectives")
    parts = {name: table[name](settings, model) for name, settings in chosen.items()}
    return CombinedObjective(parts, {name: settings.weight for name, settings in chosen.items()})

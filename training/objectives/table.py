"""Table of objectives by name, and the function that builds the configured ones."""

from collections.abc import Callable
from typing import Any

from molstream.errors import ConfigError
from molstream.extensions import extended
from molstream.training.data.labels import Labels
from molstream.training.models.config import ModelConfig, spoken
from molstream.training.objectives.base import Objective
from molstream.training.objectives.combined import CombinedObjective
from molstream.training.objectives.config import ObjectiveConfig
from molstream.training.objectives.descriptors import Descriptors
from molstream.training.objectives.mmsa.objective import MMSA
from molstream.training.objectives.moleblend import MoleBLEND
from molstream.training.objectives.moleculesde import MoleculeSDE
from molstream.training.objectives.moleculesde_paper import PaperMoleculeSDE
from molstream.training.objectives.shapes import Shapes
from molstream.training.objectives.targets import Targets

OBJECTIVES: dict[str, Callable[[Any, ModelConfig, Labels], Objective]] = {
    "moleculesde": MoleculeSDE,
    "moleculesde_paper": PaperMoleculeSDE,
    "moleblend": MoleBLEND,
    "mmsa": MMSA,
    "descriptors": Descriptors,
    "targets": Targets,
    "shapes": Shapes,
}
"""Objective classes by the field of :class:`ObjectiveConfig` with their configuration; they also take the model's, and
what the dataset offers to predict."""


def build_objective(config: ObjectiveConfig, model: ModelConfig, labels: Labels) -> CombinedObjective:
    """Build the configured objectives as one combined objective, with heads that match the sizes of ``model``.

    Raises:
        ConfigError: no objective is configured, the model lacks a required network or has an encoder that no objective
            trains, the dataset lacks labels, or values contradict each other.
    """
    chosen = config.chosen()
    table = extended(OBJECTIVES, "objectives")
    parts = {name: table[name](settings, model, labels) for name, settings in chosen.items()}
    trained = frozenset().union(*(part.modalities for part in parts.values()))
    for modality, encoder in model.encoders().items():
        if modality not in trained:
            advice = f"leave it out by model/encoder_{modality}=none, or add a term that trains it"
            if model.encoder_both:
                advice = "add a term that trains it, or choose an encoder of one modality"
            raise ConfigError(
                f"model.{encoder}, the {spoken(modality)} encoder, is trained by no term of objective="
                f"{','.join(parts)}: {advice}."
            )
    return CombinedObjective(parts, {name: settings.weight for name, settings in chosen.items()})

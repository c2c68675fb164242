"""The table of objectives and the configuration that chooses one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from molstream.errors import ConfigError
from molstream.training.models.encoders import ModelConfig
from molstream.training.objectives.base import Objective
from molstream.training.objectives.moleculesde import MoleculeSDE, MoleculeSDEConfig
from molstream.training.objectives.moleculesde_corrected import CorrectedMoleculeSDE, CorrectedMoleculeSDEConfig


@dataclass
class ObjectiveConfig:
    """Which objective, and the values of each."""

    name: str = "moleculesde"
    """A name of :data:`OBJECTIVES`."""
    moleculesde: MoleculeSDEConfig = field(default_factory=MoleculeSDEConfig)
    """Used with ``name=moleculesde``."""
    moleculesde_corrected: CorrectedMoleculeSDEConfig = field(default_factory=CorrectedMoleculeSDEConfig)
    """Used with ``name=moleculesde_corrected``."""


class Choice(NamedTuple):
    """A row of :data:`OBJECTIVES`: the class, and where its configuration stands in :class:`ObjectiveConfig`."""

    build: Callable[[Any, ModelConfig], Objective]
    config: Callable[[ObjectiveConfig], Any]


OBJECTIVES: dict[str, Choice] = {
    "moleculesde": Choice(MoleculeSDE, attrgetter("moleculesde")),
    "moleculesde_corrected": Choice(CorrectedMoleculeSDE, attrgetter("moleculesde_corrected")),
}


def build_objective(config: ObjectiveConfig, model: ModelConfig) -> Objective:
    """The objective that ``config`` names, with heads of the sizes of ``model``.

    Raises:
        ConfigError: no such objective, or values that contradict each other.
    """
    if config.name not in OBJECTIVES:
        raise ConfigError(f"objective.name={config.name!r} is no objective. Choose one of: {', '.join(OBJECTIVES)}.")
    choice = OBJECTIVES[config.name]
    return choice.build(choice.config(config), model)

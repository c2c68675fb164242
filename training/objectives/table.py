"""The table of objectives and the configuration that chooses one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from molstream.errors import ConfigError
from molstream.training.models.encoders import ModelConfig
from molstream.training.objectives.base import Objective
from molstream.training.objectives.moleculesde import MoleculeSDE, MoleculeSDEConfig
from molstream.training.objectives.moleculesde_paper import PaperMoleculeSDE, PaperMoleculeSDEConfig


@dataclass
class ObjectiveConfig:
    """Which objective, and the values of each."""

    name: str = "moleculesde_paper"
    """A name of :data:`OBJECTIVES`."""
    moleculesde_paper: PaperMoleculeSDEConfig = field(default_factory=PaperMoleculeSDEConfig)
    """Used with ``name=moleculesde_paper``."""
    moleculesde: MoleculeSDEConfig = field(default_factory=MoleculeSDEConfig)
    """Used with ``name=moleculesde``."""


class Choice(NamedTuple):
    """A row of :data:`OBJECTIVES`: the class, and where its configuration stands in :class:`ObjectiveConfig`."""

    build: Callable[[Any, ModelConfig], Objective]
    config: Callable[[ObjectiveConfig], Any]


OBJECTIVES: dict[str, Choice] = {
    "moleculesde_paper": Choice(PaperMoleculeSDE, attrgetter("moleculesde_paper")),
    "moleculesde": Choice(MoleculeSDE, attrgetter("moleculesde")),
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

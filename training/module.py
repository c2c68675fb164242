"""What is trained: shared encoders and one objective with its heads, as a single module for the engine."""

import torch
from torch import nn

from molstream.errors import ConfigError
from molstream.training.data.batch import MoleculeBatch
from molstream.training.models.config import ModelConfig
from molstream.training.models.encoders import Encoders
from molstream.training.models.layers import Blockwise
from molstream.training.objectives.base import ObjectiveOutput
from molstream.training.objectives.config import ObjectiveConfig
from molstream.training.objectives.table import build_objective


class PretrainingModule(nn.Module):
    """Encoders plus objective; parameter names begin with ``encoders.`` or ``objective.``."""

    def __init__(self, model: ModelConfig, objective: ObjectiveConfig):
        super().__init__()
        self.encoders = Encoders(model)
        self.objective = build_objective(objective, model)

    def forward(self, batch: MoleculeBatch, generator: torch.Generator) -> ObjectiveOutput:
        """Loss and metrics of one micro-batch; every draw comes from ``generator``."""
        return self.objective(batch, self.encoders, generator)


def run_children_once(module: nn.Module) -> None:
    """Have networks run every child once per forward, as ZeRO 3 needs; see :class:`Blockwise`."""
    for network in module.modules():
        if isinstance(network, Blockwise):
            network.blockwise = False


def num_parameters(module: nn.Module) -> int:
    """Number of scalars in all parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def build_module(model: ModelConfig, objective: ObjectiveConfig, seed: int) -> PretrainingModule:
    """A module whose initial weights are a function of ``seed`` alone.

    Raises:
        ConfigError: an encoder or objective that no table has, or sizes that contradict each other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return PretrainingModule(model, objective)
        except ValueError as error:
            raise ConfigError(str(error)) from error

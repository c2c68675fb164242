"""The module that the engine trains: shared encoders, and the objective with its heads."""

import torch
from torch import nn

from molstream.errors import ConfigError
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.labels import Labels
from molstream.training.models.config import ModelConfig
from molstream.training.models.encoders import Encoders
from molstream.training.models.layers import Blockwise
from molstream.training.objectives.base import ObjectiveOutput
from molstream.training.objectives.config import ObjectiveConfig
from molstream.training.objectives.table import build_objective


class PretrainingModule(nn.Module):
    """Encoders and objective; parameter names begin with ``encoders.`` or ``objective.``."""

    def __init__(self, model: ModelConfig, objective: ObjectiveConfig, labels: Labels):
        super().__init__()
        self.encoders = Encoders(model)
        self.objective = build_objective(objective, model, labels)

    def forward(self, batch: MoleculeBatch, generator: torch.Generator) -> ObjectiveOutput:
        """Compute loss and metrics of a micro-batch; all random draws come from ``generator``."""
        return self.objective(batch, self.encoders, generator)


def run_children_once(module: nn.Module) -> None:
    """Make networks run each child once per forward, as ZeRO 3 requires; see :class:`Blockwise`."""
    for network in module.modules():
        if isinstance(network, Blockwise):
            network.blockwise = False


def num_parameters(module: nn.Module) -> int:
    """Number of elements of all parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def build_module(
    model: ModelConfig, objective: ObjectiveConfig, seed: int, labels: Labels | None = None
) -> PretrainingModule:
    """Build a module whose initial weights are a function of the configuration and ``seed``.

    Args:
        model: sizes of the networks.
        objective: what is learned.
        seed: random seed.
        labels: what the dataset offers to predict; without them the module has its sizes, but cannot be trained.

    Raises:
        ConfigError: an encoder or objective is unknown, the dataset lacks labels, or sizes contradict each other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return PretrainingModule(model, objective, labels or Labels.unknown())
        except ValueError as error:
            raise ConfigError(str(error)) from error

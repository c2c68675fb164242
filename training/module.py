"""The module that the engine trains: shared encoders, and the objective with its heads."""

import torch
from torch import nn

from molstream.errors import ConfigError
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.labels import Labels
from molstream.training.models.config import ModelConfig
from molstream.training.models.encoders import Encoders
from molstream.training.models.layers import Blockwise
from molstream.training.objectives.base import GlobalBatch, GlobalShare, ObjectiveOutput, weighted_sum
from molstream.training.objectives.config import ObjectiveConfig
from molstream.training.objectives.table import build_objective


class PretrainingModule(nn.Module):
    """Encoders and objective; parameter names begin with ``encoders.`` or ``objective.``."""

    def __init__(self, model: ModelConfig, objective: ObjectiveConfig, labels: Labels):
        super().__init__()
        self.encoders = Encoders(model)
        self.objective = build_objective(objective, model, labels)

    def forward(
        self, batch: MoleculeBatch | GlobalBatch, generator: torch.Generator, share: GlobalShare | None = None
    ) -> ObjectiveOutput:
        """Compute loss and metrics of a micro-batch, or those of the codes of a global batch.

        Both are forwards of the root, from which ZeRO 3 follows the order of the modules.

        Args:
            batch: molecules, or codes.
            generator: source of all draws.
            share: what the loss of the global batch means for a micro-batch.
        """
        if isinstance(batch, GlobalBatch):
            return weighted_sum(self.objective.global_terms(batch, generator))
        return self.objective(batch, self.encoders, generator, share)


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

"""Exponential moving average of the weights, partitioned over processes."""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from molstream.training.distributed.partition import gathered, shares


class WeightShares(Protocol):
    """Access to this process's parts of the weights, at any ZeRO stage."""

    def share(self, parameter: nn.Parameter) -> Tensor:
        """This process's part of one weight, [ceil(numel / W)]; must not be modified."""
        ...

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """Shape of the unpartitioned parameter."""
        ...


class ExponentialMovingAverage:
    """Updates a <- d a + (1 - d) w after every step, with d = min(decay, (1 + k) / (10 + k)) at the k-th step.

    The smaller decay of the first steps makes the average forget the initial weights sooner, as in TensorFlow's
    ExponentialMovingAverage with num_updates, which score_sde uses.

    Args:
        state: gives the current weights of the engine.
        parameters: the module's parameters by name.
        decay: largest decay, below 1.
    """

    def __init__(self, state: WeightShares, parameters: dict[str, nn.Parameter], decay: float):
        self._state, self._parameters, self._decay = state, parameters, decay
        self._shares = {name: state.share(parameter).clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after optimizer step number ``step``, counted from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, parameter in self._parameters.items():
            self._shares[name].lerp_(self._state.share(parameter), 1.0 - decay)

    def read(self, name: str) -> Tensor:
        """The average of one parameter, unpartitioned (collective)."""
        parameter = self._parameters[name]
        return gathered(self._shares[name].to(parameter.device), self._state.shape(parameter))

    def write(self, name: str, value: Tensor) -> None:
        """Set the average of one parameter, given unpartitioned."""
        self._shares[name].copy_(shares(value, dist.get_world_size())[dist.get_rank()])

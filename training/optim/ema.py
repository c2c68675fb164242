"""An exponential moving average of the weights, of which every process keeps its share."""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from molstream.training.distributed.partition import gathered, shares


class WeightShares(Protocol):
    """This process's shares of the weights, however ZeRO lays them out."""

    def share(self, parameter: nn.Parameter) -> Tensor:
        """The share of one parameter, [ceil(numel / W)]; not to be changed."""
        ...

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """Shape of the whole parameter."""
        ...


class ExponentialMovingAverage:
    """a <- d a + (1 - d) w after every step, with d = min(decay, (1 + k) / (10 + k)) at the k-th step.

    So the first steps, far from where training ends, are forgotten sooner (as in TensorFlow's ExponentialMovingAverage
    with num_updates, which score_sde uses).

    Args:
        state: of the engine, from which the weights come.
        parameters: by name.
        decay: below one.
    """

    def __init__(self, state: WeightShares, parameters: dict[str, nn.Parameter], decay: float):
        self._state, self._parameters, self._decay = state, parameters, decay
        self._shares = {name: state.share(parameter).clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after so many steps."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, parameter in self._parameters.items():
            self._shares[name].lerp_(self._state.share(parameter), 1.0 - decay)

    def read(self, name: str) -> Tensor:
        """A parameter's average, whole (collective)."""
        parameter = self._parameters[name]
        return gathered(self._shares[name].to(parameter.device), self._state.shape(parameter))

    def write(self, name: str, value: Tensor) -> None:
        """Set a parameter's average."""
        self._shares[name].copy_(shares(value, dist.get_world_size())[dist.get_rank()])

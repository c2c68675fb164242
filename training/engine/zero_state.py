"""Weights and optimizer state by parameter name, whole, whatever DeepSpeed has made of them: read and written.

Reading and writing are collective: all processes ask for the same tensors in the same order. One class for every way
in which ZeRO lays out what belongs to a parameter; the functions that take ``moment`` mean the weight by None.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from molstream.training.distributed import deepspeed_compat
from molstream.training.distributed.partition import shares
from molstream.training.optim.muon import is_muon

MOMENTS = ("exp_avg", "exp_avg_sq")


class ReplicatedState:
    """ZeRO 0: every process has everything."""

    def __init__(self, engine: Any, optimizer: torch.optim.Optimizer):
        self._engine, self._optimizer = engine, optimizer

    def begun(self) -> bool:
        """Whether the optimizer has a state, as it has after its first step."""
        return any(self._optimizer.state.get(master) for _, master in self._masters())

    def begin(self, step: int) -> None:
        """Make an optimizer state as of ``step`` with moments of zero."""
        for group, master in self._masters():
            if not is_muon(group):
                self._optimizer.state[master] = {
                    "step": torch.tensor(float(step)),
                    **{moment: torch.zeros_like(master) for moment in MOMENTS},
                }

    def bytes(self) -> tuple[int, int]:
        """Of what the optimizer sees as its parameters, and of their moments, in this process."""
        sizes = [(is_muon(group), master.numel() * master.element_size()) for group, master in self._masters()]
        return sum(size for _, size in sizes), len(MOMENTS) * sum(size for muon, size in sizes if not muon)

    def read(self, parameter: nn.Parameter, moment: str | None) -> Tensor:
        """Its weight or moment, in its shape, fp32; possibly a view."""
        return parameter.detach() if moment is None else self._optimizer.state[parameter][moment]

    def write(self, parameter: nn.Parameter, moment: str | None, value: Tensor) -> None:
        """Set its weight or moment."""
        self.read(parameter, moment).copy_(value)

    def share(self, parameter: nn.Parameter) -> Tensor:
        """This process's share of the weight, [ceil(numel / W)]; not to be changed."""
        return shares(parameter.detach(), dist.get_world_size())[dist.get_rank()]

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """Of the whole parameter."""
        return parameter.shape

    def _masters(self) -> list[tuple[dict[str, Any], Tensor]]:
        """What the optimizer itself sees as its parameters, each with its group."""
        return [(group, p) for group in self._optimizer.param_groups for p in group["params"]]


class FragmentedState(ReplicatedState):
    """ZeRO 1 and 2: every process has all weights, and its part of the optimizer's flat copies of them."""

    def begun(self) -> bool:
        deepspeed_compat.link_moments(self._engine)
        return super().begun()

    def begin(self, step: int) -> None:
        super().begin(step)
        deepspeed_compat.link_moments(self._engine)

    def read(self, parameter: nn.Parameter, moment: str | None) -> Tensor:
        return parameter.detach() if moment is None else deepspeed_compat.read_moment(parameter, moment)

    def write(self, parameter: nn.Parameter, moment: str | None, value: Tensor) -> None:
        if moment is None:
            deepspeed_compat.write_weight(parameter, value)
        else:
            deepspeed_compat.write_moment(parameter, moment, value)


class PartitionedState(ReplicatedState):
    """ZeRO 3: every process has its share of every parameter, and of everything that belongs to it."""

    def read(self, parameter: Any, moment: str | None) -> Tensor:
        return deepspeed_compat.read_partitioned(self._engine, parameter, moment)

    def write(self, parameter: Any, moment: str | None, value: Tensor) -> None:
        deepspeed_compat.write_partitioned(self._engine, parameter, moment, value)

    def share(self, parameter: Any) -> Tensor:
        return deepspeed_compat.partition(parameter)

    def shape(self, parameter: Any) -> torch.Size:
        return deepspeed_compat.whole_shape(parameter)

    def _masters(self) -> list[tuple[dict[str, Any], Tensor]]:
        groups = self._optimizer.param_groups
        return [(groups[number], master) for number, master in deepspeed_compat.masters(self._engine)]


STATES = (ReplicatedState, FragmentedState, FragmentedState, PartitionedState)
"""By ZeRO stage."""

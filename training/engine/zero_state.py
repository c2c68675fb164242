"""Reads and writes the weight and the moments of each parameter, unpartitioned, at every ZeRO stage.

There is one class for each way in which ZeRO partitions the state. Reading and writing are collective: all processes
must ask for the same tensors in the same order. ``moment`` is ``exp_avg`` or ``exp_avg_sq``, or None for the weight.
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
    """State at ZeRO 0, where every process has all weights and moments.

    Args:
        engine: DeepSpeed's engine.
        optimizer: the optimizer that the engine was initialized with.
    """

    def __init__(self, engine: Any, optimizer: torch.optim.Optimizer):
        self._engine, self._optimizer = engine, optimizer

    def begun(self) -> bool:
        """Whether the optimizer has moments, as after its first step."""
        return any(self._optimizer.state.get(master) for _, master in self._masters())

    def begin(self, step: int) -> None:
        """Create the optimizer's state with zero moments and a step counter of ``step``."""
        for group, master in self._masters():
            if not is_muon(group):
                self._optimizer.state[master] = {
                    "step": torch.tensor(float(step)),
                    **{moment: torch.zeros_like(master) for moment in MOMENTS},
                }

    def bytes(self) -> tuple[int, int]:
        """Bytes of the tensors that the optimizer updates, and of their moments, on this process."""
        sizes = [(is_muon(group), master.numel() * master.element_size()) for group, master in self._masters()]
        return sum(size for _, size in sizes), len(MOMENTS) * sum(size for muon, size in sizes if not muon)

    def read(self, parameter: nn.Parameter, moment: str | None) -> Tensor:
        """Weight or moment of a parameter, in the parameter's shape, fp32; may be a view of the state (collective)."""
        return parameter.detach() if moment is None else self._optimizer.state[parameter][moment]

    def write(self, parameter: nn.Parameter, moment: str | None, value: Tensor) -> None:
        """Set the weight or a moment of a parameter."""
        self.read(parameter, moment).copy_(value)

    def share(self, parameter: nn.Parameter) -> Tensor:
        """This process's part of a weight, [ceil(numel / W)]; must not be modified."""
        return shares(parameter.detach(), dist.get_world_size())[dist.get_rank()]

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """Shape of the unpartitioned parameter."""
        return parameter.shape

    def _masters(self) -> list[tuple[dict[str, Any], Tensor]]:
        """The tensors that the optimizer updates, each with its parameter group."""
        return [(group, p) for group in self._optimizer.param_groups for p in group["params"]]


class FragmentedState(ReplicatedState):
    """State at ZeRO 1 and 2: all weights, and a part of the flat fp32 copies that the optimizer updates."""

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
    """State at ZeRO 3: a part of every weight and of its moments on each process."""

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
"""The class for each ZeRO stage, at the index of the stage."""

"""BatchNorm running statistics that do not depend on how lanes are distributed over processes."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class LaneAveragedStatistics:
    """Running statistics of a module's BatchNorm layers, averaged over lanes once per step.

    PyTorch updates running statistics in every forward: a process with four lanes would update them four times per
    step, a process with one lane once. Here the forward of every lane starts from the statistics at the beginning of
    the step, and the step ends with their mean over all lanes: one momentum update per step, the same at any world
    size.

    Args:
        module: its BatchNorm layers are found by type.
        lanes: number of lanes of all processes together.
    """

    def __init__(self, module: nn.Module, lanes: int):
        norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self._buffers = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
        self._counters = [m.num_batches_tracked for m in norms if m.num_batches_tracked is not None]
        self._lanes = lanes

    def begin_step(self) -> None:
        """Save the statistics at the beginning of a step."""
        self._start = self._flat()
        self._counts = [counter.clone() for counter in self._counters]
        self._sum = torch.zeros_like(self._start, dtype=torch.float64)

    def begin_lane(self) -> None:
        """Restore the statistics of the beginning of the step."""
        self._assign(self._start)
        for counter, count in zip(self._counters, self._counts):
            counter.copy_(count)

    def end_lane(self) -> None:
        """Add the statistics after this lane's forward to the sum over lanes."""
        self._sum += self._flat()

    def end_step(self) -> None:
        """Set the statistics to their mean over the lanes of all processes (collective)."""
        if not self._buffers:
            return
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(self._sum)
        self._assign((self._sum / self._lanes).to(self._start.dtype))

    def discard_step(self) -> None:
        """End the step without an update: restore the statistics of its beginning."""
        self.begin_lane()

    def _flat(self) -> Tensor:
        return torch.cat([b.detach().reshape(-1) for b in self._buffers]) if self._buffers else torch.zeros(0)

    def _assign(self, flat: Tensor) -> None:
        offset = 0
        for buffer in self._buffers:
            buffer.copy_(flat[offset : offset + buffer.numel()].view_as(buffer))
            offset += buffer.numel()

"""BatchNorm statistics that do not depend on how lanes are spread over processes."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class LaneAveragedStatistics:
    """Running statistics of a module's BatchNorms, averaged over lanes once per step.

    PyTorch updates them once per forward, so that a process serving four lanes would move them four times as far as
    one serving a single lane. Here every lane starts from the statistics of the step's beginning, and the step ends
    with the mean over all lanes: one momentum update per step, the same at any world size.
    """

    def __init__(self, module: nn.Module, lanes: int):
        norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self._buffers = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
        self._counters = [m.num_batches_tracked for m in norms if m.num_batches_tracked is not None]
        self._lanes = lanes

    def begin_step(self) -> None:
        """Remember where the step begins."""
        self._start = self._flat()
        self._counts = [counter.clone() for counter in self._counters]
        self._sum = torch.zeros_like(self._start, dtype=torch.float64)

    def begin_lane(self) -> None:
        """Put every statistic back to the step's beginning."""
        self._assign(self._start)
        for counter, count in zip(self._counters, self._counts):
            counter.copy_(count)

    def end_lane(self) -> None:
        """Add what this lane's forward made of them."""
        self._sum += self._flat()

    def end_step(self) -> None:
        """Take the mean over the lanes of all processes (collective)."""
        if not self._buffers:
            return
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(self._sum)
        self._assign((self._sum / self._lanes).to(self._start.dtype))

    def discard_step(self) -> None:
        """Put every statistic back to the step's beginning, for good."""
        self.begin_lane()

    def _flat(self) -> Tensor:
        return torch.cat([b.detach().reshape(-1) for b in self._buffers]) if self._buffers else torch.zeros(0)

    def _assign(self, flat: Tensor) -> None:
        offset = 0
        for buffer in self._buffers:
            buffer.copy_(flat[offset : offset + buffer.numel()].view_as(buffer))
            offset += buffer.numel()

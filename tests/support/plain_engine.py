"""The engine of a look-ahead in plain PyTorch: ranks are threads of one process, and gradients are summed by name."""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import torch
from torch import Tensor, nn


class Ranks:
    """Gathers the lanes of several threads."""

    def __init__(self, world_size: int):
        self.world_size, self._barrier, self._parts = world_size, Barrier(world_size), [torch.zeros(0)] * world_size

    def gathered(self, rank: int, values: Tensor) -> Tensor:
        """[L / W, ...] of every rank as [L, ...] in lane order."""
        self._parts[rank] = values
        self._barrier.wait()
        every = torch.stack(self._parts, dim=1).flatten(0, 1)
        self._barrier.wait()
        return every


class Context:
    """Rank and world size of a thread."""

    def __init__(self, ranks: Ranks, rank: int):
        self._ranks, self.rank, self.world_size = ranks, rank, ranks.world_size

    def gather_lanes(self, values: Tensor) -> Tensor:
        """Gather the values of all lanes, as ``DistributedContext`` does."""
        return self._ranks.gathered(self.rank, values)


class PlainEngine:
    """Looks ahead, and sums the gradients of lanes in float64, as ``Engine`` does."""

    def __init__(self, module: nn.Module, context: Context, lanes: int):
        self.module, self.context, self.lanes = module, context, lanes
        self._parameters = dict(module.named_parameters())
        self.clear()

    def clear(self) -> None:
        """Begin a step."""
        self.sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in self._parameters.items()}

    def look_ahead(self, *inputs: Any) -> Any:
        """Run forward without gradients."""
        with torch.no_grad():
            return self.module(*inputs)

    def accumulate_once(self, leaves: Sequence[Tensor], *inputs: Any) -> tuple[Any, list[Tensor]]:
        """Run forward and backward once for all lanes; the output, and the gradients of ``leaves``."""
        output = self.module(*inputs)
        factor = self.lanes / self.context.world_size
        return output, [gradient / factor for gradient in self._add(output.loss * factor, leaves)]

    def accumulate(self, *inputs: Any) -> Any:
        """Run forward and backward on one lane."""
        output = self.module(*inputs)
        self._add(output.loss, ())
        return output

    def _add(self, loss: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
        wanted = [*self._parameters.values(), *leaves]
        found = list(torch.autograd.grad(loss, wanted, materialize_grads=True))
        for name, gradient in zip(self._parameters, found):
            self.sums[name] += gradient
        return found[len(self._parameters) :]


def on_ranks(
    module: nn.Module, world_size: int, lanes: int, train: Callable[[PlainEngine], Any]
) -> tuple[list[Any], nn.Module]:
    """Run ``train`` on a copy of the module as every rank; what each returns, and the copy of the first rank."""
    ranks = Ranks(world_size)
    engines = [PlainEngine(copy.deepcopy(module), Context(ranks, rank), lanes) for rank in range(world_size)]
    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(train, engines)), engines[0].module

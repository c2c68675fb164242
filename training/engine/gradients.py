"""The mean gradient over all lanes, equal to the last bit at every world size.

Gradients of lanes are summed in fp64, where a sum of fp32 numbers of similar magnitude is exact in any order. In fp32
the order of summation, and with it the rounding, would depend on the number of processes, and training amplifies the
difference: 1e-7 in one step became 1e-2 in the loss of MoleculeSDE within fifty steps. DeepSpeed receives the final
mean, so that its own reductions round nothing.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from molstream.training.distributed import deepspeed_compat
from molstream.training.distributed.partition import gathered, shares


class SummedGradients:
    """Gradients at ZeRO 0 to 2: every process sums the gradients of all parameters.

    Takes 8 bytes per parameter on every process, and one all-reduce of as much per step.

    Args:
        engine: DeepSpeed's engine.
        parameters: parameters of the engine's module.
    """

    def __init__(self, engine: Any, parameters: Sequence[nn.Parameter]):
        self._engine, self._parameters = engine, parameters
        self._sum = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64, device=parameters[0].device)
        self._parts = {p: part.view_as(p) for part, p in zip(self._split(self._sum), parameters)}

    def clear(self) -> None:
        """Set the sums to zero, at the beginning of a step."""
        self._sum.zero_()

    def bytes(self) -> int:
        """Bytes of the gradient sums on this process."""
        return self._sum.untyped_storage().nbytes()

    def add(self, loss: Tensor, leaves: Sequence[Tensor] = ()) -> list[Tensor]:
        """Compute the gradient of a loss and add it to the sums; returns that with respect to ``leaves``."""
        wanted = [*self._parameters, *leaves]
        gradients = torch.autograd.grad(loss, wanted, materialize_grads=True)
        for total, gradient in zip(self._parts.values(), gradients):
            total += gradient
        return list(gradients[len(self._parameters) :])

    def mean(self, lanes: int, loss_scale: float) -> float:
        """Turn the sums into the mean over all lanes, and return its L2 norm (collective).

        Args:
            lanes: number of lanes of all processes together.
            loss_scale: factor that the losses were multiplied by.
        """
        if dist.get_world_size() > 1:
            dist.all_reduce(self._sum)
        self._sum /= lanes * loss_scale
        return _rounded_norm(self._sum.square().sum())

    def scale(self, factor: float) -> None:
        """Multiply the mean gradient by a factor."""
        self._sum *= factor

    def read(self, parameter: nn.Parameter) -> Tensor:
        """Mean gradient of one parameter, fp32."""
        return self._parts[parameter].float()

    def write(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Replace the mean gradient of one parameter."""
        self._parts[parameter].copy_(value)

    def step(self) -> None:
        """Pass the mean to DeepSpeed, in fp32, and step its optimizer (collective)."""
        # The gradient of sum(p g) with respect to p is g: its backward passes g to DeepSpeed's hooks in every stage.
        gradient = [part.view_as(p) for part, p in zip(self._split(self._sum.float()), self._parameters)]
        self._engine.backward(torch.stack([(p * g).sum() for p, g in zip(self._parameters, gradient)]).sum())
        self._engine.step()

    def _split(self, flat: Tensor) -> Sequence[Tensor]:
        return flat.split([p.numel() for p in self._parameters])


class PartitionedGradients:
    """Gradients at ZeRO 3: every process sums its partition of every parameter's gradient.

    Takes 8 bytes per parameter over all processes together. DeepSpeed gathers the parameters of a module for its
    forward and backward. When a gradient is ready, it comes here instead of to DeepSpeed's own reduction, and buckets
    of gradients are reduce-scattered in fp64. The parameters in a bucket and the order of the buckets are fixed,
    because autograd may finish gradients in a different order on each process, such as a weight before or after the
    bias of the same layer.

    Args:
        engine: DeepSpeed's engine.
        bucket_size: number of elements that are reduced at a time.
    """

    def __init__(self, engine: Any, bucket_size: int):
        self._engine = engine
        parameters = [p for group in deepspeed_compat.sub_groups(engine) for p in group]
        sizes = [deepspeed_compat.partition(p).numel() for p in parameters]
        # On the device of the gradients; partitions of offloaded weights are on the CPU.
        self._sum = torch.zeros(sum(sizes), dtype=torch.float64, device=engine.device)
        self._parts: dict[Any, Tensor] = dict(zip(parameters, self._sum.split(sizes), strict=True))
        self._buckets = _buckets([p for p in engine.module.parameters() if p in self._parts], bucket_size)
        self._bucket_of = {p: number for number, bucket in enumerate(self._buckets) for p in bucket}
        self._begin_lane()
        deepspeed_compat.take_gradients(engine, self._take)
        deepspeed_compat.free_gradient_buffer(engine)

    def clear(self) -> None:
        """Set the sums to zero, at the beginning of a step."""
        self._sum.zero_()

    def bytes(self) -> int:
        """Bytes of the gradient sums on this process."""
        return self._sum.untyped_storage().nbytes()

    def add(self, loss: Tensor, leaves: Sequence[Tensor] = ()) -> list[Tensor]:
        """Compute the gradient of a loss and add it to the sums (collective); returns that with respect to ``leaves``.

        A leaf has no gradient before.
        """
        self._begin_lane()
        self._engine.backward(loss, scale_wrt_gas=False)
        while self._next < len(self._buckets):
            self._reduce()
        return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]

    def mean(self, lanes: int, loss_scale: float) -> float:
        """Turn the sums into the mean over all lanes, and return its L2 norm (collective).

        Args:
            lanes: number of lanes of all processes together.
            loss_scale: factor that the losses were multiplied by.
        """
        self._sum /= lanes * loss_scale
        squared = self._sum.square().sum()
        if dist.get_world_size() > 1:
            dist.all_reduce(squared)
        return _rounded_norm(squared)

    def scale(self, factor: float) -> None:
        """Multiply the mean gradient by a factor."""
        self._sum *= factor

    def read(self, parameter: Any) -> Tensor:
        """Mean gradient of one parameter, unpartitioned, fp32 (collective)."""
        return gathered(self._parts[parameter].float(), deepspeed_compat.whole_shape(parameter))

    def write(self, parameter: Any, value: Tensor) -> None:
        """Replace the mean gradient of one parameter by an unpartitioned tensor."""
        self._parts[parameter].copy_(shares(value, dist.get_world_size())[dist.get_rank()])

    def step(self) -> None:
        """Pass the mean to DeepSpeed, in fp32, and step its optimizer (collective)."""
        deepspeed_compat.set_gradients(self._engine, lambda parameter: self._parts[parameter].float())
        self._engine.step()

    def _begin_lane(self) -> None:
        self._ready: dict[Any, Tensor] = {}
        self._missing = [len(bucket) for bucket in self._buckets]
        self._next = 0

    def _take(self, parameter: Any) -> None:
        """Store the gradient of a parameter, and reduce the buckets that are complete."""
        gradient, parameter.grad = parameter.grad, None
        # A parameter that the loss does not depend on was not gathered for the backward, and has no gradient.
        if gradient.numel() == deepspeed_compat.whole_shape(parameter).numel():
            self._ready[parameter] = gradient
        self._missing[self._bucket_of[parameter]] -= 1
        while self._next < len(self._buckets) and self._missing[self._next] == 0:
            self._reduce()

    def _reduce(self) -> None:
        """Reduce-scatter the next bucket, and add this process's partitions to the sums."""
        bucket, world_size = self._buckets[self._next], dist.get_world_size()
        self._next += 1
        parts = [self._share(parameter, world_size) for parameter in bucket]
        own = torch.cat(parts, dim=1)
        # Free the gradients before their fp64 copies, which are twice as large, are allocated.
        del parts
        own = own.to(torch.float64)
        if world_size > 1:
            received = own.new_empty(own.shape[1])
            dist.reduce_scatter_tensor(received, own.flatten())
        else:
            received = own[0]
        sizes = [self._parts[parameter].numel() for parameter in bucket]
        for parameter, part in zip(bucket, received.split(sizes), strict=True):
            self._parts[parameter] += part

    def _share(self, parameter: Any, world_size: int) -> Tensor:
        """Remove and return a gradient, cut into [W, ceil(numel / W)], one row per process; zeros if there is none."""
        if (gradient := self._ready.pop(parameter, None)) is None:
            return torch.zeros((world_size, self._parts[parameter].numel()), device=self._sum.device)
        return shares(gradient, world_size)


def _buckets(parameters: Sequence[Any], size: int) -> list[list[Any]]:
    """The parameters from last to first, as backward finishes them, in lists of at least ``size`` elements each."""
    buckets: list[list[Any]] = []
    elements = size
    for parameter in reversed(parameters):
        if elements >= size:
            buckets.append([])
            elements = 0
        buckets[-1].append(parameter)
        elements += deepspeed_compat.whole_shape(parameter).numel()
    return buckets


def _rounded_norm(squared: Tensor) -> float:
    """Square root, rounded to fp32: the fp64 sum depends on the number of processes, and clipping must not."""
    return float(squared.sqrt().float())

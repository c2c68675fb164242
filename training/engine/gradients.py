"""The mean gradient of all lanes, the same to the last bit however the lanes are spread over processes.

Lanes are added in fp64, where a sum of fp32 numbers of similar size is exact whatever its order. In fp32 the order of
the sums would differ with the number of processes, and training amplifies that: 1e-7 at one step became 1e-2 in the
loss of MoleculeSDE within fifty. DeepSpeed gets the finished mean, so that its own reductions have nothing to round.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from molstream.training.distributed import deepspeed_compat
from molstream.training.distributed.partition import gathered, shares


class SummedGradients:
    """For ZeRO 0 to 2: every process sums whole gradients; 8 bytes per parameter, and as much to send at a step.

    Args:
        engine: DeepSpeed's engine.
        parameters: of its module.
    """

    def __init__(self, engine: Any, parameters: Sequence[nn.Parameter]):
        self._engine, self._parameters = engine, parameters
        self._sum = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64, device=parameters[0].device)
        self._parts = {p: part.view_as(p) for part, p in zip(self._split(self._sum), parameters)}

    def clear(self) -> None:
        """Begin a step."""
        self._sum.zero_()

    def bytes(self) -> int:
        """Of the sums."""
        return self._sum.untyped_storage().nbytes()

    def add(self, loss: Tensor) -> None:
        """The gradient of a lane's loss."""
        gradients = torch.autograd.grad(loss, self._parameters, materialize_grads=True)
        for total, gradient in zip(self._parts.values(), gradients):
            total += gradient

    def mean(self, lanes: int, loss_scale: float) -> float:
        """Divide what all processes have added (collective); the L2 norm of the mean."""
        if dist.get_world_size() > 1:
            dist.all_reduce(self._sum)
        self._sum /= lanes * loss_scale
        return _rounded_norm(self._sum.square().sum())

    def scale(self, factor: float) -> None:
        """Multiply the mean."""
        self._sum *= factor

    def read(self, parameter: nn.Parameter) -> Tensor:
        """The mean of one parameter, fp32."""
        return self._parts[parameter].float()

    def write(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Put something else in place of the mean of one parameter."""
        self._parts[parameter].copy_(value)

    def step(self) -> None:
        """Hand the mean to DeepSpeed, in fp32, and let it step."""
        # The gradient of sum(p g) is g: so DeepSpeed's own hooks get it, in every stage.
        gradient = [part.view_as(p) for part, p in zip(self._split(self._sum.float()), self._parameters)]
        self._engine.backward(torch.stack([(p * g).sum() for p, g in zip(self._parameters, gradient)]).sum())
        self._engine.step()

    def _split(self, flat: Tensor) -> Sequence[Tensor]:
        return flat.split([p.numel() for p in self._parameters])


class PartitionedGradients:
    """For ZeRO 3: every process sums its share of every parameter's gradient; 8 bytes per parameter over all processes.

    DeepSpeed gathers parameters for the forward and backward of each of their modules. Where it would reduce the
    gradient of a parameter that is ready, these are reduced, in buckets; at the step it finds the mean in place of its
    own. What is in a bucket is fixed, and so is the order of the buckets: autograd has gradients ready in an order that
    may differ from process to process, a weight before or after the bias of the same layer.

    Args:
        engine: DeepSpeed's engine.
        bucket_size: elements that are reduced at a time.
    """

    def __init__(self, engine: Any, bucket_size: int):
        self._engine = engine
        parameters = [p for group in deepspeed_compat.sub_groups(engine) for p in group]
        sizes = [deepspeed_compat.partition(p).numel() for p in parameters]
        # Where gradients are, which offloaded shares of weights are not.
        self._sum = torch.zeros(sum(sizes), dtype=torch.float64, device=engine.device)
        self._parts: dict[Any, Tensor] = dict(zip(parameters, self._sum.split(sizes), strict=True))
        self._buckets = _buckets([p for p in engine.module.parameters() if p in self._parts], bucket_size)
        self._bucket_of = {p: number for number, bucket in enumerate(self._buckets) for p in bucket}
        self._begin_lane()
        deepspeed_compat.take_gradients(engine, self._take)
        deepspeed_compat.free_gradient_buffer(engine)

    def clear(self) -> None:
        """Begin a step."""
        self._sum.zero_()

    def bytes(self) -> int:
        """Of the sums."""
        return self._sum.untyped_storage().nbytes()

    def add(self, loss: Tensor) -> None:
        """The gradient of a lane's loss (collective: all processes add their lanes in step)."""
        self._begin_lane()
        self._engine.backward(loss, scale_wrt_gas=False)
        while self._next < len(self._buckets):
            self._reduce()

    def mean(self, lanes: int, loss_scale: float) -> float:
        """Divide what all processes have added (collective); the L2 norm of the mean."""
        self._sum /= lanes * loss_scale
        squared = self._sum.square().sum()
        if dist.get_world_size() > 1:
            dist.all_reduce(squared)
        return _rounded_norm(squared)

    def scale(self, factor: float) -> None:
        """Multiply the mean."""
        self._sum *= factor

    def read(self, parameter: Any) -> Tensor:
        """The mean of one parameter, whole, fp32 (collective)."""
        return gathered(self._parts[parameter].float(), deepspeed_compat.whole_shape(parameter))

    def write(self, parameter: Any, value: Tensor) -> None:
        """Put something else, given whole, in place of the mean of one parameter."""
        self._parts[parameter].copy_(shares(value, dist.get_world_size())[dist.get_rank()])

    def step(self) -> None:
        """Hand the mean to DeepSpeed, in fp32, and let it step."""
        deepspeed_compat.set_gradients(self._engine, lambda parameter: self._parts[parameter].float())
        self._engine.step()

    def _begin_lane(self) -> None:
        self._ready: dict[Any, Tensor] = {}
        self._missing = [len(bucket) for bucket in self._buckets]
        self._next = 0

    def _take(self, parameter: Any) -> None:
        gradient, parameter.grad = parameter.grad, None
        # Where nothing that the loss sees depends on it, it was not gathered for the backward: no gradient.
        if gradient.numel() == deepspeed_compat.whole_shape(parameter).numel():
            self._ready[parameter] = gradient
        self._missing[self._bucket_of[parameter]] -= 1
        while self._next < len(self._buckets) and self._missing[self._next] == 0:
            self._reduce()

    def _reduce(self) -> None:
        """Send every process the sum of its shares of the next bucket."""
        bucket, world_size = self._buckets[self._next], dist.get_world_size()
        self._next += 1
        parts = [self._share(parameter, world_size) for parameter in bucket]
        own = torch.cat(parts, dim=1)
        # The gradients go before their copies in fp64 come, which are twice as large.
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
        """[W, share]: the gradient that is ready, which is not kept; zeros where there is none."""
        if (gradient := self._ready.pop(parameter, None)) is None:
            return torch.zeros((world_size, self._parts[parameter].numel()), device=self._sum.device)
        return shares(gradient, world_size)


def _buckets(parameters: Sequence[Any], size: int) -> list[list[Any]]:
    """The parameters, last ones first as their gradients come, in lists of at least ``size`` elements."""
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
    """Its root in fp32: the order of this last sum depends on the number of processes, and clipping must not."""
    return float(squared.sqrt().float())

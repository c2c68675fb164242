"""Whether a model fits into memory: found from its numbers, before any of it is allocated."""

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from molstream.config import flatten, tree_of
from molstream.errors import ConfigError
from molstream.io.memory import free_memory
from molstream.training.config import PretrainConfig
from molstream.training.data.labels import Labels
from molstream.training.distributed.context import DistributedContext
from molstream.training.distributed.watchdog import describe_process
from molstream.training.engine.memory import gpu_memory
from molstream.training.models.config import ModelConfig
from molstream.training.module import build_module
from molstream.training.objectives.config import ObjectiveConfig

M = TypeVar("M", bound=nn.Module)

NAMED = 4
"""Most numbers of a model that a message names."""


FACTORIES = frozenset(("empty", "zeros", "ones", "full", "rand", "randn"))
"""Functions of torch that make parameters and buffers."""


class _Weightless(TorchFunctionMode):
    """Makes parameters on the meta device, and leaves the rest, small tensors of indices, where it is.

    Most of their arithmetic has no kernel on the meta device but one in Python, whose import takes seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in FACTORIES and kwargs.get("device") is None:
            # Nothing is drawn.
            make = torch.empty if name in ("rand", "randn") else func
            return make(*args, **{**kwargs, "device": "meta"})
        if name == "normal_":
            # torch.nn.init passes the tensor by name.
            tensor = args[0] if args else kwargs["tensor"]
            return tensor if tensor.is_meta else func(*args, **kwargs)
        return func(*args, **kwargs)


def on_meta(build: Callable[[], M]) -> M:
    """What ``build`` makes, with shapes and dtypes but without memory for its parameters."""
    try:
        with _Weightless():
            return build()
    except RuntimeError:
        # A network of another package may compute with parameters and other tensors together, which then are on two
        # devices. An error of its own comes again from the second attempt.
        with torch.device("meta"):
            return build()


def num_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and buffers of a module."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def require_room(module: nn.Module, model: ModelConfig, what: str) -> None:
    """Check that the weights of a model fit into the memory of this machine.

    Args:
        module: the model on the meta device.
        model: its configuration, whose largest numbers are named.
        what: what they are needed for, for the message.

    Raises:
        ConfigError: they do not fit.
    """
    _require(num_bytes(module), free_memory(), "this machine", what, model)


def require_room_to_use(model: ModelConfig, objective: ObjectiveConfig, labels: Labels, what: str) -> None:
    """Check that the weights of encoders and objective fit; arguments and errors are those of :func:`require_room`."""
    require_room(on_meta(lambda: build_module(model, objective, 0, labels)), model, what)


def require_room_to_train(config: PretrainConfig, context: DistributedContext, labels: Labels) -> None:
    """Check that weights, sums of gradients and moments fit, on every process, before any builds (collective).

    Raises:
        ConfigError: they do not fit.
    """
    problem: ConfigError | None = None
    try:
        _require_to_train(config, context, labels)
    except ConfigError as error:
        problem = error
    [failed] = context.any_rank(problem is not None)
    if problem and context.rank > 0:
        # The first process prints errors, and its host may have room.
        print(f"{describe_process(context)}: {problem}", file=sys.stderr, flush=True)
    if failed:
        raise problem or ConfigError("the model does not fit into the memory of another host, which has printed why.")


def _require_to_train(config: PretrainConfig, context: DistributedContext, labels: Labels) -> None:
    module = on_meta(lambda: build_module(config.model, config.objective, config.seed, labels))
    sizes = [parameter.numel() for parameter in module.parameters()]
    deepspeed = config.deepspeed
    arguments = (deepspeed.zero_stage, context.world_size, deepspeed.precision, deepspeed.bucket_size)
    estimate = gpu_memory(sizes, *arguments, "all" if deepspeed.offload == "all" else "none")
    # Muon has one moment instead of two.
    kept = estimate.kept - (estimate.optimizer // 2 if config.optim.name == "muon" else 0)
    peers = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1")
    host = num_bytes(module) + estimate.cpu
    what = f"training {sum(sizes):,} parameters at ZeRO {deepspeed.zero_stage}"
    if context.device.type == "cuda":
        # Every process builds the model on its host, from where the engine takes it.
        _require(kept, torch.cuda.mem_get_info(context.device)[0], f"the GPU {context.device}", what, config.model)
    else:
        host = max(host, kept + estimate.cpu)
    _require(peers * host, free_memory(), "this machine", f"{what} in {peers} process(es)", config.model)


def _require(needed: int, free: int, place: str, what: str, model: ModelConfig) -> None:
    """Check that at least ``needed`` bytes are free at a place.

    Raises:
        ConfigError: they are not; ``what`` needs them.
    """
    if needed <= free:
        return
    numbers = [(f"model.{key}", value) for key, value in flatten(tree_of(model)) if type(value) is int]
    largest = sorted(numbers, key=lambda number: -number[1])[:NAMED]
    raise ConfigError(
        f"the model does not fit: {what} takes at least {needed / 2**30:,.2f} GiB of memory, and {place} has "
        f"{free / 2**30:,.2f} GiB free. Its largest numbers are "
        f"{', '.join(f'{key}={value}' for key, value in largest)}: choose a smaller model, or a machine with more "
        "memory."
    )

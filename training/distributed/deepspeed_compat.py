"""Every patch of DeepSpeed, and every access to its internals, written for one version of it.

No other module imports DeepSpeed, and nothing here imports it before a function is called. Each function says what
DeepSpeed does, why that is wrong for molstream, and what the function changes. An ``engine`` is what :func:`initialize`
returned; its class, and that of its optimizer, depend on the ZeRO stage.
"""

import collections
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from molstream.errors import ConfigError
from molstream.training.distributed.partition import gathered, shares

VERSION = "0.19.8"
"""The DeepSpeed release that these functions were written for; pyproject.toml pins the same."""


def require_version() -> None:
    """Check that the installed DeepSpeed is :data:`VERSION`, without importing it.

    Patch releases of DeepSpeed rename, change and delete internals. An attribute that is gone raises an error below,
    but one whose meaning has changed would not, and training would compute something else.

    Raises:
        ConfigError: another version is installed, or none.
    """
    try:
        found = importlib.metadata.version("deepspeed")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    # A local version, such as 0.19.8+cu128, is the same source.
    if found.partition("+")[0] != VERSION:
        raise ConfigError(
            f"unsupported DeepSpeed: found {found}, expected {VERSION}, whose internals molstream replaces. "
            f"Run: pip install 'deepspeed=={VERSION}'."
        )


def _require(owner: Any, *names: str) -> None:
    """Check that a module, class or object of DeepSpeed has the attributes that a function replaces or reads.

    Raises:
        ConfigError: an attribute is missing; the message names it.
    """
    for name in names:
        if not hasattr(owner, name):
            kind = owner if hasattr(owner, "__name__") else type(owner)
            place = kind.__name__ if not hasattr(kind, "__qualname__") else f"{kind.__module__}.{kind.__qualname__}"
            raise ConfigError(
                f"unsupported DeepSpeed: {place} has no attribute {name}, which it has in {VERSION}. "
                f"Run: pip install 'deepspeed=={VERSION}'."
            )


# --- the process group -----------------------------------------------------------------------------------------------


def init_distributed(timeout: timedelta) -> None:
    """Join the process group that the environment describes; gloo on CPUs, nccl on GPUs.

    By default DeepSpeed asks MPI for the ranks if the launcher's variables are missing; this turns that off.
    """
    import deepspeed

    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False, timeout=timeout)


def device(local_rank: int) -> torch.device:
    """The device of a process by DeepSpeed's choice of accelerator (``DS_ACCELERATOR``): cpu, or cuda:local_rank."""
    from deepspeed.accelerator import get_accelerator

    accelerator: Any = get_accelerator()
    return torch.device(accelerator.device_name(None if accelerator.device_name() == "cpu" else local_rank))


def skip_shared_memory_kernel() -> None:
    """Keep a CPU run from compiling a kernel.

    On CPUs ``init_distributed`` compiles ``deepspeed_shm_comm``, an all-reduce for inference that training never calls:
    half a minute to two at the first start. It does so if ``deepspeed.ops.__compatible_ops__``, which is computed at
    first access, is true for the kernel. This sets it to a table that is false for every kernel, on CPUs only.
    """
    import deepspeed.ops
    from deepspeed.accelerator import get_accelerator

    accelerator: Any = get_accelerator()
    if accelerator.device_name() != "cpu":
        return
    # Check the function that computes the attribute: access to the attribute itself would run compilers.
    _require(deepspeed.ops, "_probe_compatible_ops")
    deepspeed.ops.__dict__["__compatible_ops__"] = collections.defaultdict(bool)


def limit_new_groups(timeout: timedelta) -> None:
    """Give every process group that DeepSpeed creates the time-out of the run.

    ``init_distributed`` applies its ``timeout`` to the world group only. For the groups that ZeRO communicates in,
    DeepSpeed calls ``torch.distributed.new_group(ranks)``, whose default time-out is 30 minutes with gloo and 10 with
    nccl: a job would wait so long for a host that is cut off. This replaces ``TorchBackend.new_group``, through which
    DeepSpeed creates all groups.
    """
    from deepspeed.comm.torch import TorchBackend

    _require(TorchBackend, "new_group")

    def new_group(self: Any, ranks: Any) -> Any:
        return dist.new_group(ranks, timeout=timeout)

    TorchBackend.new_group = new_group


def ignore_deprecated_collectives() -> None:
    """Hide torch's FutureWarnings about the collectives that DeepSpeed calls at every step.

    ``deepspeed.comm`` calls ``all_gather_into_tensor`` and ``reduce_scatter_tensor``, which torch 2.13 deprecates. The
    user can do nothing about that. This adds a filter for FutureWarnings of ``torch.distributed``.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")


def end_process(code: int) -> NoReturn:
    """Flush the output and exit at once with ``code``; for a process of a job of several.

    DeepSpeed keeps references to its process groups after ``destroy_process_group``, even when its engine is deleted,
    so that the threads of gloo go on. Now and then one of them aborts an interpreter that is shutting down ("terminate
    called without an active exception"), and a run that succeeded counts as failed. This ends the process without the
    interpreter's shutdown.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


# --- the engine ------------------------------------------------------------------------------------------------------


def initialize(module: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> Any:
    """Create DeepSpeed's engine for a module, whose parameters it changes in place at ZeRO 1 to 3."""
    import deepspeed

    return deepspeed.initialize(model=module, optimizer=optimizer, config=settings)[0]


def corrected_defaults() -> dict[str, Any]:
    """Top-level settings of every stage whose defaults in DeepSpeed are wrong here.

    - ``gradient_clipping``: by default DeepSpeed clips the gradient to a norm of 1. The engine clips already, by the
      norm of the exact mean, and only if asked to. 0 turns DeepSpeed's own off.
    - ``zero_force_ds_cpu_optimizer``: by default DeepSpeed refuses to offload the state of an optimizer that is not its
      own. Its own must be compiled, and has no Muon. False lets it take any.
    """
    return {"gradient_clipping": 0.0, "zero_force_ds_cpu_optimizer": False}


def corrected_zero3_defaults(bucket_size: int) -> dict[str, Any]:
    """Settings of ``zero_optimization`` at ZeRO 3 whose defaults in DeepSpeed are wrong here.

    - ``contiguous_gradients``: by default DeepSpeed allocates ``reduce_bucket_size`` elements to reduce gradients in,
      which :func:`take_gradients` leaves without use. False allocates none.
    - ``stage3_max_live_parameters``, ``stage3_max_reuse_distance``: by default a weight stays gathered, up to 1e9
      elements in all, if its next use is less than 1e9 elements away. In a model of up to 500 million parameters that
      is every weight, from its forward to its backward, and ZeRO 3 saves nothing. ``bucket_size`` bounds both.

    Args:
        bucket_size: elements.
    """
    return {
        "contiguous_gradients": False,
        "stage3_max_live_parameters": bucket_size,
        "stage3_max_reuse_distance": bucket_size,
    }


def accept_optimizer(kind: type[torch.optim.Optimizer]) -> None:
    """Let ZeRO 1 to 3 take an optimizer of our own.

    ``initialize`` fails for optimizers whose exact class is not in ``ZERO_SUPPORTED_OPTIMIZERS``, subclasses of AdamW
    included. The setting ``zero_allow_untested_optimizer`` would let every optimizer pass, with a warning in every run.
    This adds one class to the list.

    Args:
        kind: an optimizer that updates each element by itself, since ZeRO gives it pieces of parameters.
    """
    import deepspeed.runtime.zero.utils as utils

    _require(utils, "ZERO_SUPPORTED_OPTIMIZERS")
    if kind not in utils.ZERO_SUPPORTED_OPTIMIZERS:
        utils.ZERO_SUPPORTED_OPTIMIZERS.append(kind)


def allow_any_output() -> None:
    """Keep ZeRO 3 from warning about modules that return objects other than tensors.

    DeepSpeed puts its hooks on the tensors that go into and come out of a module, in tuples, lists and dictionaries. Of
    any other object it warns, once, that it cannot. Only the root module returns one here, an object with the loss, and
    the root has no parameters of its own that a hook would have to gather. This sets the flag "warned already".
    """
    import deepspeed.runtime.zero.utils as utils

    _require(utils, "warned")
    utils.warned = True


# --- ZeRO 1 and 2 ----------------------------------------------------------------------------------------------------


def link_moments(engine: Any) -> None:
    """Point ZeRO 1 and 2 at the optimizer state as it is now.

    DeepSpeed finds the moments of a parameter by references to the tensors of the optimizer's state, which it takes
    once, in the first step. Before that there are none; and after a restore, which puts new tensors into the state,
    they are those of the old one, so that what is written by name is lost. This takes them anew.
    """
    _require(engine.optimizer, "_hp_optimizer_states_linked", "_lazy_init_hp_params_optimizer_state")
    engine.optimizer._hp_optimizer_states_linked = False
    engine.optimizer._lazy_init_hp_params_optimizer_state()


def read_moment(parameter: nn.Parameter, moment: str) -> Tensor:
    """A moment of one parameter under ZeRO 1 and 2, whole, fp32 (collective); after :func:`link_moments`."""
    from deepspeed.utils import safe_get_full_optimizer_state

    value = safe_get_full_optimizer_state(parameter, moment)
    assert value is not None
    return value


def write_moment(parameter: nn.Parameter, moment: str, value: Tensor) -> None:
    """Set a moment of one parameter under ZeRO 1 and 2, given whole; after :func:`link_moments`."""
    from deepspeed.utils import safe_set_full_optimizer_state

    safe_set_full_optimizer_state(parameter, value.to(parameter.device), moment)


def write_weight(parameter: nn.Parameter, value: Tensor) -> None:
    """Set the weight of one parameter under ZeRO 1 and 2, given whole.

    DeepSpeed's ``safe_set_full_fp32_param`` sets the optimizer's fp32 copy only: until the next step the forward uses
    the old weight. This sets the parameter as well.
    """
    from deepspeed.utils import safe_set_full_fp32_param

    value = value.to(parameter.device)
    parameter.data.copy_(value)
    safe_set_full_fp32_param(parameter, value)


# --- ZeRO 3: parameters ----------------------------------------------------------------------------------------------


def partition(parameter: Any) -> Tensor:
    """This process's part of a parameter's weight, [ceil(numel / W)], which DeepSpeed gathers for the forward.

    The parameter itself is empty meanwhile. What the last part has beyond the parameter's end is arbitrary.
    """
    _require(parameter, "ds_tensor")
    return parameter.ds_tensor


def whole_shape(parameter: Any) -> torch.Size:
    """Shape of a parameter when gathered."""
    _require(parameter, "ds_shape")
    return parameter.ds_shape


def read_partitioned(engine: Any, parameter: Any, moment: str | None) -> Tensor:
    """A parameter's weight (``moment`` None) or moment, whole, fp32, on the engine's device (collective)."""
    _require(engine.optimizer, "get_local_fp32_param")
    part = engine.optimizer.get_local_fp32_param(parameter, moment)
    # Offloaded state is on the CPU, from where nccl cannot send.
    return gathered(part.detach().to(engine.device, copy=True), whole_shape(parameter))


def write_partitioned(engine: Any, parameter: Any, moment: str | None, value: Tensor) -> None:
    """Set a parameter's weight (``moment`` None) or moment, given whole.

    DeepSpeed's ``set_local_hp_param`` sets the optimizer's fp32 partition only: until the next step the forward gathers
    the old weight. This sets the partition that is gathered as well, and the parameter itself where it is small enough
    to stay gathered between steps.
    """
    _require(engine.optimizer, "set_local_hp_param")
    part = shares(value, dist.get_world_size())[dist.get_rank()].to(partition(parameter).device)
    engine.optimizer.set_local_hp_param(part, parameter, moment)
    if moment is None:
        partition(parameter).data.copy_(part)
        if parameter.data.numel() == whole_shape(parameter).numel():
            parameter.data.copy_(value.view(whole_shape(parameter)))


def masters(engine: Any) -> list[tuple[int, Tensor]]:
    """The tensors that the optimizer updates: this process's flat fp32 parts of DeepSpeed's sub-groups.

    Returns:
        One pair per sub-group: the number of the optimizer's parameter group that it belongs to, and the tensor.
    """
    _require(engine.optimizer, "fp32_partitioned_groups_flat", "sub_group_to_group_id")
    flat = enumerate(engine.optimizer.fp32_partitioned_groups_flat)
    return [(engine.optimizer.sub_group_to_group_id[number], master) for number, master in flat]


def sub_groups(engine: Any) -> list[list[Any]]:
    """The parameters of each of DeepSpeed's sub-groups, in the order in which :func:`masters` concatenates them."""
    _require(engine.optimizer, "fp16_groups")
    return engine.optimizer.fp16_groups


# --- ZeRO 3: gradients -----------------------------------------------------------------------------------------------


def take_gradients(engine: Any, take: Callable[[Any], None]) -> None:
    """Have each parameter's gradient given to ``take`` instead of reduced by DeepSpeed.

    When backward has finished a parameter's gradient, DeepSpeed puts it into a bucket, and averages a full bucket over
    processes in fp32. That rounds differently at every number of processes. And autograd finishes gradients in an order
    that may differ between processes, a weight before or after the bias of the same layer, so that their buckets may
    hold different parameters. This replaces the method that fills the buckets.

    Args:
        take: called with a parameter whose ``grad`` is ready, and which it must set to None; ``grad`` is empty where
            the parameter was not gathered because the loss does not depend on it.
    """
    _require(engine.optimizer, "reduce_ready_partitions_and_remove_grads")
    engine.optimizer.reduce_ready_partitions_and_remove_grads = take


def free_gradient_buffer(engine: Any) -> None:
    """Free the buffer in which DeepSpeed keeps this process's part of the mean gradient.

    DeepSpeed allocates it once, 4 bytes per element of the partitions, and keeps it for the whole run. After
    :func:`take_gradients` nothing writes it, and :func:`set_gradients` puts other tensors in place of its views. With
    an offloaded optimizer it is in the CPU's memory, and stays.
    """
    _require(engine.optimizer, "offload_optimizer", "grad_partitions_flat_buffer")
    if not engine.optimizer.offload_optimizer:
        engine.optimizer.grad_partitions_flat_buffer.untyped_storage().resize_(0)


def set_gradients(engine: Any, gradient_of: Callable[[Any], Tensor]) -> None:
    """Set the gradients that DeepSpeed's next step uses.

    DeepSpeed has no public way to do so. ``step`` reads them from ``averaged_gradients``, a list per sub-group, or,
    with an offloaded optimizer, from ``grad`` of the flat fp32 partition. This writes these.

    Args:
        gradient_of: this process's part of a parameter's gradient, fp32, in the shape of :func:`partition`. If nothing
            else holds the tensor, its memory is free as soon as DeepSpeed has updated the sub-group.
    """
    _require(engine.optimizer, "offload_optimizer", "averaged_gradients")
    for number, ((_, master), group) in enumerate(zip(masters(engine), sub_groups(engine), strict=True)):
        gradients = [gradient_of(parameter) for parameter in group]
        if engine.optimizer.offload_optimizer:
            assert master.grad is not None
            master.grad.copy_(torch.cat(gradients))
        else:
            engine.optimizer.averaged_gradients[number] = gradients

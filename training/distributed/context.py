"""The processes of a run: joining them, leaving them, and what they tell each other."""

import collections
import os
import socket
import sys
import warnings
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from molstream.errors import ConfigError


@dataclass(frozen=True)
class DistributedContext:
    """Where this process stands: rank of world_size, on which device; and what all processes do together."""

    rank: int
    world_size: int
    device: torch.device

    def gather_lanes(self, values: Tensor) -> Tensor:
        """[L, ...] from each process's [L / W, ...], in lane order, on every process (collective)."""
        world_size = self.world_size
        if world_size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(world_size)]
        dist.all_gather(parts, values.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    def any_rank(self, *flags: bool) -> list[bool]:
        """For each flag whether any process says so (collective)."""
        if self.world_size == 1:
            return list(flags)
        values = torch.tensor(flags, dtype=torch.int32, device=self.device)
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return [bool(value) for value in values.tolist()]

    def broadcast(self, value: int) -> int:
        """What the first process says (collective)."""
        message = torch.tensor(value, device=self.device)
        if self.world_size > 1:
            dist.broadcast(message, 0)
        return int(message)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()


def start_processes(timeout_s: int) -> DistributedContext:
    """Join the process group of the launcher (deepspeed, torchrun), or form one of a single process.

    Raises:
        ConfigError: torchrun would restart processes with the addresses of those that are gone.
    """
    # MKL else rounds by where in memory a matrix begins, and that depends on how ZeRO lays out the parameters. It reads
    # this once, at its first product.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    alone = "RANK" not in os.environ
    if alone:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    _refuse_stale_store()
    if interface := _interface_towards(os.environ["MASTER_ADDR"]):
        # Left alone, gloo takes the address that this host's name stands for, which on Debian is a loopback one.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    # torch deprecates collectives that DeepSpeed calls at every step; neither is the user's concern.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    import deepspeed
    import deepspeed.ops
    from deepspeed.accelerator import get_accelerator

    accelerator: Any = get_accelerator()
    if accelerator.device_name() == "cpu":
        # Otherwise every CPU run compiles a shared-memory kernel for inference that training never calls.
        deepspeed.ops.__dict__["__compatible_ops__"] = collections.defaultdict(bool)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    timeout = timedelta(seconds=timeout_s)
    # DeepSpeed gives no time-out to the groups that it makes: a peer that is cut off would be waited for, half an hour.
    dist.new_group = partial(dist.new_group, timeout=timeout)
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False, timeout=timeout)
    device = torch.device(accelerator.device_name(None if accelerator.device_name() == "cpu" else local_rank))
    return DistributedContext(dist.get_rank(), dist.get_world_size(), device)


def stop_processes() -> None:
    """Leave the process group, all together: whoever leaves first takes away what the others may still need."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def end_process(code: int) -> NoReturn:
    """End a process that has been one of several, at once, after what it printed is out.

    Threads of gloo outlive the process group, as DeepSpeed still refers to it, and now and then one of them aborts an
    interpreter that takes its time to end ("terminate called without an active exception").
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _refuse_stale_store() -> None:
    """Fail under a torchrun that keeps one store over restarts: a rank then meets the addresses of dead peers.

    Raises:
        ConfigError: the variable that makes torchrun use a fresh store has to be set for torchrun itself.
    """
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and restarts > 0:
        raise ConfigError(
            f"torchrun --max-restarts {restarts} shares its store with the processes, and restarts fail on what dead "
            "ones left in it. Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, with --standalone or "
            "--rdzv-backend c10d; or give --max-restarts 0."
        )


def _interface_towards(address: str) -> str | None:
    """The network interface by which this host reaches another, or itself; None where that cannot be told."""
    import psutil

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return None
        own = probe.getsockname()[0]
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, addresses in interfaces if any(a.address == own for a in addresses)), None)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]

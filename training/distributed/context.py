"""The processes of a run: joining them, leaving them, and what they tell each other."""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from molstream.errors import ConfigError
from molstream.training.distributed import deepspeed_compat


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
        ConfigError: torchrun would restart processes with the addresses of those that are gone, or DeepSpeed is not of
            the version that molstream needs.
    """
    deepspeed_compat.require_version()
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
    timeout = timedelta(seconds=timeout_s)
    deepspeed_compat.ignore_deprecated_collectives()
    deepspeed_compat.skip_shared_memory_kernel()
    deepspeed_compat.limit_new_groups(timeout)
    deepspeed_compat.init_distributed(timeout)
    device = deepspeed_compat.device(int(os.environ.get("LOCAL_RANK", "0")))
    return DistributedContext(dist.get_rank(), dist.get_world_size(), device)


def stop_processes() -> None:
    """Leave the process group, all together: whoever leaves first takes away what the others may still need."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


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

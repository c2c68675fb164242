"""The processes of a run: joining them, leaving them, and what they tell each other."""

import collections
import os
import socket
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Place:
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

    def anywhere(self, *flags: bool) -> list[bool]:
        """For each flag whether any process says so (collective)."""
        if self.world_size == 1:
            return list(flags)
        values = torch.tensor(flags, dtype=torch.int32, device=self.device)
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return [bool(value) for value in values.tolist()]

    def from_first(self, value: int) -> int:
        """What the first process says (collective)."""
        message = torch.tensor(value, device=self.device)
        if self.world_size > 1:
            dist.broadcast(message, 0)
        return int(message)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()


def start_processes(timeout_s: int) -> Place:
    """Join the process group of the launcher (deepspeed, torchrun), or form one of a single process."""
    # MKL else rounds by where in memory a matrix begins, and that depends on how ZeRO lays out the parameters. It reads
    # this once, at its first product.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    alone = "RANK" not in os.environ
    if alone:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    if os.environ.get("MASTER_ADDR") in ("127.0.0.1", "localhost"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
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
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False, timeout=timedelta(seconds=timeout_s))
    device = torch.device(accelerator.device_name(None if accelerator.device_name() == "cpu" else local_rank))
    return Place(dist.get_rank(), dist.get_world_size(), device)


def stop_processes() -> None:
    """Leave the process group, all together: whoever leaves first takes away what the others may still need."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]

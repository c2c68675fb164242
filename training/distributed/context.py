"""The process group of a run: joining and leaving it, and its collectives."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from molstream.errors import ConfigError
from molstream.training.distributed import deepspeed_compat

ATTEMPTS = 5
"""Ports that a single process tries."""


@dataclass(frozen=True)
class DistributedContext:
    """Rank, world size and device of this process, and the collectives that a run uses."""

    rank: int
    world_size: int
    device: torch.device

    def gather_lanes(self, values: Tensor) -> Tensor:
        """Gather the values of all lanes on every process (collective).

        Args:
            values: [L / W, ...], of the lanes of this process.

        Returns:
            [L, ...] in lane order.
        """
        world_size = self.world_size
        if world_size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(world_size)]
        dist.all_gather(parts, values.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    def any_rank(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set on any process (collective)."""
        if self.world_size == 1:
            return list(flags)
        values = torch.tensor(flags, dtype=torch.int32, device=self.device)
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return [bool(value) for value in values.tolist()]

    def broadcast(self, value: int) -> int:
        """The value that the first process passes (collective)."""
        message = torch.tensor(value, device=self.device)
        if self.world_size > 1:
            dist.broadcast(message, 0)
        return int(message)

    def barrier(self) -> None:
        """Wait until all processes have called this (collective)."""
        if self.world_size > 1:
            dist.barrier()


def start_processes(timeout_s: int) -> DistributedContext:
    """Join the process group of the launcher (deepspeed, torchrun), or create one of a single process.

    A process that is in a group already stays in it, with the time-out that this has.

    Args:
        timeout_s: seconds after which a collective fails if a peer does not take part.

    Raises:
        ConfigError: DeepSpeed is not of the version that molstream needs, or torchrun is set up in a way in which its
            restarts fail.
    """
    deepspeed_compat.require_version()
    if dist.is_initialized():
        # A program that trains twice: DeepSpeed keeps references to its groups, so that they are made once.
        return _context()
    # By default MKL's rounding depends on the alignment of a matrix in memory, and that on how ZeRO lays out the
    # parameters. MKL reads this variable once, at its first product.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    alone = "RANK" not in os.environ
    if not alone:
        _join(timeout_s, attempts=1)
        return _context()
    os.environ |= {"LOCAL_RANK": "0", "LOCAL_SIZE": "1"}
    with _environment(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port())):
        _join(timeout_s, ATTEMPTS)
    return _context()


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables for a block. Child processes that are started after it would take them for a
    launcher's, and train at a port that this process has."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _join(timeout_s: int, attempts: int) -> None:
    """Join the process group that the environment describes; between ``attempts`` another port is taken."""
    _refuse_stale_store()
    if interface := _interface_towards(os.environ["MASTER_ADDR"]):
        # By default gloo uses the address that this host's name resolves to, which on Debian is a loopback address.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    timeout = timedelta(seconds=timeout_s)
    deepspeed_compat.ignore_deprecated_collectives()
    deepspeed_compat.skip_shared_memory_kernel()
    deepspeed_compat.limit_new_groups(timeout)
    for attempt in range(attempts):
        try:
            deepspeed_compat.init_distributed(timeout)
            break
        except dist.DistNetworkError:
            # Another process has taken the port since it was found to be free.
            if attempt == attempts - 1:
                raise
            os.environ["MASTER_PORT"] = str(_free_port())


def _context() -> DistributedContext:
    device = deepspeed_compat.device(int(os.environ.get("LOCAL_RANK", "0")))
    return DistributedContext(dist.get_rank(), dist.get_world_size(), device)


def stop_processes() -> None:
    """Wait for all processes, then leave the process group (collective).

    Without the barrier the first process to leave would close connections that others still use.
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _refuse_stale_store() -> None:
    """Refuse a torchrun that keeps its store over restarts: ranks would connect to the addresses of dead peers.

    Raises:
        ConfigError: torchrun shares its store with the processes and may restart them.
    """
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and restarts > 0:
        raise ConfigError(
            f"torchrun --max-restarts {restarts} keeps its store over restarts, and restarted processes would connect "
            "to the addresses of dead ones. Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, with --standalone "
            "or --rdzv-backend c10d; or set --max-restarts 0."
        )


def _interface_towards(address: str) -> str | None:
    """Name of the network interface through which this host reaches an address; None if it cannot be determined."""
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
    """A TCP port of the loopback interface on which nothing listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]

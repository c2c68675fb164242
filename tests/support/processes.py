"""Runs a program as the ranks of a job: real processes with gloo, without the start-up time of a launcher."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

ENVIRONMENT = {
    **{
        k: v
        for k, v in os.environ.items()
        if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    },
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(REPOSITORY),
}
"""Environment of CPU ranks; one thread each, because the number of threads changes the order of float sums."""


def free_port() -> int:
    """Find a port of the loopback that is not in use."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start_ranks(world_size: int, arguments: Sequence[str]) -> list[subprocess.Popen[str]]:
    """Start ``python *arguments`` as every rank of a job of ``world_size`` processes."""
    job = {
        "WORLD_SIZE": str(world_size),
        "LOCAL_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=REPOSITORY,
            env={**ENVIRONMENT, **job, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]


def run_ranks(world_size: int, arguments: Sequence[str], timeout: float = 300) -> str:
    """Run all ranks to their end; returns the stdout of rank 0. Fails with the output of a failed rank."""
    ranks = start_ranks(world_size, arguments)
    try:
        outputs = [rank.communicate(timeout=timeout)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, output in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, output
    return outputs[0]

"""Tests of DeepSpeed's patches in processes of their own: every rank of a job runs a test that is marked ``in_ranks``.

Started by ``python -m`` of this module with the test's module and name.
"""

import functools
import importlib
import itertools
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from molstream.training.distributed import deepspeed_compat
from tests.support.processes import run_ranks

TIMEOUT = timedelta(seconds=33)
APART = {"stage3_param_persistence_threshold": 0, "stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0}
"""Settings of ZeRO 3 with which no parameter is so small that it stays gathered."""
OFFLOADED = {"offload_optimizer": {"device": "cpu"}}


def in_ranks(world_size: int) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """A test that ``world_size`` processes run, each of which must come to its end."""

    def decorate(check: Callable[[], None]) -> Callable[[], None]:
        @functools.wraps(check)
        def test() -> None:
            output = run_ranks(world_size, ["-m", __name__, check.__module__, check.__name__])
            assert output.splitlines()[-1] == "passed"

        return test

    return decorate


def join() -> None:
    """Join the process group, with no patch but the one that keeps it from compiling."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    deepspeed_compat.skip_shared_memory_kernel()
    deepspeed_compat.init_distributed(TIMEOUT)


def initialize(
    module: nn.Module, stage: int, optimizer: torch.optim.Optimizer | None = None, zero: Any = None, **settings: Any
) -> Any:
    """DeepSpeed's engine; ``zero`` and ``settings`` are added to the least that it needs."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1) if optimizer is None else optimizer
    batch = {"train_batch_size": dist.get_world_size(), "train_micro_batch_size_per_gpu": 1}
    return deepspeed_compat.initialize(
        module, optimizer, {**batch, "zero_optimization": {"stage": stage, **(zero or {})}, **settings}
    )


def linear(*sizes: int) -> nn.Sequential:
    """Layers without bias; the same weights in every process."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)))


if __name__ == "__main__":
    getattr(importlib.import_module(sys.argv[1]), sys.argv[2]).__wrapped__()
    print("passed")
    deepspeed_compat.end_process(0)

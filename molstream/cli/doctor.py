"""``molstream doctor``: what is installed, what this machine has, and what a model would cost on GPUs.

The first part needs no package but rich, so that it can tell what is missing.
"""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from molstream.cli.command import guarded, run_command
from molstream.io.memory import free_memory, total_memory

if TYPE_CHECKING:
    from molstream.training.data.batch import MoleculeBatch
    from molstream.training.evaluation.cost_model import Flops
from molstream.training.evaluation.config import CostConfig

EXAMPLES = ("molstream doctor", "molstream doctor model=base gpus=8", "molstream doctor model=xl dataset=datasets/mine")
PACKAGES = ("torch", "deepspeed", "ray", "rdkit", "torch-geometric", "pyarrow", "hydra-core")
SHARED_MEMORY = Path("/dev/shm")
ENOUGH_SHARED_MEMORY = 2**30
"""Bytes; containers often have 64 MiB, with which Ray and multi-process collectives fail."""


def machine() -> Table:
    """Versions, devices and storage."""
    table = Table(title="this machine", show_header=False)
    for name, found in (*_versions(), *_devices(), *_storage()):
        table.add_row(name, found)
    return table


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, "not installed"


def _devices() -> Iterator[tuple[str, str]]:
    yield "CPU cores", f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}"
    yield "memory", f"{_gib(free_memory())} free of {_gib(total_memory())}"
    try:
        import torch
    except ImportError as error:
        yield "CUDA devices", f"not known: {error}"
        return
    if not torch.cuda.is_available():
        yield "CUDA devices", "none"
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        yield f"CUDA device {number}", f"{properties.name}, {_gib(free)} free of {_gib(total)}"


def _storage() -> Iterator[tuple[str, str]]:
    here = shutil.disk_usage(Path.cwd())
    yield "disk of the working folder", f"{_gib(here.free)} free of {_gib(here.total)}"
    if not SHARED_MEMORY.is_dir():
        yield "shared memory", f"none: there is no {SHARED_MEMORY}"
        return
    shared = shutil.disk_usage(SHARED_MEMORY)
    advice = "" if shared.total >= ENOUGH_SHARED_MEMORY else "; too little, start the container with --shm-size=8g"
    yield "shared memory", f"{_gib(shared.free)} free of {_gib(shared.total)}{advice}"


def costs(config: CostConfig) -> "list[Table | str]":
    """Parameters, memory of a GPU and FLOPs of a model, with what they leave out.

    Raises:
        ConfigError: the model and the objective do not fit each other.
        DataError: ``dataset`` is none.
    """
    from molstream.training.evaluation.cost_model import (
        count_flops,
        dataset_batch,
        dataset_labels,
        parameters_by_part,
        typical_batch,
    )
    from molstream.training.memory import on_meta
    from molstream.training.module import build_module

    labels = None if config.dataset is None else dataset_labels(config.dataset)
    module = on_meta(lambda: build_module(config.model, config.objective, 0, labels))
    parts = parameters_by_part(module)
    batch = typical_batch() if config.dataset is None else dataset_batch(config.dataset)
    flops = count_flops(config.model, config.objective, batch, labels)
    return [
        _parameters(parts),
        _memory([parameter.numel() for parameter in module.parameters()], config),
        "Excludes activations. Lane buffers coexist with them; step buffers are allocated after they are freed.",
        _flops(flops, batch, config),
        "Counts matrix products, with the padding of attention, without what checkpointing computes again.",
    ]


def _parameters(parts: dict[str, int]) -> Table:
    table = Table(title="parameters", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, count in {**parts, "all": sum(parts.values())}.items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    return table


def _memory(sizes: list[int], config: "CostConfig") -> Table:
    from molstream.training.engine.memory import gpu_memory
    from molstream.training.evaluation.cost_model import LAYOUTS

    table = Table(title=f"memory of one of {config.gpus} GPUs in GiB, {config.precision}, without activations")
    for column in ("ZeRO", "weights", "sums", "optimizer", "lane", "step", "peak", "on the CPU"):
        table.add_column(column, justify="right")
    for stage, offload in LAYOUTS:
        found = gpu_memory(sizes, stage, config.gpus, config.precision, offload=offload)
        columns = (found.weights, found.sums, found.optimizer, found.lane, found.step, found.peak, found.cpu)
        name = f"{stage}" if offload == "none" else f"{stage}, offload"
        table.add_row(name, *(f"{value / 2**30:.2f}" for value in columns))
    return table


def _flops(flops: "Flops", batch: "MoleculeBatch", config: "CostConfig") -> Table:
    molecules = f"{batch.num_graphs} molecules of {config.dataset}" if config.dataset else f"{batch.num_graphs} drugs"
    table = Table(title="GFLOP per molecule")
    table.add_column("counted on")
    for column in ("forward", "backward", "both"):
        table.add_column(column, justify="right")
    numbers = (flops.forward, flops.backward, flops.forward + flops.backward)
    atoms = batch.num_nodes / batch.num_graphs
    table.add_row(f"{molecules}, {atoms:.1f} atoms each", *(f"{value / 1e9:.4g}" for value in numbers))
    return table


def _gib(value: float) -> str:
    return f"{value / 2**30:.1f} GiB"


def doctor(config: CostConfig) -> None:
    """Print the machine, then what the model costs."""
    from rich.console import Console

    console, parts = Console(), costs(config)
    for part in (machine(), *parts):
        console.print(part)


def main(words: Sequence[str]) -> int:
    """The command; without arguments the machine alone."""
    if words:
        return run_command("doctor", CostConfig, doctor, words, examples=EXAMPLES)

    def print_machine() -> None:
        from rich.console import Console

        Console().print(machine())

    return guarded("doctor", print_machine)

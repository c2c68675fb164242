"""``molstream doctor``: what is installed, what this machine has, and what a model would cost on GPUs.

The first part needs no package but rich, so that it can tell what is missing.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from molstream.errors import ConfigError, MolstreamError

if TYPE_CHECKING:
    from molstream.training.data.batch import MoleculeBatch
    from molstream.training.evaluation.cost_model import CostConfig, Flops

PACKAGES = ("torch", "deepspeed", "ray", "rdkit", "torch-geometric", "pyarrow", "webdataset", "hydra-core")
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
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield "CPU cores", f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}"
    yield "memory", _gib(memory)
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


def costs(argv: Sequence[str]) -> list[Table | str]:
    """Parameters, memory of a GPU and FLOPs of the model that the arguments describe, with what they leave out.

    Raises:
        ConfigError: the arguments describe none.
        DataError: ``dataset`` is none.
    """
    from molstream.config import compose
    from molstream.training.evaluation.cost_model import (
        CostConfig,
        count_flops,
        dataset_batch,
        on_meta,
        parameters_by_part,
        typical_batch,
    )

    config = compose("doctor", CostConfig, argv)
    module = on_meta(config.model, config.objective)
    parts = parameters_by_part(module)
    batch = typical_batch() if config.dataset is None else dataset_batch(config.dataset)
    flops = count_flops(config.model, config.objective, batch)
    return [
        _parameters(parts),
        _memory([parameter.numel() for parameter in module.parameters()], config),
        "Activations come on top, beside what a lane needs; what a step needs comes when they are gone.",
        _flops(flops, batch, config),
        "Products of matrices, with the padding of attention, without what checkpointing computes again.",
    ]


def _parameters(parts: dict[str, int]) -> Table:
    table = Table(title="parameters", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, count in {**parts, "all": sum(parts.values())}.items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    return table


def _memory(sizes: list[int], config: "CostConfig") -> Table:
    from molstream.training.evaluation.cost_model import LAYOUTS, gpu_memory

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


def main(argv: Sequence[str]) -> int:
    """The command: without arguments the machine, with any a model as well."""
    console = Console()
    console.print(machine())
    if not argv:
        return 0
    try:
        parts = costs(argv)
    except MolstreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    for part in parts:
        console.print(part)
    return 0

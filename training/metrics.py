"""Where a run's numbers go: metrics.jsonl always, TensorBoard events beside it, one line for people."""

import json
import math
import os
import resource
import sys
import time
from pathlib import Path
from typing import TextIO

import torch


class MetricsWriter:
    """Append-only records of a run, one per step; continuing from a step drops what was recorded after it.

    Args:
        folder: the run directory.
        step: steps already done; later records come from a process that died after its last checkpoint.
    """

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / "metrics.jsonl"
        records = [r for r in read_metrics(folder) if r["step"] <= step]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
        os.replace(temporary, self._path)
        self._file: TextIO = self._path.open("a")
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, record: dict[str, float]) -> None:
        """Append a step's record; ``record["step"]`` counts steps done."""
        self._file.write(json.dumps(record) + "\n")
        for name, value in record.items():
            if name != "step":
                self._events.add_scalar(name, value, int(record["step"]))

    def flush(self) -> None:
        """Hand everything to the file system."""
        self._file.flush()
        self._events.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        self._events.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The records of a run, in order; a last line cut short by a crash is left out."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory of this process in GiB: allocated on the device, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def log_line(record: dict[str, float], steps: int, seconds_per_step: float, memory_gib: float) -> str:
    """One fixed-order, parsable line: progress, losses by name, gradient norm, lr, speed, waits, memory, ETA."""
    step = int(record["step"])
    losses = "  ".join(f"{k.removeprefix('train/')} {v:.4f}" for k, v in record.items() if k.startswith("train/"))
    eta = time.strftime("%H:%M:%S", time.gmtime((steps - step) * seconds_per_step)) if seconds_per_step else "-"
    return (
        f"step {step}/{steps}  {100 * step / steps:.1f} %  {losses}  grad {record['optim/grad_norm']:.3g}  "
        f"lr {record['optim/lr']:.2e}  {record['throughput/molecules_per_s']:.0f} mol/s  "
        f"wait {100 * record['throughput/data_wait']:.1f} %  pad {100 * record['data/padding']:.1f} %  "
        f"mem {memory_gib:.2f} GiB  eta {eta}"
    )


def is_finite(record: dict[str, float]) -> bool:
    """Whether the loss of a record is a number."""
    return math.isfinite(record["train/loss"])

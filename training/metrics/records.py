"""A run's numbers: metrics.jsonl, one record per step, which is the truth that all else is fed from; one log line."""

import json
import math
import os
import resource
import sys
from pathlib import Path
from typing import BinaryIO, TextIO

import torch

from molstream.io.files import naming
from molstream.pipeline.reports.progress import clock_time

Record = dict[str, float]
"""``step`` (steps done), ``time`` (seconds since 1970, when the step ended) and the values of that step by name."""

FILE = "metrics.jsonl"
NOT_METRICS = ("step", "time", "data/digest")
"""Of a record: what is no curve."""


class MetricsWriter:
    """Appends the records of a run; continuing from a step drops what was recorded after it.

    Args:
        folder: the run directory.
        step: steps already done; later records come from a process that died after its last checkpoint.
    """

    def __init__(self, folder: Path, step: int):
        path = folder / FILE
        path.touch()
        with path.open("rb") as file:
            end = _end_of_step(file, step)
        os.truncate(path, end)
        self._file: TextIO = path.open("a")
        self.step = step
        """Step of the newest record."""

    def write(self, record: Record) -> None:
        """Append a step's record."""
        with naming(self._file.name):
            self._file.write(json.dumps(record) + "\n")
        self.step = int(record["step"])

    def flush(self) -> None:
        """Hand everything to the file system, where readers see it."""
        with naming(self._file.name):
            self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        with naming(self._file.name):
            self._file.close()


class MetricsReader:
    """The records after a step, also those that are still being written; memory does not grow with the run."""

    def __init__(self, folder: Path, step: int):
        self._path = folder / FILE
        with self._path.open("rb") as file:
            self._offset = _end_of_step(file, step)

    def next(self, limit: int) -> list[Record]:
        """Up to ``limit`` further records; empty when there are no more yet."""
        records: list[Record] = []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            # A line without its end is still being written.
            while len(records) < limit and (line := file.readline()).endswith(b"\n"):
                records.append(json.loads(line))
                self._offset += len(line)
        return records


def read_metrics(folder: Path) -> list[Record]:
    """The records of a run, in order; a last line cut short by a crash is left out."""
    path = folder / FILE
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def last_step(folder: Path) -> int:
    """Step of the last whole record; 0 where there is none."""
    path = folder / FILE
    if not path.exists():
        return 0
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        tail = 4096
        while True:
            file.seek(max(0, length - tail))
            lines = file.read().split(b"\n")
            # The first may have been cut by where we began to read, the last has no end yet.
            whole = lines[:-1] if tail >= length else lines[1:-1]
            if whole or tail >= length:
                return int(json.loads(whole[-1])["step"]) if whole else 0
            tail *= 2


def _end_of_step(file: BinaryIO, step: int) -> int:
    """The byte after the last whole record up to ``step``, found by bisection: steps never descend."""
    # Lines that begin before `low`, which is the beginning of one, are wanted; those from `high` on are not.
    low, high = 0, file.seek(0, os.SEEK_END)
    while low < high:
        middle = (low + high) // 2
        file.seek(max(low, middle - 1))
        if middle > low:
            file.readline()
        begin = file.tell()
        line = file.readline()
        if begin < high and line.endswith(b"\n") and json.loads(line)["step"] <= step:
            low = begin + len(line)
        else:
            high = middle
    return low


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory of this process in GiB: allocated on the device, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def losses_text(record: Record) -> str:
    """The losses by name."""
    return "  ".join(f"{k.removeprefix('train/')} {v:.4f}" for k, v in record.items() if k.startswith("train/"))


def rates_text(record: Record, memory_gib: float) -> str:
    """Gradient norm, learning rate, speed, shares of waiting and padding, memory."""
    return (
        f"grad {record['optim/grad_norm']:.3g}  lr {record['optim/lr']:.2e}  "
        f"{record['throughput/molecules_per_s']:.0f} mol/s  wait {100 * record['throughput/data_wait']:.1f} %  "
        f"pad {100 * record['data/padding']:.1f} %  mem {memory_gib:.2f} GiB"
    )


def log_line(record: Record, steps: int, seconds_per_step: float, memory_gib: float) -> str:
    """One fixed-order, parsable line: progress, losses by name, gradient norm, lr, speed, waits, memory, ETA."""
    step = int(record["step"])
    return (
        f"step {step}/{steps}  {100 * step / steps:.1f} %  {losses_text(record)}  {rates_text(record, memory_gib)}  "
        f"eta {eta_text(steps - step, seconds_per_step)}"
    )


def eta_text(steps_left: int, seconds_per_step: float) -> str:
    """``HH:MM:SS`` until the end."""
    return clock_time(steps_left * seconds_per_step) if seconds_per_step else "-"


def is_finite(record: Record) -> bool:
    """Whether the loss of a record is a number."""
    return math.isfinite(record["train/loss"])

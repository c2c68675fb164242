"""Reads and writes metrics.jsonl, which has one record per step; formats log lines.

Loggers, reports and the console take their numbers from it.
"""

import json
import math
import os
import resource
import sys
from pathlib import Path
from typing import Annotated, BinaryIO, TextIO

import torch
from pydantic import Field

from molstream.io.files import naming
from molstream.io.reading import parse_json
from molstream.pipeline.reports.progress import clock_time

Record = dict[str, float]
"""``step`` (steps done), ``time`` (seconds since 1970, when the step ended) and the values of that step by name."""

FILE = "metrics.jsonl"
RECORD = {"step": Annotated[float, Field(ge=0, lt=2**53)]}
"""What every record has."""
NOT_METRICS = ("step", "time", "data/digest")
"""Keys of a record that are not metrics."""


class MetricsWriter:
    """Appends records to metrics.jsonl.

    Args:
        folder: the run directory.
        step: number of steps done; later records, of a launch that died after its last checkpoint, are removed.
    """

    def __init__(self, folder: Path, step: int):
        path = folder / FILE
        path.touch()
        with path.open("rb") as file:
            end = _end_of_step(file, path, step)
        os.truncate(path, end)
        self._file: TextIO = path.open("a", encoding="utf-8")
        self.step = step
        """Step of the newest record."""

    def write(self, record: Record) -> None:
        """Append the record of one step."""
        with naming(self._file.name):
            self._file.write(json.dumps(record) + "\n")
        self.step = int(record["step"])

    def flush(self) -> None:
        """Flush, so that readers see all records."""
        with naming(self._file.name):
            self._file.flush()

    def close(self) -> None:
        """Flush and close the file."""
        with naming(self._file.name):
            self._file.close()


class MetricsReader:
    """Reads the records after a step, while metrics.jsonl is still being written, in constant memory.

    Args:
        folder: the run directory.
        step: records up to this step are skipped.
    """

    def __init__(self, folder: Path, step: int):
        self._path = folder / FILE
        with self._path.open("rb") as file:
            self._offset = _end_of_step(file, self._path, step)

    def next(self, limit: int) -> list[Record]:
        """Read up to ``limit`` further records; an empty list if there are none yet."""
        records: list[Record] = []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            # A line without its end is still being written.
            while len(records) < limit and (line := file.readline()).endswith(b"\n"):
                records.append(_record(line, self._path))
                self._offset += len(line)
        return records


def read_metrics(folder: Path) -> list[Record]:
    """Read all records of a run in order, without a last line that a crash cut short.

    Raises:
        DataError: a line is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [_record(line, path, number) for number, line in enumerate(lines[:-1], 1)]


def _record(line: bytes, path: Path, number: int | None = None) -> Record:
    """The record in a complete line of metrics.jsonl.

    Raises:
        DataError: the line holds something else.
    """
    where = f"{path}, line {number}," if number else f"a line of {path}"
    return parse_json(
        line,
        where,
        RECORD,
        "Restore the file from a copy of the run, or remove that line.",
    )


def last_step(folder: Path) -> int:
    """Step of the last complete record; 0 if there is none."""
    path = folder / FILE
    if not path.exists():
        return 0
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        tail = 4096
        while True:
            file.seek(max(0, length - tail))
            lines = file.read().split(b"\n")
            # The first line may begin before what was read, and the last may be incomplete.
            whole = lines[:-1] if tail >= length else lines[1:-1]
            if whole or tail >= length:
                return int(_record(whole[-1], path)["step"]) if whole else 0
            tail *= 2


def _end_of_step(file: BinaryIO, path: Path, step: int) -> int:
    """Offset of the byte after the last complete record up to ``step``, by bisection: steps never descend."""
    # Lines that begin before `low` are of steps up to `step`; those that begin at `high` or later are not.
    low, high = 0, file.seek(0, os.SEEK_END)
    while low < high:
        middle = (low + high) // 2
        file.seek(max(low, middle - 1))
        if middle > low:
            file.readline()
        begin = file.tell()
        line = file.readline()
        if begin < high and line.endswith(b"\n") and _record(line, path)["step"] <= step:
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
    """The losses of a record as text: name and value of each."""
    return "  ".join(f"{k.removeprefix('train/')} {v:.4f}" for k, v in record.items() if k.startswith("train/"))


def rates_text(record: Record, memory_gib: float) -> str:
    """Gradient norm, learning rate, throughput, waiting time, padding and memory as text."""
    return (
        f"grad {record['optim/grad_norm']:.3g}  lr {record['optim/lr']:.2e}  "
        f"{record['throughput/molecules_per_s']:.0f} mol/s  wait {100 * record['throughput/data_wait']:.1f} %  "
        f"pad {100 * record['data/padding']:.1f} %  mem {memory_gib:.2f} GiB"
    )


def log_line(record: Record, steps: int, seconds_per_step: float, memory_gib: float) -> str:
    """One line, parsable, in fixed order: progress, losses, gradient norm, learning rate, speed, memory, ETA."""
    step = int(record["step"])
    return (
        f"step {step}/{steps}  {100 * step / steps:.1f} %  {losses_text(record)}  {rates_text(record, memory_gib)}  "
        f"eta {eta_text(steps - step, seconds_per_step)}"
    )


def eta_text(steps_left: int, seconds_per_step: float) -> str:
    """Remaining time as ``HH:MM:SS``; ``-`` if the duration of a step is not known."""
    return clock_time(steps_left * seconds_per_step) if seconds_per_step else "-"


def is_finite(record: Record) -> bool:
    """Whether the loss of a record is finite."""
    return math.isfinite(record["train/loss"])

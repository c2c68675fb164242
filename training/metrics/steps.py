"""Combines the metrics of all lanes into one record per step."""

import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from molstream.training.data.batch import MoleculeBatch
from molstream.training.distributed.context import DistributedContext
from molstream.training.metrics.records import Record
from molstream.training.models.layout import padding_share

OF_DATA = "data/"
"""Begins the names of what is counted of the data."""


@dataclass(frozen=True)
class _Step:
    """One step on this process: its number from 1, lane metrics [L / W, m], and values equal on all processes."""

    number: int
    values: Tensor
    common: Record


class StepRecords:
    """Collects the metrics of steps, on the device, until :meth:`gather`.

    Args:
        context: this process among its peers.
        lanes, micro_batch: the global batch is their product.
    """

    def __init__(self, context: DistributedContext, lanes: int, micro_batch: int):
        self._context, self._lanes, self._molecules = context, lanes, lanes * micro_batch
        self._names: list[str] = []
        self._steps: list[_Step] = []

    def add(
        self,
        number: int,
        batches: Sequence[MoleculeBatch],
        metrics: Sequence[Mapping[str, Tensor]],
        seconds: float,
        wait: float,
        common: Record,
    ) -> None:
        """Add a step that ends now.

        Args:
            number: number of the step, from 1.
            batches, metrics: of each lane of this process.
            seconds: duration of the step.
            wait: seconds of it that were spent waiting for data.
            common: further values of the record, equal on all processes.
        """
        lanes = [{**_of_batch(b), **m} for b, m in zip(batches, metrics, strict=True)]
        self._names = list(lanes[0])
        rows = [
            torch.stack([values[name].to(self._context.device, torch.float32) for name in self._names])
            for values in lanes
        ]
        common = {
            **common,
            "time": time.time(),
            "throughput/molecules_per_s": self._molecules / seconds,
            "throughput/data_wait": wait / seconds,
            "data/padding": float(np.mean([padding_share(batch.ptr.diff()) for batch in batches])),
        }
        self._steps.append(_Step(number, torch.stack(rows), common))

    def gather(self) -> list[Record]:
        """Return the records of the collected steps and clear them (collective).

        A metric is the mean over all lanes, summed in lane order in fp64, so that it does not depend on the world size;
        what is counted of the data is the sum.
        """
        if not self._steps:
            return []
        values = torch.stack([step.values for step in self._steps], dim=1)
        lanes = self._context.gather_lanes(values).double().cpu()
        records: list[Record] = []
        for k, step in enumerate(self._steps):
            means = dict(zip(self._names, lanes[:, k].mean(dim=0).tolist(), strict=True))
            metrics = {f"train/{name}": mean for name, mean in means.items() if not name.startswith(OF_DATA)}
            counts = {name: mean * self._lanes for name, mean in means.items() if name.startswith(OF_DATA)}
            records.append({"step": step.number, **metrics, **counts, **step.common})
        self._steps.clear()
        return records

    def seconds_per_step(self, records: Sequence[Record]) -> float:
        """Mean duration of a step over records, in seconds."""
        return float(np.mean([self._molecules / record["throughput/molecules_per_s"] for record in records]))


def _of_batch(batch: MoleculeBatch) -> dict[str, Tensor]:
    """What is counted of a lane's batch: its digest, and the molecules that could not be drawn, if it has images."""
    counts = {"data/digest": torch.tensor(_digest(batch))}
    return counts if batch.has_image is None else {**counts, "data/undrawn": (~batch.has_image).sum()}


def _digest(batch: MoleculeBatch) -> float:
    """Checksum of the molecules of a batch and their order: 24 bits, which float32 represents exactly."""
    return float(zlib.crc32(batch.index.numpy().tobytes()) & 0xFFFFFF)

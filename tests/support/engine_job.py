"""A small training job for the engine's tests: ``engine_job.py OPTIONS FROM TO``, with options in JSON.

It restores the checkpoint of its first step from FROM, unless that is step 0, and writes losses, norms and a checkpoint
to TO. Its module has matrices, vectors, a BatchNorm and two parameter groups.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from molstream.training.checkpoint.format import RunState, load_checkpoint, name_of
from molstream.training.checkpoint.store import FolderStore
from molstream.training.checkpoint.writer import CheckpointWriter, Retention
from molstream.training.distributed.context import start_processes, stop_processes
from molstream.training.distributed.deepspeed_compat import end_process
from molstream.training.engine.config import EngineConfig
from molstream.training.engine.engine import Engine
from molstream.training.engine.progress import EngineProgress
from molstream.training.optim.muon import MuonAdamW

LANES, MICRO_BATCH = 4, 5


@dataclass
class Output:
    """Output of the module, with the loss that the engine differentiates."""

    loss: Tensor
    """Scalar, mean squared error."""


class Body(nn.Module):
    """Two linear layers with a BatchNorm and a gain: matrices, vectors and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 33, bias=False)
        self.norm = nn.BatchNorm1d(33)
        self.last = nn.Linear(33, 3)
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x)))) * self.gain


class Network(nn.Module):
    """The module of the job: mean squared error of a :class:`Body`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Body()

    def forward(self, x: Tensor, y: Tensor) -> Output:
        return Output(((self.body(x) - y) ** 2).float().mean())


def state_of(engine: Engine, step: int) -> RunState:
    """Create the state of the run for a checkpoint after ``step`` steps."""
    progress = engine.progress
    return RunState(
        step=step,
        optimizer_steps=progress.optimizer_steps,
        seed=0,
        lanes=LANES,
        micro_batch=MICRO_BATCH,
        world_size=engine.context.world_size,
        zero_stage=engine.config.zero_stage,
        dataset_fingerprint="",
        loss_scale=progress.loss_scale,
        finite_steps=progress.finite_steps,
    )


def restore(engine: Engine, checkpoint: Path) -> None:
    """Load a checkpoint of a job."""
    saved = load_checkpoint(checkpoint)
    progress = EngineProgress(saved.state.loss_scale, saved.state.optimizer_steps, saved.state.finite_steps)
    engine.load(saved.weights, saved.moments, saved.average, progress)


def finish(engine: Engine, step: int, rows: list[list[float]], target: Path) -> None:
    """Write the checkpoint after ``step`` steps and, in JSON, the numbers of the steps; then end the process."""
    writer = CheckpointWriter(FolderStore(target), engine.context, Retention(), lambda text: None, 0)
    writer.begin(engine.snapshot(), state_of(engine, step), "")
    writer.finish()
    if engine.context.rank == 0:
        (target / "rows.json").write_text(json.dumps(rows))
    stop_processes()
    end_process(0)


def main() -> None:
    """Train as one rank, by the options in the command line."""
    options, source, target = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    start, stop, poisoned = options.pop("start", 0), options.pop("stop"), options.pop("poisoned", [])
    muon = options.pop("muon", False)
    # Smaller than the parameters, because DeepSpeed would keep smaller parameters gathered at ZeRO 3.
    config = EngineConfig(**{"bucket_size": 40, **options})
    context = start_processes(config.timeout_s)
    torch.manual_seed(0)
    module = Network()
    groups = [[p for p in module.parameters() if p.ndim > 1], [p for p in module.parameters() if p.ndim == 1]]
    settings = [{"params": g, "weight_decay": d} for g, d in zip(groups, (0.1, 0.0))]
    if muon:
        settings[0]["momentum"] = 0.95
    optimizer = (MuonAdamW if muon else torch.optim.AdamW)(settings, lr=1e-2)
    engine = Engine(
        module,
        optimizer,
        config,
        context,
        lanes=LANES,
        micro_batch=MICRO_BATCH,
        gradient_clipping=1.0,
        ema_decay=0.9,
    )
    if start:
        restore(engine, source / name_of(start))
    rows = []
    for step in range(start, stop):
        losses = []
        for lane in range(context.rank, LANES, context.world_size):
            generator = torch.Generator().manual_seed(1000 * step + lane)
            x = torch.randn(MICRO_BATCH, 7, generator=generator)
            y = torch.randn(MICRO_BATCH, 3, generator=generator)
            if [step, lane] in poisoned:
                y[0] = torch.inf
            losses.append(engine.accumulate(x, y).loss.detach())
        norm = engine.step([1e-2, 5e-3])
        rows.append([*context.gather_lanes(torch.stack(losses)).tolist(), norm, engine.progress.loss_scale])
    finish(engine, stop, rows, target)


if __name__ == "__main__":
    main()

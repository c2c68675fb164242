"""A small job for the engine's tests: ``engine_job.py STAGE PRECISION START STOP IN OUT`` trains from step to step.

Writes the losses, weights and moments to OUT; its module has matrices, vectors, a BatchNorm and two parameter groups.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.engine import Engine, EngineConfig, end_process, start_processes, stop_processes

LANES, MICRO_BATCH = 4, 5


@dataclass
class Output:
    loss: Tensor


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 33, bias=False)
        self.norm = nn.BatchNorm1d(33)
        self.last = nn.Linear(33, 3)
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor, y: Tensor) -> Output:
        return Output(((self.last(torch.tanh(self.norm(self.first(x)))) * self.gain - y) ** 2).float().mean())


def main() -> None:
    stage, precision, start, stop, source, target = sys.argv[1:]
    config = EngineConfig(zero_stage=int(stage), precision=precision)
    place = start_processes(config)
    torch.manual_seed(0)
    module = Network()
    groups = [[p for p in module.parameters() if p.ndim > 1], [p for p in module.parameters() if p.ndim == 1]]
    optimizer = torch.optim.AdamW([{"params": g, "weight_decay": d} for g, d in zip(groups, (0.1, 0.0))], lr=1e-2)
    engine = Engine(module, optimizer, config, place, lanes=LANES, micro_batch=MICRO_BATCH, gradient_clipping=1.0)
    if int(start):
        engine.load(load_file(f"{source}.weights"), load_file(f"{source}.moments"), int(start))
    losses = []
    for step in range(int(start), int(stop)):
        rows = []
        for lane in range(place.rank, LANES, place.world_size):
            generator = torch.Generator().manual_seed(1000 * step + lane)
            x = torch.randn(MICRO_BATCH, 7, generator=generator)
            y = torch.randn(MICRO_BATCH, 3, generator=generator)
            rows.append(engine.accumulate(x, y).loss.detach())
        norm = engine.step([1e-2, 5e-3])
        losses.append([*engine.gather_lanes(torch.stack(rows)).tolist(), norm])
    weights, moments = engine.weights(), engine.moments()
    if place.rank == 0:
        save_file(weights, f"{target}.weights")
        save_file(moments, f"{target}.moments")
        Path(f"{target}.json").write_text(json.dumps(losses))
    stop_processes()
    end_process(0)


if __name__ == "__main__":
    main()

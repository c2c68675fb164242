"""A small training job with a loss of the global batch: ``global_job.py OPTIONS FROM TO``, like ``engine_job``.

Its codes have dropout, a projection has parameters that only the loss of the global batch uses, and a queue of codes is
a buffer.
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molstream.randomness import keyed_seed
from molstream.training.checkpoint.format import name_of
from molstream.training.distributed.context import start_processes
from molstream.training.engine.config import EngineConfig
from molstream.training.engine.engine import Engine
from molstream.training.look_ahead import LookAhead
from molstream.training.models.layers import dropout
from molstream.training.module import PretrainingModule
from molstream.training.objectives.base import Split, Term
from molstream.training.objectives.combined import CombinedObjective
from molstream.training.objectives.global_batch import GlobalObjective
from tests.support.engine_job import LANES, MICRO_BATCH, finish, restore

INPUTS, HIDDEN, WIDTH, QUEUE = 7, 9, 24, 12
WEIGHT, STEPS = 0.5, 8
"""Weight of the objective, and steps of a run."""


class Contrast(GlobalObjective):
    """Contrast of two codes of all rows, and distance to a queue; beside it the size of the codes of a micro-batch."""

    required_fields = frozenset()
    queue: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head, self.other = nn.Linear(HIDDEN, WIDTH), nn.Linear(HIDDEN, WIDTH, bias=False)
        self.project = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("queue", torch.ones(QUEUE, WIDTH))

    def split(self, batch, encoders, generator):
        h = encoders.encoder_2d(batch)
        x = dropout(torch.tanh(self.head(h)), 0.2, self.training, generator)
        size = x.square().mean()
        codes = {"x": x, "y": self.other(h), "number": (1000 * batch[:, 0]).long()}
        return Split({"size": Term(0.1, size, {"size": size})}, codes)

    def global_terms(self, whole, generator):
        x, y, number = (whole.codes[name] for name in ("x", "y", "number"))
        contrast = F.cross_entropy(self.project(x) @ y.T, torch.arange(len(x)))
        noise = torch.randn(QUEUE, WIDTH, generator=generator)
        apart = whole.progress * (x.mean(0) - (self.queue + noise).mean(0)).square().sum()
        self.newest = x.detach()[number.argmax()]
        return {"contrast": Term(1.0, contrast, {"contrast": contrast}), "apart": Term(2.0, apart, {"apart": apart})}

    def end_step(self, generator):
        self.queue.copy_(torch.cat([self.newest.unsqueeze(0), self.queue])[:QUEUE])


class Network(PretrainingModule):
    """A linear encoder under the objective."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.encoders = nn.Module()
        self.encoders.encoder_2d, self.encoders.encoder_3d = nn.Linear(INPUTS, HIDDEN), None
        self.encoders.encoder_both = self.encoders.encoder_image = None
        self.objective = CombinedObjective({"contrast": Contrast()}, {"contrast": WEIGHT})


def inputs_of(step: int, lane: int) -> tuple[Tensor, torch.Generator]:
    """The micro-batch of a lane, and the generator of its draws."""
    return torch.randn(MICRO_BATCH, INPUTS, generator=seeded(step, lane)), seeded(step, lane, 1)


def seeded(*key: int) -> torch.Generator:
    """Create a generator from a key."""
    return torch.Generator().manual_seed(keyed_seed(*key))


def main() -> None:
    """Train as one rank, by the options in the command line."""
    options, source, target = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    start, stop = options.pop("start", 0), options.pop("stop")
    config = EngineConfig(**{"bucket_size": 40, **options})
    context = start_processes(config.timeout_s)
    torch.manual_seed(0)
    module = Network()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    sizes = {"lanes": LANES, "micro_batch": MICRO_BATCH, "gradient_clipping": 1.0}
    engine = Engine(module, optimizer, config, context, **sizes)
    ahead = LookAhead(engine, module.objective, LANES)
    if start:
        restore(engine, source / name_of(start))
    rows = []
    for step in range(start, stop):
        lanes = range(context.rank, LANES, context.world_size)
        shares = ahead.shares([inputs_of(step, lane) for lane in lanes], seeded(step, LANES), step / STEPS)
        outputs = [engine.accumulate(*inputs_of(step, lane), *share) for lane, share in zip(lanes, shares)]
        norm = engine.step([1e-2])
        ahead.end_step(True)
        losses = context.gather_lanes(torch.stack([output.loss.detach() for output in outputs]))
        rows.append([*losses.tolist(), float(outputs[0].metrics["contrast"]), norm])
    finish(engine, stop, rows, target)


if __name__ == "__main__":
    main()

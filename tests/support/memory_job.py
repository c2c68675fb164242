"""A small job for the doctor's tests: ``memory_job STAGE OFFLOAD BUCKET OUT`` trains the tiny model and counts bytes.

It writes the sizes of the parameters, the bytes of all tensors between steps, and the maximum that a step adds, to OUT.
"""

import gc
import json
import sys
import weakref
from pathlib import Path

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from molstream.training.distributed.context import start_processes, stop_processes
from molstream.training.distributed.deepspeed_compat import end_process
from molstream.training.engine.engine import Engine, EngineConfig
from molstream.training.module import build_module, run_children_once
from molstream.training.optim.config import OptimConfig
from molstream.training.optim.optimizer import build_optimizer
from tests.support.molecules import DRUGS, model_config, molecule_batch, objective_config, seeded


class PeakBytes(TorchDispatchMode):
    """Measures the peak of the bytes of all tensors created inside."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self.now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._meet((args, kwargs), made=False)
        output = func(*args, **(kwargs or {}))
        self._meet(output, made=True)
        return output

    def _meet(self, tree, made: bool) -> None:
        for storage in (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)):
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                size = storage.nbytes() if made else 0
                weakref.finalize(storage, self._forget, storage._cdata, size)
                self.now += size
                self.most = max(self.most, self.now)

    def _forget(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.now -= size


def live_bytes() -> int:
    """Count the bytes of all tensors that Python knows, each storage once."""
    gc.collect()
    storages = [item.untyped_storage() for item in gc.get_objects() if type(item) in (Tensor, nn.Parameter)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def main() -> None:
    """Train the tiny model by the command line, and write the sizes and peaks as JSON."""
    stage, offload, bucket, target = sys.argv[1:]
    config = EngineConfig(zero_stage=int(stage), offload=offload, bucket_size=int(bucket))
    context = start_processes(config.timeout_s)
    batch = molecule_batch(DRUGS[:4])
    before = live_bytes()
    module = build_module(model_config("tiny"), objective_config("moleculesde"), 0)
    if config.zero_stage == 3:
        run_children_once(module)
    sizes = [parameter.numel() for parameter in module.parameters()]
    optimizer, scales = build_optimizer(module, OptimConfig(weight_decay=0.01), module.objective.learning_rate_scale)
    for group in optimizer.param_groups:
        group["foreach"] = True  # AdamW's default on GPUs
    lanes = context.world_size
    engine = Engine(module, optimizer, config, context, lanes=lanes, micro_batch=4, gradient_clipping=0.0)
    steps: list[int] = []
    for step in range(5):
        engine.accumulate(batch, seeded(step))
        with PeakBytes() as peak:
            engine.step([1e-4 * scale for scale in scales])
        steps.append(peak.most)
    kept = live_bytes() - before
    if context.rank == 0:
        # The minimum, since gloo's threads free sent buffers with a delay on a busy machine.
        Path(target).write_text(json.dumps({"sizes": sizes, "kept": kept, "step": min(steps[1:])}), encoding="utf-8")
    stop_processes()
    end_process(0)


if __name__ == "__main__":
    main()

"""Compares a training step of molstream's engine with plain PyTorch, and measures the cost of saving every 50 steps.

    python benchmarks/engine.py DATASET [KEY=VALUE ...] [--parts step saving] [--processes 1 2] [--stages 0 1 2 3]
        [--pairs 5] [--steps 4] [--save-every 50]

on a dataset of `molstream preprocess` and an idle machine; keys are those of pretraining (model=base,
deepspeed.precision=bf16). It runs on GPUs where there are any, else on CPU processes with one thread each.

**step**: runs a job for each number of processes and ZeRO stage, in which two sides take turns. Both train the same
module on the same batches in memory, with the same random draws, AdamW, accumulation over lanes and clipping: ours by
``molstream.training.engine``, the other as in PyTorch's tutorials, with DistributedDataParallel for several processes.
Their losses are compared first. ``vs_pytorch`` is PyTorch's time divided by ours, the median of the turns' ratios.
Memory is the peak of a process before the other side is created: allocated on its GPU, or resident including all
libraries.

**saving**: runs the command `training/pretrain.py` with and without a checkpoint every 50 steps, in turns. Measures the
time from the end of step 10 to that of step 60 (one save, and ten steps for the background write), and the throughput
and waiting time in the records.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from molstream.compose import compose
from molstream.pipeline.order.lanes import lanes_of_rank
from molstream.randomness import keyed_seed
from molstream.training.config import PretrainConfig
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.datasets import open_data
from molstream.training.data.stream import LaneStream
from molstream.training.distributed.context import DistributedContext, start_processes, stop_processes
from molstream.training.distributed.deepspeed_compat import end_process
from molstream.training.engine.engine import PRECISIONS, Engine
from molstream.training.metrics.records import peak_memory_gib, read_metrics
from molstream.training.module import build_module, num_parameters, run_children_once
from molstream.training.optim.optimizer import build_optimizer

REPOSITORY = Path(__file__).resolve().parents[1]
DEFAULTS = ("model=small", "data.lanes=8", "data.micro_batch=8", "optim.gradient_clipping=1.0")
WARM_UP, NEVER = 10, 10**9
LINEAR = torch.nn.functional.linear
"""PyTorch's own function, before DeepSpeed patches it."""

Lanes = dict[int, MoleculeBatch]
"""Batches of one step on a process, by lane."""
Step = Callable[[int, Lanes], float]
"""Runs one training step of this process; returns the mean loss of its lanes."""


def main() -> None:
    """Run the chosen parts and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--parts", nargs="+", choices=("step", "saving"), default=["step", "saving"])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--stages", nargs="+", type=int, default=[0, 1, 2, 3], help="of the part step")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of a turn of the part step")
    parser.add_argument("--save-every", type=int, default=50, help="steps of a turn of the part saving")
    arguments = parser.parse_intermixed_args()
    given = {key.partition("=")[0] for key in arguments.keys}
    if "experiment" in given:
        given.add("model")  # which the experiment names
    defaults = [key for key in DEFAULTS if key.partition("=")[0] not in given]
    keys = [*defaults, f"data.path={arguments.dataset.resolve()}", *arguments.keys]
    gpus = torch.cuda.device_count()
    for processes in arguments.processes:
        if gpus and processes > gpus:
            print(f"not measured: {processes} processes, there are {gpus} GPU(s)")
            continue
        if "step" in arguments.parts:
            for stage in arguments.stages:
                step([*keys, f"deepspeed.zero_stage={stage}"], processes, stage, arguments)
        if "saving" in arguments.parts:
            saving(keys, processes, arguments)


def run_ranks(processes: int, arguments: Sequence[str], log: Path) -> str:
    """Run ``python *arguments`` as every rank of a job; returns the stdout of rank 0, and writes stderr to ``log``."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    job = {"WORLD_SIZE": processes, "LOCAL_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(REPOSITORY)}
    with log.open("w", encoding="utf-8") as stderr:
        ranks = [
            subprocess.Popen(
                [sys.executable, *arguments],
                cwd=REPOSITORY,
                env={**common, **{key: str(value) for key, value in {**job, "RANK": k, "LOCAL_RANK": k}.items()}},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
            for k in range(processes)
        ]
        printed = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        sys.exit(f"{' '.join(arguments)} failed:\n{log.read_text(encoding='utf-8')}")
    return printed[0]


# --- one step --------------------------------------------------------------------------------------------------------


def step(keys: list[str], processes: int, stage: int, arguments: argparse.Namespace) -> None:
    """Run the job with both sides, and print its figures."""
    with tempfile.TemporaryDirectory() as folder:
        options = [__file__, "--child", str(arguments.pairs), str(arguments.steps), *keys, f"run_dir={folder}"]
        found = json.loads(run_ranks(processes, options, Path(folder) / "log").splitlines()[-1])
    name = f"w{processes}_zero{stage}"
    ours, plain = (statistics.median(found[side]) for side in ("ours", "plain"))
    ratios = [b / a for a, b in zip(found["ours"], found["plain"], strict=True)]
    print(
        f"{processes} process(es), ZeRO {stage}, {found['device']}: {found['parameters']:,} parameters, "
        f"{found['molecules']} molecules a step; losses differ by {found['difference']:.1e} of their size at most; a "
        f"step takes {ours:.3f} s, plain PyTorch {plain:.3f} s (ratios {min(ratios):.3f} to {max(ratios):.3f})"
    )
    print(f"figure molecules_per_s_{name} {found['molecules'] / ours:.1f}")
    print(f"figure memory_gib_{name} {found['memory_gib']:.3f}")
    print(f"figure vs_pytorch_{name} {statistics.median(ratios):.3f}", flush=True)


def child(pairs: int, steps: int, keys: Sequence[str]) -> None:
    """Measure both sides as one rank; rank 0 prints the figures as a line of JSON."""
    config = compose("pretrain", PretrainConfig, keys)
    context = start_processes(config.deepspeed.timeout_s)
    batches = load(config, context, steps)
    ours = our_side(config, context)
    losses = [ours(k, lanes) for k, lanes in enumerate(batches)]
    memory = peak_memory_gib(context.device)
    plain = plain_side(config, context)
    expected = [plain(k, lanes) for k, lanes in enumerate(batches)]
    sides = {"ours": ours, "plain": plain}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(pairs):
        for name, side in sides.items():
            seconds[name].append(timed(side, batches, context))
    if context.rank == 0:
        found = {
            **seconds,
            "difference": max(abs(a / b - 1) for a, b in zip(losses, expected, strict=True)),
            "memory_gib": memory,
            "device": context.device.type,
            "molecules": config.data.lanes * config.data.micro_batch,
            "parameters": num_parameters(build_module(config.model, config.objective, config.seed)),
        }
        print(json.dumps(found), flush=True)
    stop_processes()
    end_process(0)


def load(config: PretrainConfig, context: DistributedContext, steps: int) -> list[Lanes]:
    """Load the batches of the run's first steps to the device."""
    data = open_data(config.data)
    lanes = lanes_of_rank(context.rank, context.world_size, config.data.lanes)
    order = data.order(config.seed, config.data.lanes, config.data.micro_batch, config.data.window_blocks)
    stream = LaneStream(data, order, lanes)
    return [{lane: batch.to(context.device) for lane, batch in zip(lanes, stream.step(k))} for k in range(steps)]


def our_side(config: PretrainConfig, context: DistributedContext) -> Step:
    """Create the step of molstream's engine, as the trainer uses it."""
    module = build_module(config.model, config.objective, config.seed)
    if config.deepspeed.zero_stage == 3:
        run_children_once(module)
    optimizer, scales = build_optimizer(module, config.optim, module.objective.learning_rate_scale)
    data = config.data
    engine = Engine(
        module,
        optimizer,
        config.deepspeed,
        context,
        lanes=data.lanes,
        micro_batch=data.micro_batch,
        gradient_clipping=config.optim.gradient_clipping,
    )

    def step(number: int, lanes: Lanes) -> float:
        losses = [
            engine.accumulate(batch, generator(config, context, number, lane)).loss.detach()
            for lane, batch in lanes.items()
        ]
        engine.step([config.optim.lr * scale for scale in scales])
        return float(torch.stack(losses).mean())

    return step


def plain_side(config: PretrainConfig, context: DistributedContext) -> Step:
    """Create the step in plain PyTorch, as in its tutorials."""
    module = build_module(config.model, config.objective, config.seed).to(context.device)
    optimizer, _ = build_optimizer(module, config.optim, module.objective.learning_rate_scale)
    model = DistributedDataParallel(module) if context.world_size > 1 else module
    parameters = list(module.parameters())
    precision = PRECISIONS[config.deepspeed.precision]
    assert precision != torch.float16, "the plain side does not scale its loss"

    def step(number: int, lanes: Lanes) -> float:
        optimizer.zero_grad()
        losses = []
        for lane, batch in lanes.items():
            last = len(losses) + 1 == len(lanes)
            unsynced = model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()
            with unsynced:
                # At ZeRO 3 DeepSpeed patches it in the whole process.
                linear = mock.patch.object(torch.nn.functional, "linear", LINEAR)
                with linear, torch.autocast(context.device.type, precision, enabled=precision != torch.float32):
                    loss = model(batch, generator(config, context, number, lane)).loss
                (loss / len(lanes)).backward()
            losses.append(loss.detach())
        if config.optim.gradient_clipping:
            torch.nn.utils.clip_grad_norm_(parameters, config.optim.gradient_clipping)
        optimizer.step()
        return float(torch.stack(losses).mean())

    return step


def generator(config: PretrainConfig, context: DistributedContext, step: int, lane: int) -> torch.Generator:
    """Create the generator of a lane's random draws, equal for both sides."""
    return torch.Generator(context.device).manual_seed(keyed_seed(config.seed, step, lane))


def timed(side: Step, batches: Sequence[Lanes], context: DistributedContext) -> float:
    """Measure the mean time of a step of one side, in seconds."""
    context.barrier()
    start = time.perf_counter()
    for number, lanes in enumerate(batches):
        side(number, lanes)
    if context.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / len(batches)


# --- saving ----------------------------------------------------------------------------------------------------------


def saving(keys: list[str], processes: int, arguments: argparse.Namespace) -> None:
    """Measure the pretraining command with and without saving, in turns."""
    steps = arguments.save_every
    found: dict[int, list[float]] = {steps: [], NEVER: []}
    rates, waits = [], []
    for turn in range(arguments.pairs):
        for every, seconds in found.items():
            with tempfile.TemporaryDirectory() as folder:
                run_dir = Path(folder) / "run"
                # The last step always saves, so it is not measured.
                run_keys = [*keys, f"run_dir={run_dir}", f"save_every={every}", f"steps={WARM_UP + steps + 1}"]
                run_ranks(processes, ["training/pretrain.py", *run_keys], Path(folder) / "log")
                records = read_metrics(run_dir)[WARM_UP - 1 : -1]
            seconds.append(records[-1]["time"] - records[0]["time"])
            rates.append(np.mean([record["throughput/molecules_per_s"] for record in records[1:]]))
            waits.append(np.mean([record["throughput/data_wait"] for record in records[1:]]))
        saved, unsaved = (seconds[-1] for seconds in found.values())
        print(
            f"{processes} process(es), turn {turn}: {steps} steps with a save {saved:.2f} s, without {unsaved:.2f} s",
            flush=True,
        )
    shares = [1 - unsaved / saved for saved, unsaved in zip(*found.values(), strict=True)]
    print(f"figure run_molecules_per_s_w{processes} {statistics.median(rates):.1f}")
    print(f"figure data_wait_share_w{processes} {statistics.median(waits):.4f}")
    print(f"figure saving_share_w{processes} {statistics.median(shares):.4f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    else:
        main()

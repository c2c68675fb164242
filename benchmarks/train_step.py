"""MoleculeSDE's training step, forward and backward: our faithful form against a plain reference with PyG's layers.

Both compute the same numbers from the same weights, batch and draws, which is checked first in float64; then they take
turns in float32 at the paper's sizes. The batch: real molecules of ZINC250k with a conformer each, featurized once and
kept in the folder for temporary files; or the first molecules of a dataset of `molstream preprocess`.

    python benchmarks/train_step.py [DATASET | FILE.smi[.gz|.bz2|.xz]] [--molecules 256] [--pairs 5] [--threads 2]
"""

import argparse
import itertools
import multiprocessing
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from preprocess import ZINC, read_smiles
from reference.moleculesde import ReferenceMoleculeSDE, draw
from reference.parameters import as_reference
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.shards.codec import encode
from pipeline.shards.columns import Columns
from pipeline.shards.reader import ShardDataset
from preprocessing.featurize import FeaturizeConfig, featurize
from preprocessing.fields import MoleculeSample
from training.data.batch import MoleculeBatch
from training.data.collate import COLLATED_FIELDS, collate
from training.models.encoders import ModelConfig
from training.module import PretrainingModule, build_module
from training.objectives import ObjectiveConfig

Step = Callable[[], Tensor]
"""Something to be differentiated."""
Sides = tuple[PretrainingModule, ReferenceMoleculeSDE]
NAMES = ("faithful", "reference")


def load_batch(path: Path, count: int) -> MoleculeBatch:
    """The first ``count`` molecules with a conformer of a dataset, or of a file of SMILES."""
    if path.is_dir():
        return collated(ShardDataset(path).read_rows(np.arange(count), COLLATED_FIELDS))
    cache = Path(tempfile.gettempdir()) / f"molstream-train-step-{path.name}-{count}.safetensors"
    if not cache.is_file():
        results = (featurize(raw, FeaturizeConfig()) for raw in read_smiles(path, 2 * count))
        samples = (result for result in results if isinstance(result, MoleculeSample) and len(result.positions))
        record = encode(list(itertools.islice(samples, count)))
        batch = collated(Columns.from_batch(record, COLLATED_FIELDS))
        save_file({field.name: getattr(batch, field.name) for field in fields(batch)}, cache)
    return MoleculeBatch(**load_file(cache))


def collated(columns: Columns) -> MoleculeBatch:
    """The batch of the first conformers."""
    return collate(columns, np.arange(columns.num_rows), np.zeros(columns.num_rows, np.uint64))


def build(dropout: float) -> Sides:
    """Our faithful form at the paper's sizes and the reference with the same weights, in training mode."""
    model, objective = ModelConfig(), ObjectiveConfig()
    model = replace(model, position_score=replace(model.position_score, dropout=dropout))
    ours = build_module(model, objective, seed=0).train()
    reference = ReferenceMoleculeSDE(model, objective.moleculesde).train()
    reference.load_state_dict(as_reference(ours.state_dict()))
    return ours, reference


def whole_steps(sides: Sides, batch: MoleculeBatch) -> tuple[Step, Step]:
    """The loss of either side, with its own draws of the same seed."""
    ours, reference = sides
    return (
        lambda: ours(batch, torch.Generator().manual_seed(1)).loss,
        lambda: reference(batch, draw(batch, torch.Generator().manual_seed(1)))[0],
    )


def disagreement(batch: MoleculeBatch) -> float:
    """Largest difference of the loss or a gradient in float64, relative to its tensor's largest entry (or to one)."""
    ours, reference = (side.double() for side in build(dropout=0.0))
    steps = whole_steps((ours, reference), replace(batch, pos=batch.pos.double()))
    losses = [step() for step in steps]
    for loss in losses:
        loss.backward()
    found = [(losses[0], losses[1])]
    gradients = as_reference({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    for name, parameter in reference.named_parameters():
        found.append((gradients[name], torch.zeros_like(parameter) if parameter.grad is None else parameter.grad))
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1.0)).item() for a, b in found)


def part_steps(sides: Sides, batch: MoleculeBatch) -> Iterator[tuple[str, tuple[Step, Step]]]:
    """The parts of the step by name, each alone: encoders on the batch, the rest on encoders' outputs as leaves."""
    ours, reference = sides
    encoders, objective = ours.encoders, ours.objective
    graph, geometry = (batch.x, batch.edge_index, batch.edge_attr), (batch.x[:, 0], batch.pos, batch.batch)
    with torch.no_grad():
        z_2d, z_3d = encoders.encoder_2d(*graph, batch.batch), encoders.encoder_3d(*geometry)
    z_2d, z_3d = z_2d.requires_grad_(), z_3d.requires_grad_()
    seeded = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    draws = draw(batch, seeded())
    yield (
        "2D encoder",
        (lambda: encoders.encoder_2d(*graph, batch.batch).sum(), lambda: reference.encoder_2d(*graph).sum()),
    )
    yield "3D encoder", (lambda: encoders.encoder_3d(*geometry).sum(), lambda: reference.encoder_3d(*geometry).sum())
    yield (
        "2D to 3D",
        (
            lambda: objective._position_term(batch, z_2d, seeded()).loss,
            lambda: reference.position_loss(batch, z_2d, draws),
        ),
    )
    yield (
        "3D to 2D",
        (
            lambda: objective._graph_term(batch, z_3d, seeded()).loss,
            lambda: torch.stack(reference.graph_loss(batch, z_3d, draws)).mean(),
        ),
    )
    yield (
        "contrast",
        (
            lambda: objective._contrastive_term(batch, encoders, z_2d, z_3d, seeded()).loss,
            lambda: reference.contrastive_loss(z_2d, z_3d, draws),
        ),
    )


def seconds(step: Step, module: torch.nn.Module) -> float:
    """Wall time of one forward and backward."""
    module.zero_grad(set_to_none=True)
    start = time.perf_counter()
    step().backward()
    return time.perf_counter() - start


def taking_turns(steps: tuple[Step, Step], sides: Sides, pairs: int) -> list[tuple[float, float]]:
    """Seconds of either side, pair by pair, after one pair of warm-up."""
    measured = [(seconds(steps[0], sides[0]), seconds(steps[1], sides[1])) for _ in range(pairs + 1)]
    return measured[1:]


def peak_memory_mib(side: int, batch: MoleculeBatch, threads: int) -> float:
    """Growth of a fresh process's peak memory by one whole step."""
    torch.set_num_threads(threads)
    sides = build(dropout=0.1)
    before = high_water_mib()
    seconds(whole_steps(sides, batch)[side], sides[side])
    return high_water_mib() - before


def high_water_mib() -> float:
    """The most resident memory that this process has had (``getrusage`` counts its parent's before the exec too)."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024


def ratio(measured: list[tuple[float, float]]) -> float:
    """Median over pairs of the reference's time by ours."""
    return statistics.median(theirs / ours for ours, theirs in measured)


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", type=Path, default=ZINC, help="ZINC250k beside the repository by default")
    parser.add_argument("--molecules", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if not options.input.exists():
        parser.error(f"{options.input} is not there: give a dataset or a file of SMILES")
    torch.set_num_threads(options.threads)
    batch = load_batch(options.input, options.molecules)
    counts = batch.ptr.diff()
    print(
        f"{batch.num_graphs} molecules of {options.input.name}, {counts.float().mean():.1f} atoms each, at most "
        f"{int(counts.max())}; {options.threads} threads; largest difference in float64 {disagreement(batch):.1e}",
        flush=True,
    )

    sides = build(dropout=0.1)
    whole = taking_turns(whole_steps(sides, batch), sides, options.pairs)
    for pair, (ours, theirs) in enumerate(whole):
        print(f"pair {pair}: faithful {ours:.2f} s, reference {theirs:.2f} s, ratio {theirs / ours:.2f}")
    for name, steps in part_steps(sides, batch):
        measured = taking_turns(steps, sides, options.pairs)
        ours, theirs = (statistics.median(column) for column in zip(*measured, strict=True))
        print(f"{name}: faithful {ours:.3f} s, reference {theirs:.3f} s, ratio {ratio(measured):.2f}", flush=True)
    for side, name in enumerate(NAMES):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            peak = process.submit(peak_memory_mib, side, batch, options.threads).result()
        print(f"peak memory of a step: {name} {peak:.0f} MiB")
    print(f"compared: forward and backward of the whole loss; medians of {options.pairs} pairs")
    print(f"figure molecules_per_s {batch.num_graphs / statistics.median(ours for ours, _ in whole):.1f}")
    print(f"figure faithful_vs_reference {ratio(whole):.2f}")


if __name__ == "__main__":
    main()

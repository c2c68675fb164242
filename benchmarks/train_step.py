"""Compares forward and backward of MoleculeSDE as published with a plain reference that uses PyG's layers.

First it checks in float64 that both compute the same numbers from the same weights, batch and random draws. Then they
take turns in float32 at the paper's sizes, with the corrected form at the sizes of `--model` as a third. The batch has
molecules of ZINC250k with a conformer each, featurized once and cached in the folder for temporary files, or the first
molecules of a dataset of `molstream preprocess`.

    python benchmarks/train_step.py [DATASET | FILE.smi[.gz|.bz2|.xz]] [--molecules 256] [--pairs 5] [--threads 2]
        [--model small]
"""

import argparse
import itertools
import multiprocessing
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from preprocess import ZINC, read_smiles
from reference.moleculesde import ReferenceMoleculeSDE, draw
from reference.parameters import as_reference
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from molstream.compose import compose
from molstream.pipeline.shards.codec import encode
from molstream.pipeline.shards.columns import Columns
from molstream.pipeline.shards.reader import ShardDataset
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import SCHEMA_VERSION, MoleculeSample
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.collate import COLLATED_FIELDS, collate
from molstream.training.evaluation.config import CostConfig
from molstream.training.models.encoders import EncodedOnce
from molstream.training.module import PretrainingModule, build_module
from molstream.training.objectives.moleculesde_paper import PaperMoleculeSDE

Step = Callable[[], Tensor]
"""Computes a loss to be differentiated."""
Forms = dict[str, nn.Module]
"""Modules that take turns, by name: faithful, reference and corrected."""
Measured = dict[str, list[float]]
"""Seconds of each form, by turn."""


def load_batch(path: Path, count: int) -> MoleculeBatch:
    """Load the first ``count`` molecules with a conformer of a dataset, or of a file of SMILES."""
    if path.is_dir():
        return collated(ShardDataset(path).read_rows(np.arange(count), COLLATED_FIELDS))
    cache = Path(tempfile.gettempdir()) / f"molstream-train-step-{SCHEMA_VERSION}-{path.name}-{count}.safetensors"
    if not cache.is_file():
        results = (featurize(raw, FeaturizeConfig()) for raw in read_smiles(path, 2 * count))
        samples = (result for result in results if isinstance(result, MoleculeSample) and len(result.positions))
        record = encode(list(itertools.islice(samples, count)))
        batch = collated(Columns.from_batch(record, COLLATED_FIELDS))
        save_file(batch.tensors(), cache)
    return MoleculeBatch(**load_file(cache))


def collated(columns: Columns) -> MoleculeBatch:
    """Collate molecules with their first conformers."""
    return collate(columns, np.arange(columns.num_rows), np.zeros(columns.num_rows, np.uint64))


def build(dropout: float) -> tuple[PretrainingModule, ReferenceMoleculeSDE]:
    """Build the faithful form at the paper's sizes and the reference with the same weights, in training mode."""
    settings = ["model=paper", "objective=moleculesde_paper", f"model.position_score.dropout={dropout}"]
    config = compose("doctor", CostConfig, settings)
    model, objective = config.model, config.objective
    ours = build_module(model, objective, seed=0).train()
    reference = ReferenceMoleculeSDE(model, objective.chosen()["moleculesde_paper"]).train()
    reference.load_state_dict(as_reference(ours.state_dict()))
    return ours, reference


def build_forms(preset: str) -> Forms:
    """Build all three forms, with the paper's dropout in the first two."""
    ours, reference = build(dropout=0.1)
    config = compose("doctor", CostConfig, [f"model={preset}", "objective=moleculesde"])
    corrected = build_module(config.model, config.objective, seed=0).train()
    return {"faithful": ours, "reference": reference, "corrected": corrected}


def step_of(form: nn.Module, batch: MoleculeBatch) -> Step:
    """Create the function that computes a form's whole loss, with draws by a fixed seed."""
    if isinstance(form, ReferenceMoleculeSDE):
        return lambda: form(batch, draw(batch, seeded()))[0]
    return lambda: form(batch, seeded()).loss


def seeded() -> torch.Generator:
    """Create the generator of the draws of each step."""
    return torch.Generator().manual_seed(1)


def disagreement(batch: MoleculeBatch) -> float:
    """Largest difference of loss and gradients in float64, relative to the tensor's largest entry (or to one)."""
    ours, reference = (side.double() for side in build(dropout=0.0))
    in_double = replace(batch, pos=batch.pos.double())
    losses = [step_of(side, in_double)() for side in (ours, reference)]
    for loss in losses:
        loss.backward()
    found = [(losses[0], losses[1])]
    gradients = as_reference({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    for name, parameter in reference.named_parameters():
        found.append((gradients[name], torch.zeros_like(parameter) if parameter.grad is None else parameter.grad))
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1.0)).item() for a, b in found)


def our_parts(form: PretrainingModule, batch: MoleculeBatch) -> dict[str, Step]:
    """Split our step into parts: encoders on the batch, the rest on the encoders' outputs as leaves."""
    encoders = form.encoders
    graph = (batch.x, batch.edge_index, batch.edge_attr, batch.batch)
    geometry = (batch.x[:, 0], batch.pos, batch.batch)
    with torch.no_grad():
        z_2d, z_3d = encoders.encoder_2d(*graph), encoders.encoder_3d(*geometry)
    leaves = EncodedOnce(encoders)
    leaves._found = {"2d": z_2d.requires_grad_(), "3d": z_3d.requires_grad_()}
    return {
        "2D encoder": lambda: encoders.encoder_2d(*graph).sum(),
        "3D encoder": lambda: encoders.encoder_3d(*geometry).sum(),
        **heads(next(iter(form.objective.parts.values())), batch, leaves),
    }


def heads(objective: Any, batch: MoleculeBatch, leaves: EncodedOnce) -> dict[str, Step]:
    """The terms of an objective on representations that are there."""
    if isinstance(objective, PaperMoleculeSDE):
        z_2d, z_3d = leaves._found.values()
        return {
            "2D to 3D": lambda: objective._position_term(batch, z_2d, seeded()).loss,
            "3D to 2D": lambda: objective._graph_term(batch, z_3d, seeded()).loss,
            "contrast": lambda: objective._contrastive_term(batch, leaves, z_2d, z_3d, seeded()).loss,
        }
    return {
        "2D to 3D": lambda: objective._position_term(batch, leaves, seeded()).loss,
        "3D to 2D": lambda: objective._bond_term(batch, leaves, seeded()).loss,
        "contrast": lambda: objective._contrastive_term(batch, leaves, seeded()).loss,
    }


def reference_parts(form: ReferenceMoleculeSDE, batch: MoleculeBatch) -> dict[str, Step]:
    """Split the reference's step into the same parts."""
    graph, geometry = (batch.x, batch.edge_index, batch.edge_attr), (batch.x[:, 0], batch.pos, batch.batch)
    with torch.no_grad():
        z_2d, z_3d = form.encoder_2d(*graph), form.encoder_3d(*geometry)
    z_2d, z_3d = z_2d.requires_grad_(), z_3d.requires_grad_()
    draws = draw(batch, seeded())
    return {
        "2D encoder": lambda: form.encoder_2d(*graph).sum(),
        "3D encoder": lambda: form.encoder_3d(*geometry).sum(),
        "2D to 3D": lambda: form.position_loss(batch, z_2d, draws),
        "3D to 2D": lambda: torch.stack(form.graph_loss(batch, z_3d, draws)).mean(),
        "contrast": lambda: form.contrastive_loss(z_2d, z_3d, draws),
    }


def parts_of(form: nn.Module, batch: MoleculeBatch) -> dict[str, Step]:
    """Split the step of any form into parts with the same names."""
    return reference_parts(form, batch) if isinstance(form, ReferenceMoleculeSDE) else our_parts(form, batch)


def seconds(step: Step, form: nn.Module) -> float:
    """Measure the wall time of one forward and backward, in seconds."""
    form.zero_grad(set_to_none=True)
    start = time.perf_counter()
    step().backward()
    return time.perf_counter() - start


def taking_turns(steps: dict[str, Step], forms: Forms, turns: int) -> Measured:
    """Measure all forms in turns, after one turn of warm-up."""
    measured: Measured = {name: [] for name in forms}
    for _ in range(turns + 1):
        for name, form in forms.items():
            measured[name].append(seconds(steps[name], form))
    return {name: times[1:] for name, times in measured.items()}


def peak_memory_mib(name: str, preset: str, batch: MoleculeBatch, threads: int) -> float:
    """Measure by how much one whole step raises the peak memory of a new process, in MiB."""
    torch.set_num_threads(threads)
    form = build_forms(preset)[name]
    before = high_water_mib()
    seconds(step_of(form, batch), form)
    return high_water_mib() - before


def high_water_mib() -> float:
    """Peak resident memory of this process in MiB (``getrusage`` would include that of its parent before the exec)."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))[0]) / 1024


def ratio(measured: Measured) -> float:
    """Median over turns of the reference's time divided by the faithful form's."""
    pairs = zip(measured["faithful"], measured["reference"], strict=True)
    return statistics.median(theirs / ours for ours, theirs in pairs)


def formatted(measured: Measured) -> str:
    """Format the median times and their ratio."""
    times = ", ".join(f"{name} {statistics.median(values):.3f} s" for name, values in measured.items())
    return f"{times}; reference / faithful {ratio(measured):.2f}"


def options_of(description: str | None, molecules: int, turns: int, preset: str) -> argparse.Namespace:
    """Read the command line, by these defaults, and set the number of threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", type=Path, default=ZINC, help="default: ZINC250k next to the repository")
    parser.add_argument("--molecules", type=int, default=molecules)
    parser.add_argument("--pairs", type=int, default=turns)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default=preset, help="preset of our own form")
    options = parser.parse_args()
    if not options.input.exists():
        parser.error(f"{options.input} does not exist: give a dataset or a file of SMILES")
    torch.set_num_threads(options.threads)
    return options


def describe(options: argparse.Namespace, batch: MoleculeBatch, difference: float) -> None:
    """Print what is compared, and how far the forms are apart in float64."""
    counts = batch.ptr.diff()
    print(
        f"{batch.num_graphs} molecules of {options.input.name}, {counts.float().mean():.1f} atoms each, at most "
        f"{int(counts.max())}; {options.threads} threads; largest difference in float64 {difference:.1e}",
        flush=True,
    )


def main() -> None:
    """Run the comparison and print the figures."""
    options = options_of(__doc__, 256, 5, "small")
    batch = load_batch(options.input, options.molecules)
    describe(options, batch, disagreement(batch))
    forms = build_forms(options.model)
    whole = taking_turns({name: step_of(form, batch) for name, form in forms.items()}, forms, options.pairs)
    for turn in range(options.pairs):
        print(f"turn {turn}: {formatted({name: values[turn : turn + 1] for name, values in whole.items()})}")
    parts = {name: parts_of(form, batch) for name, form in forms.items()}
    for part in parts["faithful"]:
        steps = {name: of_form[part] for name, of_form in parts.items()}
        print(f"{part}: {formatted(taking_turns(steps, forms, options.pairs))}", flush=True)
    for name in forms:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            peak = process.submit(peak_memory_mib, name, options.model, batch, options.threads).result()
        print(f"peak memory of a step: {name} {peak:.0f} MiB")
    print(f"compared: forward and backward of the whole loss; medians of {options.pairs} turns")
    for name in forms:
        print(f"figure molecules_per_s_{name} {batch.num_graphs / statistics.median(whole[name]):.1f}")
    print(f"figure faithful_vs_reference {ratio(whole):.2f}")


if __name__ == "__main__":
    main()

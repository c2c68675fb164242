"""Compares forward and backward of MoleBLEND as published with a plain reference that follows its formulas literally.

The reference builds dense pair tensors on the CPU, molecule by molecule, and outer products in its heads. First it is
checked in float64 that both compute the same loss and gradients from the same weights, batch and draws. Then they take
turns in float32, without dropout; our own form, at the sizes of `--model`, is a third. The molecules are those of
`benchmarks/train_step.py`.

    python benchmarks/moleblend.py [DATASET | FILE.smi[.gz|.bz2|.xz]] [--molecules 128] [--pairs 3] [--threads 2]
        [--model moleblend_mini]
"""

import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import torch
from reference.moleblend import ReferenceMoleBLEND
from reference.moleblend_graph import collate
from reference.moleblend_parameters import as_draws, as_reference
from torch import nn
from train_step import (
    Forms,
    Measured,
    Step,
    describe,
    high_water_mib,
    load_batch,
    options_of,
    seconds,
    seeded,
    taking_turns,
)

from molstream.compose import compose
from molstream.training.data.batch import MoleculeBatch
from molstream.training.evaluation.config import CostConfig
from molstream.training.models.config import PaperBlendTransformerConfig
from molstream.training.module import PretrainingModule, build_module
from molstream.training.objectives.moleblend import MoleBLEND

WITHOUT_DROPOUT = [
    f"model.blend_transformer_paper.{name}=0" for name in ("attention_dropout", "activation_dropout", "path_dropout")
]


def built(model: str, *more: str) -> PretrainingModule:
    """Our module with MoleBLEND, in training mode."""
    config = compose("doctor", CostConfig, [f"model={model}", "objective=moleblend", *more])
    return build_module(config.model, config.objective, seed=0).train()


def both(*more: str) -> tuple[PretrainingModule, ReferenceMoleBLEND]:
    """The published form, and the reference with its weights."""
    ours = built("moleblend_paper", *WITHOUT_DROPOUT, *more)
    sizes = encoder_sizes(ours)
    reference = ReferenceMoleBLEND(
        sizes.num_layers, sizes.hidden, sizes.feed_forward, sizes.num_heads, sizes.num_gaussians
    )
    reference.load_state_dict(as_reference(ours.state_dict()))
    return ours, reference.train()


def encoder_sizes(module: PretrainingModule) -> PaperBlendTransformerConfig:
    """The sizes of the published encoder of a module."""
    return module.encoders.encoder_both.blocks[0].config


def blend_of(module: PretrainingModule) -> MoleBLEND:
    """The objective of a module."""
    [objective] = module.objective.parts.values()
    assert isinstance(objective, MoleBLEND)
    return objective


def step_of(form: nn.Module, batch: MoleculeBatch, draws_of: PretrainingModule) -> Step:
    """Create the function that computes a form's loss; the reference takes the draws of ``draws_of``."""
    if isinstance(form, ReferenceMoleBLEND):
        with torch.no_grad():
            draws = as_draws(blend_of(draws_of).recover(batch, draws_of.encoders, seeded()), batch)
        return lambda: form(collate(batch), draws)[0]
    return lambda: form(batch, seeded()).loss


def disagreement(batch: MoleculeBatch) -> float:
    """Largest difference of loss and gradients in float64, relative to the tensor's largest entry (or to one)."""
    narrow = [f"model.blend_transformer_paper.{size}" for size in ("hidden=192", "feed_forward=192", "num_layers=3")]
    ours, reference = (side.double() for side in both(*narrow))
    in_double = replace(batch, pos=batch.pos.double())
    losses = [step_of(side, in_double, ours)() for side in (ours, reference)]
    for loss in losses:
        loss.backward()
    found = [(losses[0], losses[1])]
    gradients = as_reference({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    for name, parameter in reference.named_parameters():
        assert parameter.grad is not None, name
        found.append((gradients[name], parameter.grad))
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1.0)).item() for a, b in found)


def forms(preset: str) -> Forms:
    """Build all three forms."""
    ours, reference = both()
    return {"published": ours, "reference": reference, "ours": built(preset)}


def peak_memory_mib(name: str, preset: str, batch: MoleculeBatch, threads: int) -> float:
    """Measure by how much one whole step raises the peak memory of a new process, in MiB."""
    torch.set_num_threads(threads)
    found = forms(preset)
    published = found["published"]
    assert isinstance(published, PretrainingModule)
    step = step_of(found[name], batch, published)
    before = high_water_mib()
    seconds(step, found[name])
    return high_water_mib() - before


def ratio(measured: Measured) -> float:
    """Median over turns of the reference's time divided by that of the published form."""
    pairs = zip(measured["published"], measured["reference"], strict=True)
    return statistics.median(theirs / ours for ours, theirs in pairs)


def main() -> None:
    """Run the comparison and print the figures."""
    options = options_of(__doc__, 128, 3, "moleblend_mini")
    batch = load_batch(options.input, options.molecules)
    describe(options, batch, disagreement(batch))
    found = forms(options.model)
    published = found["published"]
    assert isinstance(published, PretrainingModule)
    steps = {name: step_of(form, batch, published) for name, form in found.items()}
    measured = taking_turns(steps, found, options.pairs)
    for turn in range(options.pairs):
        print(", ".join(f"{name} {times[turn]:.2f} s" for name, times in measured.items()))
    del found, published, steps
    peaks = {}
    for name in measured:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            peaks[name] = process.submit(peak_memory_mib, name, options.model, batch, options.threads).result()
        print(f"peak memory of a step: {name} {peaks[name]:.0f} MiB", flush=True)
    for name, times in measured.items():
        print(f"figure molecules_per_s_{name} {batch.num_graphs / statistics.median(times):.1f}")
    print(f"figure vs_reference {ratio(measured):.2f}")
    print(f"figure memory_vs_reference {peaks['published'] / peaks['reference']:.3f}")


if __name__ == "__main__":
    main()

"""Diagnostics of a trained module: losses by noise level, representations, and gradients by branch.

Measures of representations are the alignment of 2D and 3D, their uniformity and effective rank, and a lower bound of
their mutual information. Gradient norms show which branch of the objective dominates the encoders' training. Symbols of
shapes: ``g`` molecules, ``d`` width of a representation.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from molstream.errors import ConfigError, DataError
from molstream.randomness import keyed_seed
from molstream.training.data.batch import MoleculeBatch
from molstream.training.evaluation.blend_diagnostics import BlendDiagnosis, BlendRecorder
from molstream.training.models.config import ModelConfig
from molstream.training.models.encoders import Encoders
from molstream.training.models.graph import segment_mean
from molstream.training.module import PretrainingModule
from molstream.training.objectives.base import Term
from molstream.training.objectives.contrastive import info_nce
from molstream.training.objectives.moleblend import MoleBLEND

NUM_DECILES = 10
TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Temperatures that divide cosine similarities in :func:`information_bound`."""


@dataclass(frozen=True)
class Decile:
    """Molecules whose diffusion time is in one tenth of its range."""

    molecules: int
    """Number of molecules in this tenth."""
    loss: float | None
    """Mean loss of these molecules; None if there are none."""


NEARLY_ALL = 0.9
"""Share of the largest bound above which a contrast has little left to teach."""
USED_UP = (
    "the contrast is used up: what a micro-batch holds is told apart nearly as well as so little can be, and size and "
    "composition suffice for that. Give it more negatives (data.micro_batch) or a smaller contrastive_coefficient."
)


@dataclass(frozen=True)
class Diagnosis:
    """Results of :func:`diagnose`: plain numbers that can be written as JSON."""

    molecules: int
    """Number of molecules with a conformer, over all batches."""
    metrics: dict[str, float]
    """Metrics of the objective, such as contrastive accuracy; means over batches."""
    deciles: dict[str, list[Decile]]
    """Denoising losses by name, from low to high noise."""
    gradient_norm: dict[str, dict[str, float]]
    """Norms of :func:`gradient_norms` by branch and encoder; means over batches."""
    alignment: float
    """Result of :func:`alignment` of 2D and 3D representations."""
    uniformity: dict[str, float]
    """Result of :func:`uniformity` by modality, 2d and 3d."""
    effective_rank: dict[str, float]
    """Result of :func:`effective_rank` by modality, 2d and 3d."""
    information_bound: float
    """Result of :func:`information_bound` in nats at the best of ``TEMPERATURES``, of the rows that a contrast
    compares, of molecules' representations without one; mean over batches."""
    largest_bound: float
    """Largest possible value of the bound in nats: the logarithm of the number of compared rows in a batch."""
    blend: BlendDiagnosis | None = None
    """What MoleBLEND recovers of what it was not shown; None without `objective=moleblend`."""
    warnings: list[str] = field(default_factory=list)
    """What should be changed, a sentence each."""


def alignment(x: Tensor, y: Tensor) -> float:
    """Mean squared distance of normalised representations x [g, d] and y [g, d] of the same molecules.

    Wang and Isola 2020, equation 4 with alpha = 2: 0 if they are equal, 2 if they are orthogonal, at most 4.
    """
    return (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean().item()


def uniformity(x: Tensor) -> float:
    """Logarithm of the mean of exp(-2 |u - v|^2) over all pairs of different normalised rows u, v of x [g, d].

    Wang and Isola 2020, equation 5 with t = 2: 0 if all representations are equal, about -4 if they cover a sphere of
    many dimensions uniformly.
    """
    squared = torch.pdist(F.normalize(x, dim=1)).square()
    return (torch.logsumexp(-2.0 * squared, 0) - math.log(squared.numel())).item()


def effective_rank(x: Tensor) -> float:
    """Exponential of the entropy of the singular values of centred x [g, d], normalised to sum 1.

    Roy and Vetterli 2007, definition 1: the number of directions in which representations differ, from 1 to
    min(g - 1, d).
    """
    values = torch.linalg.svdvals(x - x.mean(0))
    share = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(share).sum().exp().item()


def information_bound(x: Tensor, y: Tensor, temperature: float) -> float:
    """Lower bound log g - L, in nats, of the mutual information of representations x, y [g, d] of the same molecules.

    L is the InfoNCE loss of their cosine similarities divided by ``temperature``, averaged over both directions (van
    den Oord et al. 2018, section 2.3). In expectation it is a bound for any similarity, and at most log g.
    """
    loss, _ = info_nce(F.normalize(x, dim=1), F.normalize(y, dim=1), temperature, torch.Generator())
    return math.log(len(x)) - loss.item()


def by_decile(losses: Tensor, time: Tensor) -> list[Decile]:
    """Group molecules with ``losses`` [g] by the tenth of [0, 1] of their diffusion times [g]."""
    decile = (NUM_DECILES * time).long().clamp(max=NUM_DECILES - 1)
    counts = torch.bincount(decile, minlength=NUM_DECILES).tolist()
    totals = torch.bincount(decile, losses.double(), minlength=NUM_DECILES).tolist()
    return [Decile(count, total / count if count else None) for count, total in zip(counts, totals, strict=True)]


def gradient_norms(terms: Mapping[str, Term], encoders: Encoders) -> dict[str, dict[str, float]]:
    """Compute the L2 norm of each weighted term's gradient on each encoder's parameters, by branch and encoder."""
    parts = {name: list(encoder.parameters()) for name, encoder in encoders.named_children()}
    parameters = [parameter for part in parts.values() for parameter in part]
    norms = {}
    for branch, term in terms.items():
        weighted = term.coefficient * term.loss
        gradients = iter(torch.autograd.grad(weighted, parameters, retain_graph=True, materialize_grads=True))
        norms[branch] = {
            name: math.sqrt(sum(next(gradients).double().square().sum().item() for _ in part))
            for name, part in parts.items()
        }
    return norms


def representations(batch: MoleculeBatch, encoders: Encoders) -> tuple[Tensor, Tensor]:
    """Compute the means over atoms of 2D and 3D representations, float32 [g, d], of the molecules with a conformer."""
    pooled = (segment_mean(encoders.nodes(name, batch), batch.batch, batch.num_graphs) for name in ("2d", "3d"))
    x, y = (rows[batch.has_pos].float() for rows in pooled)
    return x, y


def require_comparable(model: ModelConfig) -> None:
    """Check that 2D and 3D representations of atoms can be compared.

    Raises:
        ConfigError: the model has one encoder only, or two of different widths.
    """
    if len(model.encoders()) < 2 or model.hidden_2d != model.hidden_3d:
        widths = ", ".join(f"{name} of width {getattr(model, name).hidden}" for name in model.encoders().values())
        raise ConfigError(
            f"diagnose compares representations of a 2D and a 3D encoder of the same width; this run has {widths}."
        )


def diagnose(
    module: PretrainingModule,
    batches: Iterable[MoleculeBatch],
    seed: int,
    watch: Callable[[int], None] = lambda done: None,
) -> Diagnosis:
    """Compute the diagnostics of a module in evaluation mode: BatchNorm uses running statistics, no dropout.

    Args:
        module: encoders and objective.
        batches: molecules, on the module's device; batches with fewer than two conformers are skipped.
        seed: random seed of noise and times.
        watch: called with the number of batches done.

    Raises:
        DataError: no batch has two conformers.
    """
    metrics: list[dict[str, float]] = []
    denoised: dict[str, list[tuple[Tensor, Tensor]]] = {}
    norms: list[dict[str, dict[str, float]]] = []
    pairs: list[tuple[Tensor, Tensor]] = []
    compared: list[tuple[Tensor, Tensor]] = []
    contrasted = False
    blends = [part for part in module.objective.parts.values() if isinstance(part, MoleBLEND)]
    recorder = BlendRecorder()
    for number, batch in enumerate(batches):
        if int(batch.has_pos.sum()) >= 2:
            generator = torch.Generator(batch.pos.device).manual_seed(keyed_seed(seed, number))
            terms = module.objective.terms(batch, module.encoders, generator)
            metrics.append({name: value.item() for term in terms.values() for name, value in term.metrics.items()})
            for name, losses, time in _denoised(terms):
                kept = losses[batch.has_pos].detach().cpu(), time[batch.has_pos].cpu()
                denoised.setdefault(name, []).append(kept)
            norms.append(gradient_norms(terms, module.encoders))
            with torch.no_grad():
                pairs.append(representations(batch, module.encoders))
                for part in blends:
                    recorder.add(part.recover(batch, module.encoders, generator), batch.has_pos)
            contrasts = [term.compared for term in terms.values() if term.compared is not None]
            x, y = contrasts[0] if contrasts else pairs[-1]
            compared.append((x.detach(), y.detach()))
            contrasted = bool(contrasts)
        watch(number + 1)
    if not pairs:
        raise DataError("no batch has two molecules with a conformer: give more batches, or a dataset with conformers.")
    x, y = (torch.cat(side).cpu() for side in zip(*pairs, strict=True))
    bounds = [[information_bound(a, b, temperature) for a, b in compared] for temperature in TEMPERATURES]
    # Every temperature gives a bound; the largest one is the tightest.
    bound, largest = float(np.mean(bounds, axis=1).max()), float(np.mean([math.log(len(a)) for a, _ in compared]))
    return Diagnosis(
        molecules=len(x),
        metrics={name: float(np.mean([record[name] for record in metrics])) for name in metrics[0]},
        deciles={
            name: by_decile(*(torch.cat(part) for part in zip(*parts, strict=True))) for name, parts in denoised.items()
        },
        gradient_norm={
            branch: {encoder: float(np.mean([norm[branch][encoder] for norm in norms])) for encoder in of_encoders}
            for branch, of_encoders in norms[0].items()
        },
        alignment=alignment(x, y),
        uniformity={"2D": uniformity(x), "3D": uniformity(y)},
        effective_rank={"2D": effective_rank(x), "3D": effective_rank(y)},
        information_bound=bound,
        largest_bound=largest,
        blend=recorder.diagnosis() if blends else None,
        warnings=[USED_UP] if bound > NEARLY_ALL * largest and contrasted else [],
    )


def _denoised(terms: Mapping[str, Term]) -> list[tuple[str, Tensor, Tensor]]:
    """List the name, losses [g] and times [g] of each denoising loss."""
    return [
        (name, losses, term.time)
        for term in terms.values()
        if term.time is not None
        for name, losses in term.per_molecule.items()
    ]

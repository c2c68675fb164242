"""What a trained module has learned, beyond its loss: measures of representations, of noise levels and of branches.

Losses by noise level; how well 2D and 3D representations of a molecule find each other, how evenly they spread and how
many directions they use; what they tell of each other at least; and which branch of the objective pulls the encoders.
Symbols of shapes: ``g`` molecules, ``d`` width of a representation.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from molstream.errors import DataError
from molstream.randomness import keyed_seed
from molstream.training.data.batch import MoleculeBatch
from molstream.training.models.encoders import Encoders
from molstream.training.module import PretrainingModule
from molstream.training.objectives.base import Term
from molstream.training.objectives.contrastive import info_nce

NUM_DECILES = 10
TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""What cosine similarities are divided by in :func:`information_bound`."""


@dataclass(frozen=True)
class Decile:
    """The molecules whose diffusion time is in one tenth of its range."""

    molecules: int
    loss: float | None
    """Their mean loss; None where there is none of them."""


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`diagnose` found; plain numbers, ready for JSON."""

    molecules: int
    """How many had a conformer, in all batches."""
    metrics: dict[str, float]
    """The objective's own, contrastive accuracy among them; means over batches."""
    deciles: dict[str, list[Decile]]
    """Denoising losses by name, from little noise to much."""
    gradient_norm: dict[str, dict[str, float]]
    """:func:`gradient_norms` by branch and encoder; means over batches."""
    alignment: float
    """:func:`alignment` of 2D and 3D."""
    uniformity: dict[str, float]
    """:func:`uniformity` by modality."""
    effective_rank: dict[str, float]
    """:func:`effective_rank` by modality."""
    information_bound: float
    """:func:`information_bound` in nats at the best of ``TEMPERATURES``; mean over batches."""
    largest_bound: float
    """log of the molecules in a batch, in nats: the bound cannot tell of more."""


def alignment(x: Tensor, y: Tensor) -> float:
    """Mean squared distance of x [g, d] and y [g, d], two representations of the same molecules, at length one.

    Wang and Isola 2020, equation 4 with alpha = 2: from 0, where they agree, over 2, where they are orthogonal, to 4.
    """
    return (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean().item()


def uniformity(x: Tensor) -> float:
    """log of the mean of exp(-2 |u - v|^2) over all pairs of different rows u, v of x [g, d], at length one.

    Wang and Isola 2020, equation 5 with t = 2: from 0, where all representations are the same, down to about -4, where
    they cover the sphere of many dimensions evenly.
    """
    squared = torch.pdist(F.normalize(x, dim=1)).square()
    return (torch.logsumexp(-2.0 * squared, 0) - math.log(squared.numel())).item()


def effective_rank(x: Tensor) -> float:
    """exp of the entropy of the singular values of x [g, d] less its mean row, taken as shares of their sum.

    Roy and Vetterli 2007, definition 1: the number of directions in which representations differ, from 1 to
    min(g - 1, d).
    """
    values = torch.linalg.svdvals(x - x.mean(0))
    share = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(share).sum().exp().item()


def information_bound(x: Tensor, y: Tensor, temperature: float) -> float:
    """log g - L in nats, a lower bound of the mutual information of the two representations x, y [g, d] of a molecule.

    L is the InfoNCE loss of their cosine similarities over ``temperature``, the mean of both directions (van den Oord
    et al. 2018, section 2.3). In expectation it is a bound whatever the similarity, and never more than log g.
    """
    loss, _ = info_nce(F.normalize(x, dim=1), F.normalize(y, dim=1), temperature, torch.Generator())
    return math.log(len(x)) - loss.item()


def by_decile(losses: Tensor, time: Tensor) -> list[Decile]:
    """Molecules with ``losses`` [g] at diffusion times [g] in [0, 1], by the tenth of that range they are in."""
    decile = (NUM_DECILES * time).long().clamp(max=NUM_DECILES - 1)
    counts = torch.bincount(decile, minlength=NUM_DECILES).tolist()
    totals = torch.bincount(decile, losses.double(), minlength=NUM_DECILES).tolist()
    return [Decile(count, total / count if count else None) for count, total in zip(counts, totals, strict=True)]


def gradient_norms(terms: Mapping[str, Term], encoders: Encoders) -> dict[str, dict[str, float]]:
    """L2 norm of each weighted term's gradient with respect to each encoder's parameters, by branch and encoder."""
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
    """Pooled 2D and 3D representations [g, d] of the molecules that have a conformer, float32."""
    nodes_2d = encoders.encoder_2d(batch.x, batch.edge_index, batch.edge_attr, batch.batch)
    nodes_3d = encoders.encoder_3d(batch.x[:, 0], batch.pos, batch.batch)
    pooled_2d = encoders.encoder_2d.readout(nodes_2d, batch.batch, batch.num_graphs)
    pooled_3d = encoders.encoder_3d.readout(nodes_3d, batch.batch, batch.num_graphs)
    return pooled_2d[batch.has_pos].float(), pooled_3d[batch.has_pos].float()


def diagnose(
    module: PretrainingModule,
    batches: Iterable[MoleculeBatch],
    seed: int,
    watch: Callable[[int], None] = lambda done: None,
) -> Diagnosis:
    """Measure a module in evaluation mode: BatchNorm with its running statistics, no dropout.

    Args:
        module: encoders and objective.
        batches: molecules, on the module's device; a batch with fewer than two conformers is passed over.
        seed: where noise and times come from.
        watch: told how many batches are done.

    Raises:
        DataError: no batch has two conformers.
    """
    metrics: list[dict[str, float]] = []
    denoised: dict[str, list[tuple[Tensor, Tensor]]] = {}
    norms: list[dict[str, dict[str, float]]] = []
    pairs: list[tuple[Tensor, Tensor]] = []
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
        watch(number + 1)
    if not pairs:
        raise DataError("no batch has two molecules with a conformer: give more batches, or a dataset with conformers.")
    x, y = (torch.cat(side).cpu() for side in zip(*pairs, strict=True))
    bounds = [[information_bound(a, b, temperature) for a, b in pairs] for temperature in TEMPERATURES]
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
        # Every temperature gives a bound; the largest mean tells most.
        information_bound=float(np.mean(bounds, axis=1).max()),
        largest_bound=float(np.mean([math.log(len(a)) for a, _ in pairs])),
    )


def _denoised(terms: Mapping[str, Term]) -> list[tuple[str, Tensor, Tensor]]:
    """Name, losses [g] and times [g] of every denoising loss."""
    return [
        (name, losses, term.time)
        for term in terms.values()
        if term.time is not None
        for name, losses in term.per_molecule.items()
    ]

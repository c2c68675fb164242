"""Codes of the modalities of molecules: auto-encoders with one code space, and the losses that align the codes.

Symbols of shapes: ``g`` molecules, ``M`` modalities, ``f`` width of features, ``d`` width of codes. A molecule may lack
modalities; ``present``, bool [g, M], says which it has.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molstream.training.data.batch import MoleculeBatch
from molstream.training.models.graph import in_float32
from molstream.training.objectives.base import graph_mean
from molstream.training.objectives.contrastive import info_nce


class AutoEncoder(nn.Module):
    """x = LN(tanh(A v)), its code c = tanh(E x), and a decoder D of codes to x, for the vectors v of one modality.

    The norm has no weights, so that x keeps its size.

    Args:
        width: of v.
        features: f.
        code: d.
    """

    def __init__(self, width: int, features: int, code: int):
        super().__init__()
        self.project = nn.Linear(width, features)
        self.norm = nn.LayerNorm(features, elementwise_affine=False)
        self.encode = nn.Linear(features, code)
        self.decode = nn.Linear(code, features)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Compute x [g, f] and c [g, d], float32 at least, of vectors [g, width]."""
        x = self.norm(torch.tanh(in_float32(self.project(vectors))))
        return x, torch.tanh(in_float32(self.encode(x)))


class Codes(NamedTuple):
    """What auto-encoders make of a batch."""

    x: Tensor
    """[g, M, f]: features, which are reconstructed."""
    c: Tensor
    """[g, M, d]: codes."""
    present: Tensor
    """bool [g, M]."""


class AutoEncoders(nn.Module):
    """One :class:`AutoEncoder` for each modality, all with the same code space.

    Args:
        widths: of the vectors, by modality.
        features: f.
        code: d.
    """

    def __init__(self, widths: Mapping[str, int], features: int, code: int):
        super().__init__()
        self.of = nn.ModuleDict({name: AutoEncoder(width, features, code) for name, width in widths.items()})

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities, in the order of the dimension M."""
        return tuple(self.of)

    def forward(self, vectors: Sequence[Tensor], present: Tensor) -> Codes:
        """Encode the vectors [g, width] of each modality, of which those that are ``present`` count."""
        found = [encoder(rows) for encoder, rows in zip(self.of.values(), vectors, strict=True)]
        x, c = (torch.stack(rows, 1) for rows in zip(*found, strict=True))
        return Codes(x, c, present)

    def errors(self, codes: Codes, target: Tensor) -> Tensor:
        """Mean squared error of D_m(c_m') and the features ``target`` [g, M, f], for every (m, m'): [g, M, M]."""
        decoders: list[Any] = [encoder.decode for encoder in self.of.values()]
        decoded = (in_float32(decode(codes.c)) for decode in decoders)
        squared = [(rows - target[:, [m]]).square().mean(2) for m, rows in enumerate(decoded)]
        return torch.stack(squared, 1)


def presence(batch: MoleculeBatch, modalities: Sequence[str]) -> Tensor:
    """Which modalities each molecule of a batch has, bool [g, M]."""
    return torch.stack([batch.present(name) for name in modalities], 1)


def alignment_losses(encoders: AutoEncoders, codes: Codes, target: Tensor | None = None) -> dict[str, Tensor]:
    """Losses of the codes of one batch, by name: means over the molecules, of means over what is present of each.

    - homogeneity: MSE(c_m, c_m') of pairs of modalities.
    - reconstruction: MSE(x_m, D_m(c_m)).
    - cross_reconstruction: MSE(x_m, D_m(c_m')) of all ordered pairs, m' = m among them. It is the expectation of
      HGM2R's loss, where m' is a random permutation of m.

    Args:
        encoders: have the decoders.
        codes: of the batch.
        target: what is reconstructed; by default x without a gradient. With its gradient everything constant would be
            a minimum of all three losses.
    """
    errors = encoders.errors(codes, codes.x.detach() if target is None else target)
    both = codes.present.unsqueeze(2) & codes.present.unsqueeze(1)
    apart = (codes.c.unsqueeze(2) - codes.c.unsqueeze(1)).square().mean(3)
    different = ~torch.eye(codes.c.shape[1], dtype=torch.bool, device=codes.c.device)
    return {
        "homogeneity": mean_of_present(apart, both & different),
        "reconstruction": mean_of_present(errors.diagonal(dim1=1, dim2=2), codes.present),
        "cross_reconstruction": mean_of_present(errors, both),
    }


def mean_of_present(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of values [g, ...] over what is ``counted`` of a molecule, then over the molecules where anything is."""
    values, counted = values.flatten(1), counted.flatten(1)
    means = torch.where(counted, values, 0.0).sum(1) / counted.sum(1).clamp(min=1)
    return graph_mean(means, counted.any(1))


def contrast(c: Tensor, present: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE of the cosines of codes c [g, M, d], and its accuracy; means over the pairs of modalities.

    The rows of a pair are the molecules that have both; of each, all other rows are negatives.
    """
    pairs = (compared(c, present, a, b) for a, b in combinations(range(c.shape[1]), 2))
    found = [torch.stack(info_nce(x, y, temperature, torch.Generator())) for x, y in pairs]
    loss, accuracy = torch.stack(found).mean(0)
    return loss, accuracy


def compared(c: Tensor, present: Tensor, a: int, b: int) -> tuple[Tensor, Tensor]:
    """The normalised codes [m, d] by two modalities of the molecules that have both."""
    rows = (present[:, a] & present[:, b]).nonzero().squeeze(1)
    return F.normalize(c[:, a].index_select(0, rows), dim=1), F.normalize(c[:, b].index_select(0, rows), dim=1)


def kept(present: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Draw which of the ``present`` modalities [g, M] are kept, each with ``probability``, but at least one."""
    draw = torch.rand(present.shape, generator=generator, device=generator.device).to(present.device)
    # A draw of what is absent is never the smallest.
    draw = torch.where(present, draw, 2.0)
    return (draw < probability) | (draw == draw.amin(1, keepdim=True))


def unified(c: Tensor, counted: Tensor) -> Tensor:
    """Embedding u [g, d] of a molecule: the mean of those of its codes c [g, M, d] that are ``counted`` [g, M]."""
    weight = counted.to(c.dtype).unsqueeze(2)
    return (c * weight).sum(1) / weight.sum(1).clamp(min=1.0)


def spread(c: Tensor, present: Tensor) -> Tensor:
    """Standard deviation of codes c [g, M, d] over the molecules that have a modality; mean over entries, modalities.

    It is near 0 if the codes have collapsed.
    """
    weight = present.to(c.dtype) / present.sum(0).clamp(min=1)
    mean = (weight.unsqueeze(2) * c).sum(0)
    return (weight.unsqueeze(2) * (c - mean).square()).sum(0).sqrt().mean()

"""How well MoleBLEND recovers the relations that it was not shown, and how well one could without learning.

All numbers are of ordered pairs of which the relation in question was not shown. References are taken from the same
pairs: the most frequent class, the most frequent one among the pairs that look the same, and the mean distance of the
pairs with as many bonds between them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from molstream.training.models.blending import DISTANCE, PATH_BONDS, PATH_LENGTH, RELATIONS
from molstream.training.objectives.moleblend import MAX_HOPS, NUM_BONDS, UNKNOWN, Recovered

BIN = 0.25
"""Width in angstrom of the bins in which shown distances look the same."""
LONGEST = 12
"""Distances in angstrom from here on are one row of the table of errors."""


@dataclass(frozen=True)
class Accuracy:
    """Share of classes that are predicted."""

    count: int
    """Number of classes to predict."""
    predicted: float
    """Share that the model predicts right."""
    majority: float
    """Share that always saying the most frequent class gets right."""
    given_shown: float
    """Share that the most frequent class among all pairs of which the same is shown (the same bonds, length, or
    distance) gets right."""


@dataclass(frozen=True)
class DistanceError:
    """Mean absolute error of distances in angstrom."""

    count: int
    """Number of distances."""
    predicted: float
    """Error of the model's predictions."""
    given_length: float
    """Error of predicting the mean distance of the pairs with as many bonds between them."""


@dataclass(frozen=True)
class BlendDiagnosis:
    """What MoleBLEND recovers."""

    shown: dict[str, float]
    """Share of the pairs that each relation was shown of, and of the atoms that surroundings were shown of."""
    path_length: Accuracy | None
    """Accuracy of the lengths of paths; None if all were shown."""
    path_bonds: Accuracy | None
    """Accuracy of the bonds along paths; None if all were shown."""
    distance: DistanceError | None
    """Error of all distances; None if all were shown, or directions are predicted."""
    distance_by_angstrom: dict[str, DistanceError]
    """Errors by the true distance, in steps of one angstrom."""


class BlendRecorder:
    """Collects what MoleBLEND recovers, batch by batch."""

    def __init__(self) -> None:
        self._relation: list[Tensor] = []
        self._surroundings: list[Tensor] = []
        self._length: list[Tensor] = []
        self._bonds: list[Tensor] = []
        self._distance: list[Tensor] = []

    def add(self, found: Recovered, has_pos: Tensor) -> None:
        """Add a batch with ``has_pos`` bool [g]."""
        relation = found.blend.relation[: len(found.molecule)]
        distance = torch.linalg.vector_norm(found.truth.vector, dim=1)
        self._relation.append(relation.cpu())
        self._surroundings.append(found.blend.surroundings.cpu())
        looks = _looks(relation, found, distance)
        hidden = found.hidden(PATH_LENGTH) & (found.truth.length != UNKNOWN)
        rows = torch.stack([looks, found.truth.length, found.length.argmax(1)], dim=1)
        self._length.append(rows[hidden].cpu())
        hop = torch.arange(MAX_HOPS, device=looks.device).expand(len(looks), -1)
        of_hops = torch.stack([looks.unsqueeze(1) * MAX_HOPS + hop, found.truth.bonds, found.bonds.argmax(2)], dim=2)
        hidden = found.hidden(PATH_BONDS).unsqueeze(1) & (found.truth.bonds != UNKNOWN)
        self._bonds.append(of_hops[hidden].cpu())
        if found.geometry.dim() == 1:
            hidden = found.hidden(DISTANCE) & has_pos[found.molecule]
            values = torch.stack([distance, found.geometry, found.truth.length.to(distance)], dim=1)
            self._distance.append(values[hidden].detach().double().cpu())

    def diagnosis(self) -> BlendDiagnosis:
        """Summarise all batches."""
        relation = torch.cat(self._relation)
        shown = {name: _mean(relation == number) for number, name in enumerate(RELATIONS)}
        distances = torch.cat(self._distance) if self._distance else torch.zeros(0, 3)
        return BlendDiagnosis(
            shown={**shown, "surroundings": _mean(torch.cat(self._surroundings))},
            path_length=_accuracy(torch.cat(self._length)),
            path_bonds=_accuracy(torch.cat(self._bonds)),
            distance=_error(distances, _given_length(distances)),
            distance_by_angstrom=dict(_by_angstrom(distances, _given_length(distances))),
        )


def _looks(relation: Tensor, found: Recovered, distance: Tensor) -> Tensor:
    """int64 [2p]: a number for what is shown of a pair; equal for pairs that look the same."""
    bonds = torch.zeros_like(relation)
    for hop in found.truth.bonds.unbind(1):
        bonds = bonds * (NUM_BONDS + 1) + hop + 1
    values = torch.stack([found.truth.length + 1, bonds, (distance / BIN).long()])
    shown = values.gather(0, relation.unsqueeze(0)).squeeze(0)
    return shown * len(RELATIONS) + relation


def _accuracy(rows: Tensor) -> Accuracy | None:
    """From int64 [m, 3]: what is shown, the true class and the predicted one."""
    if not len(rows):
        return None
    looks, label, guess = rows.unbind(1)
    pairs, counts = torch.unique(torch.stack([looks, label], dim=1), dim=0, return_counts=True)
    _, group = torch.unique(pairs[:, 0], return_inverse=True)
    best = torch.zeros(int(group.max()) + 1, dtype=counts.dtype).scatter_reduce(0, group, counts, "amax")
    return Accuracy(
        count=len(rows),
        predicted=_mean(label == guess),
        majority=int(torch.bincount(label).max()) / len(rows),
        given_shown=int(best.sum()) / len(rows),
    )


def _given_length(rows: Tensor) -> Tensor:
    """The mean distance [m] of the pairs with the same class of path length, from [m, 3]."""
    length = rows[:, 2].long() + 1  # UNKNOWN is a class too
    count = torch.bincount(length).clamp(min=1)
    return (torch.bincount(length, rows[:, 0], minlength=len(count)) / count)[length]


def _error(rows: Tensor, reference: Tensor) -> DistanceError | None:
    """From [m, 3]: true distance, predicted distance, class of path length."""
    if not len(rows):
        return None
    true, guess, _ = rows.unbind(1)
    return DistanceError(len(rows), (guess - true).abs().mean().item(), (reference - true).abs().mean().item())


def _by_angstrom(rows: Tensor, reference: Tensor) -> Iterable[tuple[str, DistanceError]]:
    place = rows[:, 0].long().clamp(max=LONGEST)
    for lower in range(LONGEST + 1):
        kept = place == lower
        if (found := _error(rows[kept], reference[kept])) is not None:
            yield (f"{lower} to {lower + 1}" if lower < LONGEST else f"from {lower}"), found


def _mean(values: Tensor) -> float:
    return values.double().mean().item() if len(values) else 0.0

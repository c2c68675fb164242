"""Blending: of every two atoms an encoder sees one relation only, drawn at random (Yu et al. 2024, MoleBLEND).

Symbols of shapes: ``g`` molecules, ``n`` atoms, ``p`` unordered atom pairs; rows [2p + n] are those of
:func:`~.layout.ordered_rows`.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from molstream.training.models.layout import ordered_rows

RELATIONS = ("path length", "path bonds", "distance")
"""Relations of two atoms: number of bonds on a shortest path, the bonds along it, and the distance in space."""
PATH_LENGTH, PATH_BONDS, DISTANCE = range(3)
Modality = Literal["2d", "3d", "both"]
"""What an encoder of both modalities is shown without blending: the bond graph, elements and positions, or all."""


class Blend(NamedTuple):
    """What is shown of a batch."""

    relation: Tensor
    """int64 [2p + n]: number in RELATIONS of the relation that is shown of each ordered pair."""
    surroundings: Tensor
    """bool [n]: whether an atom's surroundings in space are shown, or its features in the bond graph."""


def draw_blend(
    pairs: Tensor,
    batch: Tensor,
    has_pos: Tensor,
    probabilities: tuple[float, float, float],
    surroundings: float,
    ordered: bool,
    generator: torch.Generator,
) -> Blend:
    """Draw the relation that is shown of each pair, and the features that are shown of each atom, independently.

    Nothing in space is shown of a molecule without positions: the other two relations then have the probabilities that
    remain, in proportion, or one half each if nothing remains.

    Args:
        pairs: int64 [2, p], all unordered pairs.
        batch: int64 [n], molecule of each atom.
        has_pos: bool [g], whether a molecule has positions.
        probabilities: of the RELATIONS, with sum 1.
        surroundings: probability that an atom's surroundings are shown.
        ordered: whether both directions of a pair have draws of their own, or one.
        generator: source of the draws.
    """
    count, num_atoms = pairs.shape[1], batch.numel()
    drawn = torch.rand(2 * count + 2 * num_atoms, generator=generator, device=generator.device).to(batch.device)
    forward, backward, itself, atoms = drawn.split([count, count, num_atoms, num_atoms])
    of_row = torch.cat([forward, backward if ordered else forward, itself])
    known = has_pos[batch]
    bounds = torch.tensor(_bounds(probabilities), dtype=drawn.dtype, device=batch.device)
    first, second = bounds[known[ordered_rows(pairs, num_atoms)[0]].long()].unbind(1)
    return Blend((of_row >= first).long() + (of_row >= second).long(), (atoms < surroundings) & known)


def _bounds(probabilities: tuple[float, float, float]) -> list[tuple[float, float]]:
    """Where the first relation ends in [0, 1] and where the second one: without positions, and with them."""
    length, bonds, _ = probabilities
    share = length / (length + bonds) if length + bonds else 0.5
    return [(share, 1.0), (length, length + bonds)]

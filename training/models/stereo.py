"""Tetrahedral stereocentres: compares the handedness of positions with the one that the bond graph specifies.

OGB's tag of an atom, clockwise or counterclockwise, is relative to the order of the atom's bonds. A permutation
equivariant network has no order of bonds, so that the tag alone is useless to it. Tag, order and positions together
give a number that is independent of the order: positive if the stereocentre is as specified, negative if inverted.

Symbols of shapes: ``n`` atoms, ``e`` directed bonds, ``s`` stereocentres.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from molstream.training.models.graph import in_float32

CHIRALITY = 1
"""Column of chirality in the OGB atom features."""
CLOCKWISE, COUNTERCLOCKWISE = 1, 2
"""Values of the chirality column for a tetrahedral stereocentre."""
CORNERS = 4


class Stereocentres(NamedTuple):
    """The s atoms with a specified tetrahedral arrangement of their three or four neighbours."""

    centre: Tensor
    """int64 [s]: atom at each stereocentre."""
    corners: Tensor
    """int64 [s, 4]: neighbours in the order of the bonds; with three neighbours, the last one is the centre itself."""
    sign: Tensor
    """int64 [s]: specified sign of the volume that the corners span."""


def stereocentres(x: Tensor, edge_index: Tensor) -> Stereocentres:
    """Find the stereocentres from OGB atom features [n, 9] and directed bonds [2, e] in RDKit's order of bonds.

    RDKit's tag is the direction in which the other neighbours turn, seen from the first one: clockwise means a negative
    volume.
    """
    source, target = edge_index
    tag, degree = x[:, CHIRALITY], torch.bincount(source, minlength=x.shape[0])
    specified = ((tag == CLOCKWISE) | (tag == COUNTERCLOCKWISE)) & ((degree == CORNERS - 1) | (degree == CORNERS))
    centre = specified.nonzero().squeeze(1)
    # Neighbours sorted by atom, padded so that four can be read from the start of every atom.
    neighbours = torch.cat([target[torch.argsort(source, stable=True)], target.new_zeros(1)])
    number = torch.arange(CORNERS, device=target.device)
    place = (degree.cumsum(0) - degree)[centre].unsqueeze(1) + number
    corners = torch.where(number < degree[centre].unsqueeze(1), neighbours[place], centre.unsqueeze(1))
    return Stereocentres(centre, corners, torch.where(tag[centre] == CLOCKWISE, -1, 1))


class Handedness(NamedTuple):
    """Volumes of stereocentres relative to their specified handedness, and their gradients; at least float32."""

    volume: Tensor
    """[s]: volume of the parallelepiped of the directions to the corners, positive if as specified; about 0.8 with
    three neighbours, 3.1 with four."""
    gradient: Tensor
    """[s, 4, 3]: derivative of the volume by each direction; zero for the centre itself."""


def handedness(centres: Stereocentres, pos: Tensor) -> Handedness:
    """Compute the handedness at positions [n, 3] in angstrom.

    A direction is r / sqrt(r^2 + 0.01), smooth at coincident atoms. Rotations turn the gradients; a reflection M of the
    positions changes the sign of the volume and turns a gradient v into -M v. Both are independent of the order of
    bonds, since the signs of tag and volume change together.
    """
    pos = in_float32(pos)
    way = pos[centres.corners] - pos[centres.centre].unsqueeze(1)
    way = way / torch.sqrt(way.square().sum(2, keepdim=True) + 0.01)
    a, b, c = (way[:, :3] - way[:, 3:]).unbind(1)
    sign = centres.sign.to(way.dtype).unsqueeze(1)
    of_a, of_b, of_c = (sign * torch.linalg.cross(*pair) for pair in ((b, c), (c, a), (a, b)))
    of_last = -(of_a + of_b + of_c) * (centres.corners[:, 3:] != centres.centre.unsqueeze(1))
    return Handedness((a * of_a).sum(1), torch.stack([of_a, of_b, of_c, of_last], dim=1))

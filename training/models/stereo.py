"""Tetrahedral stereocentres: whether positions have the handedness that the bond graph specifies.

OGB's tag of an atom, clockwise or counterclockwise, is relative to the order of the atom's bonds. A network that is
equivariant under permutations sees no order, so that the tag alone tells it nothing. Tag, order and positions together
make a number that depends on no order: positive where the stereocentre is as specified, negative in its mirror image.

Symbols of shapes: ``n`` atoms, ``e`` directed bonds, ``s`` stereocentres.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from molstream.training.models.graph import in_float32

CHIRALITY = 1
"""Column of the OGB atom features."""
CLOCKWISE, COUNTERCLOCKWISE = 1, 2
"""Its values for a tetrahedral stereocentre."""
CORNERS = 4


class Stereocentres(NamedTuple):
    """Atoms whose three or four neighbours have a specified tetrahedral arrangement."""

    centre: Tensor
    """int64 [s]."""
    corners: Tensor
    """int64 [s, 4]: the neighbours in the order of the bonds; last the centre itself, if it has three."""
    sign: Tensor
    """int64 [s]: of the volume that the corners should span."""


def stereocentres(x: Tensor, edge_index: Tensor) -> Stereocentres:
    """From OGB atom features [n, 9] and directed bonds [2, e], whose columns are in RDKit's order of bonds.

    RDKit's tag tells how the other neighbours turn, seen from the first one: clockwise is a negative volume.
    """
    source, target = edge_index
    tag, degree = x[:, CHIRALITY], torch.bincount(source, minlength=x.shape[0])
    specified = ((tag == CLOCKWISE) | (tag == COUNTERCLOCKWISE)) & ((degree == CORNERS - 1) | (degree == CORNERS))
    centre = specified.nonzero().squeeze(1)
    # The neighbours of an atom one after the other, then something to point at beyond the last atom's.
    neighbours = torch.cat([target[torch.argsort(source, stable=True)], target.new_zeros(1)])
    number = torch.arange(CORNERS, device=target.device)
    place = (degree.cumsum(0) - degree)[centre].unsqueeze(1) + number
    corners = torch.where(number < degree[centre].unsqueeze(1), neighbours[place], centre.unsqueeze(1))
    return Stereocentres(centre, corners, torch.where(tag[centre] == CLOCKWISE, -1, 1))


class Handedness(NamedTuple):
    """How stereocentres at some positions compare with what is specified, and the way to go; at least float32."""

    volume: Tensor
    """[s]: of the parallelepiped of the directions to the corners, positive where they are as specified; about 0.8
    with three neighbours, 3.1 with four."""
    gradient: Tensor
    """[s, 4, 3]: of the volume by each direction; zero for the centre itself."""


def handedness(centres: Stereocentres, pos: Tensor) -> Handedness:
    """At positions [n, 3] in angstrom; a direction is r / sqrt(r^2 + 0.01), smooth where atoms coincide.

    Rotations turn the gradients; a reflection M of the positions changes the volume's sign and makes a gradient v into
    -M v. Both depend on no order of bonds: tag and volume change their signs together.
    """
    pos = in_float32(pos)
    way = pos[centres.corners] - pos[centres.centre].unsqueeze(1)
    way = way / torch.sqrt(way.square().sum(2, keepdim=True) + 0.01)
    a, b, c = (way[:, :3] - way[:, 3:]).unbind(1)
    sign = centres.sign.to(way.dtype).unsqueeze(1)
    of_a, of_b, of_c = (sign * torch.linalg.cross(*pair) for pair in ((b, c), (c, a), (a, b)))
    of_last = -(of_a + of_b + of_c) * (centres.corners[:, 3:] != centres.centre.unsqueeze(1))
    return Handedness((a * of_a).sum(1), torch.stack([of_a, of_b, of_c, of_last], dim=1))

"""Symmetry of networks under motions of their input coordinates; tests check what each class declares."""

from dataclasses import dataclass
from typing import Literal

Behaviour = Literal["invariant", "equivariant", "mixed", "chiral", "none"]


@dataclass(frozen=True)
class Symmetry:
    """Behaviour of an output under rotation, reflection and translation of all coordinates.

    ``mixed`` under reflection: the sum of an equivariant and an antisymmetric vector field, see the class.
    ``chiral`` under reflection: unchanged if the coordinates are their own mirror image, otherwise changed.
    ``none``: no symmetry; the input must be brought into a fixed frame (centred) first.
    """

    rotation: Behaviour
    """Behaviour of the output under a rotation."""
    reflection: Behaviour
    """Behaviour of the output under a reflection."""
    translation: Behaviour
    """Behaviour of the output under a translation."""


INVARIANT = Symmetry(rotation="invariant", reflection="invariant", translation="invariant")
"""Symmetry of networks that see distances only, or no coordinates."""
CHIRAL = Symmetry(rotation="invariant", reflection="chiral", translation="invariant")
"""Symmetry of networks that see distances and handedness."""

"""How a network answers to a motion of its input coordinates; the symmetry harness tests what each class declares."""

from dataclasses import dataclass
from typing import Literal

Behaviour = Literal["invariant", "equivariant", "mixed", "chiral", "none"]


@dataclass(frozen=True)
class Symmetry:
    """Behaviour of an output under rotation, reflection and translation of all coordinates.

    ``mixed`` under reflection: the sum of an equivariant and an antisymmetric vector field, see the class.
    ``chiral`` under reflection: the same where the coordinates are their own mirror image, and different elsewhere.
    ``none``: no promise; the input has to be brought to a fixed frame (centred) first.
    """

    rotation: Behaviour
    reflection: Behaviour
    translation: Behaviour


INVARIANT = Symmetry(rotation="invariant", reflection="invariant", translation="invariant")
"""Of networks that see distances only, or no coordinates at all."""
CHIRAL = Symmetry(rotation="invariant", reflection="chiral", translation="invariant")
"""Of networks that also see handedness."""

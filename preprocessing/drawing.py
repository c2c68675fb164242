"""Drawings of molecules as pixels, for image encoders; ``draw.py`` draws for people.

An image is a function of the SMILES, the size and the view, and of RDKit's version. A view turns or mirrors the layout
and not the pixels: bonds and labels stay sharp, nothing is cut off at the corners, and since RDKit chooses wedges for
the layout that it draws, a mirrored drawing shows the same molecule from behind, and never its enantiomer.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from molstream.preprocessing.conformers import seed as seed_of_key
from molstream.randomness import keyed_rng

GRAY_SHARE = 0.2
"""Probability of a random view without colours."""
PIXELS_PER_LINE = 112
"""Height of an image whose bonds are one pixel wide."""


@dataclass(frozen=True)
class View:
    """How a molecule is drawn; the default is RDKit's own layout in colour."""

    degrees: float = 0.0
    """Angle by which the layout is turned, counterclockwise."""
    mirrored: bool = False
    """Whether left and right of the layout are exchanged, before it is turned."""
    gray: bool = False
    """Whether atoms are told apart by brightness alone."""


PLAIN = View()
"""The view of validation and inference."""


def random_view(key: str, seed: int, step: int) -> View:
    """Draw the view of a molecule at a step of training: any angle, mirrored or not, gray in one of five.

    Args:
        key: of the molecule's record.
        seed: random seed of the run, not negative.
        step: number of the step, not negative.
    """
    turn, mirror, gray = (keyed_rng(seed_of_key(key), seed, step).random_raw(3) / 2.0**64).tolist()
    return View(360.0 * turn, mirror < 0.5, gray < GRAY_SHARE)


def image_of(smiles: str, size: int, view: View = PLAIN) -> np.ndarray | None:
    """Draw a molecule, black and coloured on white.

    Args:
        smiles: of a record, which RDKit can read.
        size: height and width in pixels.
        view: turns, mirrors and bleaches the drawing.

    Returns:
        uint8 [3, size, size], red, green and blue; None if RDKit cannot draw the molecule, or draws nothing.
    """
    try:
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(smiles)
            if mol is None or mol.GetNumAtoms() == 0:
                return None
            picture = _drawn(_laid_out(mol, view), size)
    except (RuntimeError, ValueError):
        return None
    pixels = np.asarray(picture.convert("L" if view.gray else "RGB"))
    if pixels.min() == 255:
        return None
    channels = np.broadcast_to(pixels, (3, size, size)) if view.gray else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(channels)


def stacked(images: Sequence[np.ndarray | None], size: int) -> tuple[np.ndarray, np.ndarray]:
    """The images of g molecules as one array.

    Args:
        images: uint8 [3, size, size] each, or None.
        size: height and width in pixels.

    Returns:
        uint8 [g, 3, size, size], zero where there is no image; and bool [g], where there is one.
    """
    pixels = np.zeros((len(images), 3, size, size), np.uint8)
    for k, image in enumerate(images):
        if image is not None:
            pixels[k] = image
    return pixels, np.array([image is not None for image in images], bool)


def _laid_out(mol: Chem.Mol, view: View) -> Chem.Mol:
    """The molecule with RDKit's layout, mirrored and turned, and what the drawing needs: Kekule bonds and wedges."""
    # A program that prefers another layout for its own drawings shall not change what an encoder sees.
    rdDepictor.Compute2DCoords(mol, forceRDKit=True)
    angle = math.radians(view.degrees)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    layout = mol.GetConformer()
    positions = layout.GetPositions()
    flat = positions[:, :2] * ([-1.0, 1.0] if view.mirrored else [1.0, 1.0])
    positions[:, :2] = flat @ turn.T
    layout.SetPositions(positions)
    return rdMolDraw2D.PrepareMolForDrawing(mol)


def _drawn(mol: Chem.Mol, size: int) -> Image.Image:
    """RDKit's drawing of a laid-out molecule, scaled to fill the canvas."""
    drawer = rdMolDraw2D.MolDraw2DCairo(size, size)
    options = drawer.drawOptions()
    options.prepareMolsBeforeDrawing = options.includeMetadata = False
    options.bondLineWidth = size / PIXELS_PER_LINE
    drawer.DrawMolecule(mol)
    drawer.FinishDrawing()
    return Image.open(io.BytesIO(drawer.GetDrawingText()))

"""Drawings of molecules for reports."""

from rdkit import Chem, rdBase
from rdkit.Chem.Draw import rdMolDraw2D

WIDTH, HEIGHT = 220, 160
MAX_ATOMS = 120
"""Larger molecules would be a smudge at this size, and their layout is slow."""


def draw(smiles: str) -> str | None:
    """An SVG of the molecule, without XML header; None where RDKit cannot read it or it is too large to be seen."""
    try:
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(smiles, sanitize=False)
            if mol is None or not 0 < mol.GetNumAtoms() <= MAX_ATOMS:
                return None
            # What cannot be sanitized (an impossible valence) is just what one wants to see.
            Chem.SanitizeMol(mol, catchErrors=True)
            drawer = rdMolDraw2D.MolDraw2DSVG(WIDTH, HEIGHT)
            drawer.drawOptions().clearBackground = False
            drawer.drawOptions().prepareMolsBeforeDrawing = False
            rdMolDraw2D.PrepareAndDrawMolecule(drawer, mol, kekulize=False)
            drawer.FinishDrawing()
    except (RuntimeError, ValueError):
        return None
    svg = drawer.GetDrawingText()
    return svg[svg.index("<svg") :]

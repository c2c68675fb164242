"""Drawings of molecules for reports."""

from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

WIDTH, HEIGHT = 220, 160
MAX_ATOMS = 120
"""Larger molecules would be a smudge at this size, and their layout is slow."""


def draw(text: str) -> str | None:
    """An SVG of the molecule in a SMILES or a mol block, without XML header.

    None where RDKit cannot read it, or where it is too large to be seen.
    """
    try:
        with rdBase.BlockLogs():
            if "\n" in text:
                mol = Chem.MolFromMolBlock(text, sanitize=False, removeHs=False, strictParsing=False)
            else:
                mol = Chem.MolFromSmiles(text, sanitize=False)
            if mol is None or not 0 < mol.GetNumAtoms() <= MAX_ATOMS:
                return None
            # What cannot be sanitized (an impossible valence) is just what one wants to see.
            Chem.SanitizeMol(mol, catchErrors=True)
            if mol.GetNumConformers() and mol.GetConformer().Is3D():
                rdDepictor.Compute2DCoords(mol)
            drawer = rdMolDraw2D.MolDraw2DSVG(WIDTH, HEIGHT)
            drawer.drawOptions().clearBackground = False
            drawer.drawOptions().prepareMolsBeforeDrawing = False
            rdMolDraw2D.PrepareAndDrawMolecule(drawer, mol, kekulize=False)
            drawer.FinishDrawing()
    except (RuntimeError, ValueError):
        return None
    svg = drawer.GetDrawingText()
    return svg[svg.index("<svg") :]

"""Drawings of molecules for reports."""

from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

WIDTH, HEIGHT = 220, 160
MAX_ATOMS = 120
"""Most atoms of a molecule that is drawn: larger ones cannot be seen at this size, and their layout is slow."""


def draw(text: str) -> str | None:
    """An SVG of the molecule in a SMILES or a mol block, without XML header.

    None if RDKit cannot read it, or if it has more than MAX_ATOMS atoms.
    """
    try:
        with rdBase.BlockLogs():
            if "\n" in text:
                mol = Chem.MolFromMolBlock(text, sanitize=False, removeHs=False, strictParsing=False)
            else:
                mol = Chem.MolFromSmiles(text, sanitize=False)
            if mol is None or not 0 < mol.GetNumAtoms() <= MAX_ATOMS:
                return None
            # A molecule that cannot be sanitized (an impossible valence) is drawn too: the drawing shows why.
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

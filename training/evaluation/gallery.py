"""Gallery of generated conformers aligned to their references: an SDF that the report draws."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdMolAlign

from molstream.errors import DataError
from molstream.io.files import write_atomically
from molstream.preprocessing.alignment import MAX_SYMMETRIES, best_rmsd, with_conformers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHOD, RMSD = "method", "rmsd"
"""Names of the properties of molecules in a gallery."""
REFERENCE = "reference"
COLOURS = ("#1f5a96", "#c8772b")
"""Colours of the run's conformers and of the first baseline."""


def write_gallery(
    smiles: Sequence[str], reference: Sequence[np.ndarray], ensembles: Mapping[str, Sequence[np.ndarray]], output: Path
) -> None:
    """Write an SDF with the first reference conformer of each molecule and the nearest conformer of each method.

    Args:
        smiles: stored SMILES of the molecules.
        reference: reference conformers [r, n, 3] of each molecule, angstrom.
        ensembles: by method, conformers [g, n, 3] of each molecule; molecules with g = 0, a failure, are omitted.
        output: the file to write.
    """
    molecules: list[Chem.Mol] = []
    for k, text in enumerate(smiles):
        target = with_conformers(text, reference[k][:1])
        molecules.append(_named(target, REFERENCE, 0.0))
        for method, found in ensembles.items():
            if not len(found[k]):
                continue
            rmsd = best_rmsd(text, reference[k][:1], found[k])[0]
            best = with_conformers(text, found[k][rmsd.argmin()][None])
            # Aligns `best` to the target in place.
            rdMolAlign.GetBestRMS(best, target, maxMatches=MAX_SYMMETRIES)
            molecules.append(_named(best, method, float(rmsd.min())))
    text = "".join(Chem.SDWriter.GetText(mol, molid=number) for number, mol in enumerate(molecules))
    write_atomically(output, text.encode())


def read_gallery(file: Path) -> list[list[Chem.Mol]]:
    """The molecules of :func:`write_gallery`: for each, the reference and what was generated.

    Raises:
        DataError: the file is damaged, or another one.
    """
    rows: list[list[Chem.Mol]] = []
    with rdBase.BlockLogs():
        molecules = list(Chem.SDMolSupplier(str(file)))
    for number, mol in enumerate(molecules, 1):
        if mol is None or not mol.HasProp(METHOD) or not (rows or mol.GetProp(METHOD) == REFERENCE):
            raise DataError(
                f"{file}, molecule {number}: expected one that `molstream evaluate conformers` wrote. Run that again, "
                "or remove the file."
            )
        if mol.GetProp(METHOD) == REFERENCE:
            rows.append([])
        rows[-1].append(mol)
    return rows


def draw(axis: "Axes", reference: Chem.Mol, other: Chem.Mol, colour: str) -> None:
    """Draw both molecules, viewed along the direction in which the reference is thinnest; the reference is grey."""
    centre = reference.GetConformer().GetPositions()
    origin = centre.mean(0)
    # The two widest directions span the page.
    _, _, axes = np.linalg.svd(centre - origin, full_matrices=True)
    for mol, shade, width in ((reference, "#9aa7b4", 3.0), (other, colour, 1.6)):
        flat = (mol.GetConformer().GetPositions() - origin) @ axes[:2].T
        for bond in mol.GetBonds():
            ends = flat[[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]]
            axis.plot(*ends.T, color=shade, linewidth=width, solid_capstyle="round")
        axis.scatter(*flat.T, s=14, color=shade, zorder=3)
        for atom, place in zip(mol.GetAtoms(), flat, strict=True):
            if mol is other and atom.GetAtomicNum() != 6:
                axis.annotate(atom.GetSymbol(), place, fontsize=8, xytext=(3, 3), textcoords="offset points")
    axis.set_aspect("equal")
    axis.set_axis_off()
    axis.set_title(f"{other.GetProp(METHOD)}, {float(other.GetProp(RMSD)):.2f} A", fontsize=8)


def _named(mol: Chem.Mol, method: str, rmsd: float) -> Chem.Mol:
    mol.SetProp(METHOD, method)
    mol.SetProp(RMSD, f"{rmsd:.4f}")
    return mol

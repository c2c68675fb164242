"""What :class:`MoleculeEmbedder` and :func:`generate` take for molecules, and what they refuse."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from rdkit import Chem, rdBase

from molstream.errors import in_words
from molstream.preprocessing.agreement import has_stereochemistry
from molstream.preprocessing.config import MAX_SMILES_LENGTH
from molstream.preprocessing.fields import RawMolecule, Rejection
from molstream.preprocessing.geometry import is_geometry

Item = str | Chem.Mol | RawMolecule
"""A SMILES; a molecule of RDKit, whose 3D conformers are used if it has some; or a record of a file."""
Record = RawMolecule | Rejection

EXPECTED = (
    "SMILES, RDKit molecules or RawMolecule records, in a list, tuple, iterator, 1-D array, Series or DataFrame of one "
    "column"
)

NO_COLUMNS = (bytes, bytearray, memoryview, Mapping, set, frozenset)
"""Iterables that are no column of molecules; the order of a set is not that of what was put into it."""


def records(molecules: Any) -> list[Record]:
    """The records of molecules, in their order; of what cannot be embedded, why.

    Missing values (None, NaN, NA) are empty records, which are rejected like an empty SMILES. An RDKit molecule has its
    first 3D conformer.

    Raises:
        TypeError: these are no molecules.
    """
    return [_records(item, row, every_conformer=False)[0] for row, item in enumerate(checked(molecules))]


def conformer_records(molecules: Any) -> list[list[Record]]:
    """As :func:`records`, but an RDKit molecule with several 3D conformers has a record for each of them.

    Raises:
        TypeError: these are no molecules.
    """
    return [_records(item, row, every_conformer=True) for row, item in enumerate(checked(molecules))]


def checked(molecules: Any) -> Iterable[Any]:
    """The molecules one by one; those of an iterator are not looked at before they are wanted.

    Raises:
        TypeError: these are no molecules.
    """
    if isinstance(molecules, Item):
        # A text is iterable too, and would be embedded letter by letter.
        return [molecules]
    column = _column(molecules)
    if isinstance(column, Iterator):
        return map(_checked, column, range(1 << 62))
    return [_checked(item, row) for row, item in enumerate(column)]


def _column(molecules: Any) -> Iterable[Any]:
    """The items of a container that has one item per molecule."""
    if isinstance(molecules, pa.Table | pa.RecordBatch):
        _require_one_column(molecules, molecules.column_names)
        return molecules.column(0).to_pylist()
    if isinstance(molecules, pa.Array | pa.ChunkedArray):
        return molecules.to_pylist()
    shape = getattr(molecules, "shape", None)
    if shape is not None and (names := getattr(molecules, "columns", None)) is not None:
        _require_one_column(molecules, list(names))
        return molecules[names[0]]
    if shape is not None and len(shape) != 1:
        raise TypeError(f"got {_kind(molecules)} of shape {list(shape)}: expected {EXPECTED}. Give one column of it.")
    if isinstance(molecules, NO_COLUMNS) or not isinstance(molecules, Iterable):
        raise TypeError(f"got {_kind(molecules)}: expected {EXPECTED}.")
    return molecules


def _require_one_column(frame: Any, names: list[Any]) -> None:
    if len(names) != 1:
        shown = ", ".join(map(str, names[:10])) + (", ..." if len(names) > 10 else "")
        raise TypeError(
            f"got {_kind(frame)} of {len(names)} columns ({shown}): expected one, that of the molecules. Choose it, "
            "frame['smiles']."
        )


def _checked(item: Any, row: int) -> Any:
    if not isinstance(item, Item) and not is_missing(item):
        shown = repr(item) if len(repr(item)) <= 60 else f"{repr(item)[:57]}..."
        raise TypeError(f"item {row} is {_kind(item)}, {shown}: expected a SMILES, an RDKit molecule or a RawMolecule.")
    return item


def is_missing(item: Any) -> bool:
    """Whether an item is None, NaN, or what pandas writes for a missing value."""
    if item is None or type(item).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(item, float | np.floating) and bool(np.isnan(item))


def _records(item: Any, row: int, every_conformer: bool) -> list[Record]:
    if isinstance(item, RawMolecule):
        return [item]
    if isinstance(item, Chem.Mol):
        return _of_mol(item, row, every_conformer)
    return [RawMolecule("" if is_missing(item) else str(item), "smiles", "", row)]


def _of_mol(mol: Chem.Mol, row: int, every_conformer: bool) -> list[Record]:
    """Records of an RDKit molecule: mol blocks with its 3D conformers, or else its SMILES."""
    if mol.GetNumAtoms() > MAX_SMILES_LENGTH:
        detail = f"{mol.GetNumAtoms()} atoms in the molecule; the limit is {MAX_SMILES_LENGTH}"
        return [_rejected(row, "too_many_atoms", detail)]
    if any(part.HasQuery() for part in (*mol.GetAtoms(), *mol.GetBonds())):
        return [_rejected(row, "query", "the molecule has query atoms or bonds, and so stands for many molecules")]
    shown = [conformer for conformer in mol.GetConformers() if conformer.Is3D()]
    try:
        with rdBase.BlockLogs():
            if not shown or not is_geometry(shown[0].GetPositions()):
                return [RawMolecule(Chem.MolToSmiles(mol), "smiles", "", row)]
            return [_of_conformer(mol, each, row) for each in (shown if every_conformer else shown[:1])]
    except (ValueError, RuntimeError) as error:
        return [_rejected(row, "unsanitizable", f"RDKit cannot write the molecule: {in_words(error)}")]


def _of_conformer(mol: Chem.Mol, conformer: Chem.Conformer, row: int) -> Record:
    """The record of an RDKit molecule with one of its 3D conformers."""
    name = "its 3D conformer" if mol.GetNumConformers() == 1 else f"its 3D conformer {conformer.GetId()}"
    if not is_geometry(conformer.GetPositions()):
        return _rejected(row, "bad_geometry", f"{name} is not finite, or two of its atoms collide")
    block = Chem.MolToMolBlock(mol, confId=conformer.GetId())
    if _is_another_stereoisomer(block, mol):
        return _rejected(row, "stereo_mismatch", f"{name} is of another stereoisomer than its bond graph")
    return RawMolecule(block, "molblock", "", row)


def _rejected(row: int, reason: str, detail: str) -> Rejection:
    return Rejection("", row, "", "read", reason, detail, 0.0)


def _is_another_stereoisomer(block: str, mol: Chem.Mol) -> bool:
    """Whether the geometry of a mol block contradicts stereochemistry that its molecule specifies."""
    shown = Chem.MolFromMolBlock(block, removeHs=False)
    return shown is not None and not has_stereochemistry(shown, mol)


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]}.{kind.__name__}"

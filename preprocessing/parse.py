"""The text of a record -> sanitized molecule and given geometry: SMILES, CXSMILES, mol block or geometry record."""

import re
from dataclasses import dataclass

from rdkit import Chem, rdBase

from molstream.errors import MoleculeError
from molstream.preprocessing.definite import is_rewritten, may_be_indefinite, require_conserved, require_definite
from molstream.preprocessing.fields import Format
from molstream.preprocessing.geometry import (
    GeometryRecord,
    GivenConformers,
    coordinate_order,
    is_geometry,
)
from molstream.preprocessing.hydrogens import without_stereochemistry
from molstream.preprocessing.rdkit_errors import rdkit_errors

ASCII_SPACE = re.compile(r"[ \t\r\n]+")


@dataclass(frozen=True)
class Parsed:
    """The molecule and the geometry of a text."""

    mol: Chem.Mol
    """Sanitized, without atom maps; hydrogens are atoms where the text has them so. With a geometry the atoms are
    sorted by the coordinates of the first conformer, which ``mol`` has: later steps identify the atoms by them."""
    given: GivenConformers | None
    """All conformers of the text for the atoms of ``mol``; None without a 3D geometry."""


def parse(text: str, format: Format, max_smiles_length: int) -> Parsed:
    """The molecule of one input text.

    ``max_smiles_length`` limits the characters of a SMILES and the atoms of a mol block or geometry record before
    anything expensive: RDKit's canonicalization overflows the stack on long chains.

    Raises:
        MoleculeError: the text is no molecule; the stage is ``parse``.
    """
    _require_text(text)
    if format == "geometry":
        return _of_record(GeometryRecord.from_json(text, max_smiles_length), max_smiles_length)
    return _with_geometry(_molecule(text, format, max_smiles_length))


def _require_text(text: str) -> None:
    """Check that a text is not empty, and valid Unicode, before RDKit gets it.

    Raises:
        MoleculeError: it is not; the stage is ``parse``.
    """
    if not text.strip():
        raise MoleculeError("parse", "empty_input", "the text is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MoleculeError("parse", "unparsable", f"not valid Unicode: {error}") from error


def _molecule(text: str, format: Format, max_smiles_length: int) -> Chem.Mol:
    """The sanitized molecule of a SMILES or mol block."""
    with rdBase.CaptureErrorLog() as log:
        mol = _read(text, format, max_smiles_length, sanitize=True)
    if mol is None:
        # A molecule that can be read without sanitization is well-formed text of an impossible structure.
        reason = "unparsable" if _as_written(text, format, max_smiles_length) is None else "unsanitizable"
        raise MoleculeError("parse", reason, _message(log) or f"RDKit cannot read this {format}")
    if mol.GetNumAtoms() == 0:
        raise MoleculeError("parse", "no_atoms", "a molecule without atoms")
    if is_rewritten(mol) and (written := _as_written(text, format, max_smiles_length)) is not None:
        require_conserved(written, mol)
    if may_be_indefinite(mol, text, format):
        require_definite(mol)
    if format == "molblock" or ":" in text:
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
    return mol


def _as_written(text: str, format: Format, max_smiles_length: int) -> Chem.Mol | None:
    with rdBase.CaptureErrorLog():
        return _read(text, format, max_smiles_length, sanitize=False)


def _message(log: rdBase.CaptureErrorLog) -> str:
    """What RDKit logged, in one line."""
    try:
        text = log.messages
    except UnicodeDecodeError as error:
        # RDKit quotes the input byte by byte, and may have cut a character.
        text = error.object.decode(errors="replace")
    return " ".join(line.split("] ", 1)[-1].strip() for line in text.splitlines() if line.strip())


def _read(text: str, format: Format, max_smiles_length: int, sanitize: bool) -> Chem.Mol | None:
    """The molecule that RDKit reads from a text, or None."""
    with rdkit_errors("parse"):
        if format == "molblock":
            mol = Chem.MolFromMolBlock(text, sanitize=sanitize, removeHs=False)
            if mol is not None and mol.GetNumAtoms() > max_smiles_length:
                raise MoleculeError(
                    "parse",
                    "too_many_atoms",
                    f"{mol.GetNumAtoms()} atoms in the mol block; the limit max_smiles_length is {max_smiles_length}",
                )
            return mol
        smiles, *extension = ASCII_SPACE.split(text.strip(" \t\r\n"), maxsplit=1)
        if unexpected := [c for c in smiles if not "!" <= c <= "~"]:
            # RDKit cuts some of them off at the ends, and reads the rest as another molecule.
            raise MoleculeError("parse", "unparsable", f"the character {unexpected[0]!a} is not part of any SMILES")
        if len(smiles) > max_smiles_length:
            raise MoleculeError(
                "parse", "too_long", f"{len(smiles)} characters; the limit max_smiles_length is {max_smiles_length}"
            )
        if extension and not extension[0].startswith("|"):
            raise MoleculeError(
                "parse", "unparsable", f"text after the SMILES that is no CXSMILES extension: {extension[0]}"
            )
        parameters = Chem.SmilesParserParams()
        parameters.sanitize = sanitize
        parameters.removeHs = False
        return Chem.MolFromSmiles(" ".join([smiles, *extension]), parameters)


def _with_geometry(mol: Chem.Mol) -> Parsed:
    """A molecule with its geometry, if that is declared 3D, is finite and has no colliding atoms."""
    if mol.GetNumConformers() and mol.GetConformer().Is3D():
        positions = mol.GetConformer().GetPositions()
        if is_geometry(positions):
            order = coordinate_order(positions)
            given = GivenConformers.from_positions(positions[order])
            return Parsed(Chem.RenumberAtoms(mol, order.tolist()), given)
    mol.RemoveAllConformers()
    return Parsed(mol, None)


def _of_record(record: GeometryRecord, max_smiles_length: int) -> Parsed:
    """The molecule of a geometry record: by its SMILES, or else with bonds that follow from the distances."""
    if record.smiles is None:
        return Parsed(record.with_perceived_bonds(), record.given)
    _require_text(record.smiles)
    mol = _molecule(record.smiles, "smiles", max_smiles_length)
    with rdkit_errors("parse"):
        mol.RemoveAllConformers()
        return Parsed(record.matched(Chem.AddHs(without_stereochemistry(mol))), record.given)

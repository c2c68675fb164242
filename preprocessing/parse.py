"""The text of a record -> sanitized molecule and given geometry: SMILES, CXSMILES, mol block or geometry record.

``agreement.py`` has the rule by which a geometry belongs to the molecule that its text names.
"""

import re
from dataclasses import dataclass, replace

import numpy as np
from rdkit import Chem, rdBase

from molstream.errors import MoleculeError
from molstream.preprocessing.agreement import Distances, agreeing, checked_parent
from molstream.preprocessing.definite import is_rewritten, may_be_indefinite, require_conserved, require_definite
from molstream.preprocessing.fields import Format
from molstream.preprocessing.geometry import MIN_ATOM_DISTANCE, GeometryRecord, GivenConformers, is_geometry
from molstream.preprocessing.hydrogens import remove_hydrogens, without_stereochemistry
from molstream.preprocessing.laying import coordinate_order, stereochemistry
from molstream.preprocessing.rdkit_errors import rdkit_errors

ASCII_SPACE = re.compile(r"[ \t\r\n]+")
NITROGEN = 7


@dataclass(frozen=True)
class Parsed:
    """The molecule and the geometry of a text."""

    mol: Chem.Mol
    """Sanitized, without atom maps; hydrogens are atoms where the text has them so. With a geometry the atoms are
    sorted by the coordinates of the first conformer, which ``mol`` has: later steps identify the atoms by them."""
    parent: Chem.Mol
    """The same molecule, its hydrogens implicit where they can be; with a geometry it has the first conformer, and
    the stereochemistry that this shows."""
    given: GivenConformers | None
    """All conformers of the text for the atoms of ``mol``; None without a 3D geometry."""
    left_out: tuple[str, ...] = ()
    """Why a conformer of the text is not in ``given``, for each that is not: ``bad_geometry``, ``stereo_mismatch``."""
    order: tuple[int, ...] = ()
    """With a geometry, which atom of the text every atom of ``mol`` is."""


def parse(text: str, format: Format, max_smiles_length: int, numbered: bool = False) -> Parsed:
    """The molecule of one input text.

    ``max_smiles_length`` limits the characters of a SMILES and the atoms of a mol block or geometry record before
    anything expensive: RDKit's canonicalization overflows the stack on long chains. ``numbered`` gives a molecule
    without a geometry a flat conformer whose x coordinates are the numbers of the atoms in the text.

    Raises:
        MoleculeError: the text is no molecule; the stage is ``parse``.
    """
    _require_text(text)
    if format == "geometry":
        return _of_record(GeometryRecord.from_json(text, max_smiles_length), max_smiles_length)
    mol = _molecule(text, format, max_smiles_length)
    if _has_geometry(mol):
        return _of_geometry(mol, _declared_beside_geometry(text, format, max_smiles_length))
    mol.RemoveAllConformers()
    if numbered:
        _number(mol)
    with rdkit_errors("parse"):
        return Parsed(mol, remove_hydrogens(mol), None)


def _number(mol: Chem.Mol) -> None:
    """Give a molecule the conformer by which its atoms are found again, in place."""
    positions = np.zeros((mol.GetNumAtoms(), 3))
    positions[:, 0] = np.arange(len(positions))
    conformer = Chem.Conformer(len(positions))
    conformer.Set3D(False)
    conformer.SetPositions(positions)
    mol.AddConformer(conformer)


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


def _has_geometry(mol: Chem.Mol) -> bool:
    """Whether a molecule has a 3D geometry; all atoms at one place are how some programs write that there is none."""
    if not mol.GetNumConformers() or not mol.GetConformer().Is3D():
        return False
    positions = mol.GetConformer().GetPositions()
    return len(positions) == 1 or bool((positions != positions[0]).any())


def _declared_beside_geometry(text: str, format: Format, max_smiles_length: int) -> Chem.Mol | None:
    """The stereochemistry that a text with 3D coordinates declares beside them, as :func:`_declared`.

    That is the one of CXSMILES, which RDKit overrules by the coordinates. A 3D mol block declares none: wedges draw a
    projection of its geometry, and parities, which depend on the order of the atoms, are to be ignored by readers
    (BIOVIA's CTfile Formats).
    """
    if format == "molblock":
        return None
    smiles = text.split(maxsplit=1)[0]
    return _declared(_molecule(smiles, "smiles", max_smiles_length)) if set(smiles) & set("@/\\") else None


def _declared(mol: Chem.Mol) -> Chem.Mol | None:
    """A molecule with its stereochemistry, hydrogens implicit where they can be; None if it has none.

    Centres of nitrogen are left out, since RDKit finds few of them in a geometry.
    """
    mol = remove_hydrogens(Chem.Mol(mol))
    for atom in mol.GetAtoms():
        if atom.GetAtomicNum() == NITROGEN:
            atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    return mol if any(map(any, stereochemistry(mol))) else None


def _of_geometry(mol: Chem.Mol, declared: Chem.Mol | None) -> Parsed:
    """The molecule of a text that has coordinates itself.

    Raises:
        MoleculeError: they are no geometry of the molecule (``bad_geometry``, ``stereo_mismatch``).
    """
    positions = mol.GetConformer().GetPositions()
    order = coordinate_order(positions)
    given = GivenConformers.from_positions(positions[order])
    mol = Chem.RenumberAtoms(mol, order.tolist())
    with rdkit_errors("parse"):
        return Parsed(mol, checked_parent(mol, declared, Distances.of(mol)), given, order=tuple(order.tolist()))


def _of_record(record: GeometryRecord, max_smiles_length: int) -> Parsed:
    """The molecule of a geometry record, with the conformers that are of it.

    The SMILES names the molecule. Without one, the first conformer whose atoms do not collide does, by its distances.

    Raises:
        MoleculeError: no conformer is one of this molecule. The reason is that of the first one.
    """
    named = None if record.smiles is None else _named(record.smiles, max_smiles_length)
    problems: list[MoleculeError] = []
    for index in range(len(record.given.positions)):
        try:
            with rdkit_errors("parse"):
                parsed = _from_conformer(record, index, named)
        except MoleculeError as error:
            if error.reason == "no_bonds":
                raise
            problems.append(error)
            continue
        reasons = ["stereo_mismatch" if e.reason == "stereo_mismatch" else "bad_geometry" for e in problems]
        return replace(parsed, left_out=(*reasons, *parsed.left_out))
    raise problems[0]


def _named(smiles: str, max_smiles_length: int) -> tuple[Chem.Mol, Chem.Mol | None]:
    """The molecule that a geometry record's SMILES names, all hydrogens atoms; the stereochemistry that it declares.

    The former is without stereochemistry, in an order that does not depend on the spelling.
    """
    _require_text(smiles)
    mol = _molecule(smiles, "smiles", max_smiles_length)
    mol.RemoveAllConformers()
    with rdkit_errors("parse"):
        return Chem.AddHs(without_stereochemistry(mol)), _declared(mol)


def _from_conformer(record: GeometryRecord, index: int, named: tuple[Chem.Mol, Chem.Mol | None] | None) -> Parsed:
    """The molecule of a geometry record with this conformer and those of the later ones that agree with it.

    Raises:
        MoleculeError: the conformer is none of the molecule.
    """
    if not is_geometry(record.given.positions[index]):
        detail = f"conformer {index} is not finite, or two atoms are closer than {MIN_ATOM_DISTANCE} angstrom"
        raise MoleculeError("parse", "bad_geometry", detail)
    order = coordinate_order(record.given.positions[index])
    record = record.from_conformer(index)
    mol, declared = (record.with_perceived_bonds(), None) if named is None else (record.matched(named[0]), named[1])
    distances = Distances.of(mol)
    parent = checked_parent(mol, declared, distances)
    given, left_out = agreeing(record.given, parent, distances)
    return Parsed(mol, parent, given, left_out, tuple(order.tolist()))

"""SMILES or mol block -> parent molecule in canonical form: the same for every spelling and atom order of the input.

Everything is a function of canonical SMILES *text*: the input is written as canonical SMILES, parsed, standardized and
written again until the text repeats. The stored SMILES is thus its own standardized form, and the atom order of the
record is the order of its SMILES. Tautomers are not unified (the InChIKey, which is the key, is nearly tautomer-free).
"""

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem.MolStandardize import rdMolStandardize

from preprocessing.errors import MolstreamError

MIN_ATOM_DISTANCE = 0.5
"""Angstrom: a given geometry with a closer pair of atoms is no geometry (the shortest bond, H-H, has 0.74)."""


class MoleculeError(MolstreamError):
    """One molecule cannot be featurized; ``featurize`` turns it into a ``Rejection``."""

    def __init__(self, stage: str, reason: str, detail: str):
        super().__init__(f"{stage}: {reason}: {detail}")
        self.stage = stage
        self.reason = reason
        self.detail = detail


@contextmanager
def rdkit_errors(stage: str) -> Iterator[None]:
    """Turns the exceptions of RDKit's C++ (failed invariants, sanitization) into a :class:`MoleculeError`."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise MoleculeError(stage, "rdkit_error", f"{type(error).__name__}: {' '.join(str(error).split())}") from error


@dataclass(frozen=True)
class StandardizeConfig:
    """Which changes make the parent molecule; normalizing functional groups and charges is always done."""

    largest_fragment: bool = True
    """Keep the largest fragment only (drops counter-ions and solvent)."""
    neutralise: bool = True
    """Add or remove protons until no charge is left that can go."""
    disconnect_metals: bool = True
    """Break covalent bonds between metals and N, O, F or other non-metals."""


@dataclass(frozen=True)
class StandardizedMolecule:
    """A parent molecule, its atoms in the order of its canonical SMILES."""

    key: str
    """Full InChIKey; ``SMILES-`` and 27 hex digits of the SMILES' SHA-256 where InChI fails."""
    smiles: str
    """Canonical isomeric SMILES."""
    mol: Chem.Mol
    """Hydrogens implicit, but for those that RDKit keeps as atoms, which are stored: isotopes, ions, H2, bridges."""
    given: np.ndarray | None
    """float64 [m, 3], angstrom: the input's own 3D coordinates of ``mol``'s n atoms (m = n), followed by those of its
    hydrogens in the order of ``Chem.AddHs`` where the input has every one of them. None without a 3D geometry."""
    changes: tuple[str, ...] = ()
    """The steps of standardization that changed the input."""


def standardize(
    text: str,
    format: Literal["smiles", "molblock"],
    config: StandardizeConfig,
    max_atoms: int,
    max_smiles_length: int,
) -> StandardizedMolecule:
    """The parent molecule of one input text.

    ``max_atoms`` limits the heavy atoms of the parent. ``max_smiles_length`` limits the characters of a SMILES and the
    atoms of a mol block before anything expensive: RDKit's canonicalization overflows the stack on long chains.

    Raises:
        MoleculeError: the text is no molecule that can be stored; stage is ``parse`` or ``standardize``.
    """
    mol = _parse(text, format, max_smiles_length)
    with rdkit_errors("standardize"):
        source = _with_geometry(mol)
        smiles, mol = _fixed_point(_without_hydrogens(source), config)
        heavy_atoms = mol.GetNumHeavyAtoms()
        if heavy_atoms > max_atoms:
            raise MoleculeError(
                "standardize", "too_many_atoms", f"{heavy_atoms} heavy atoms; the limit max_atoms is {max_atoms}"
            )
        if "*" in smiles:
            raise MoleculeError(
                "standardize", "dummy_atom", f"attachment point, R group, atom list or wildcard in {smiles}"
            )
        given = _given(mol, source) if mol.GetNumConformers() else None
        mol.RemoveAllConformers()
        return StandardizedMolecule(_key(mol, smiles), smiles, mol, given)


def _parse(text: str, format: Literal["smiles", "molblock"], max_smiles_length: int) -> Chem.Mol:
    """The sanitized molecule of a text, hydrogens as atoms where the text has them so; no atom maps."""
    if not text.strip():
        raise MoleculeError("parse", "empty_input", "the text is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MoleculeError("parse", "unparsable", f"not valid Unicode: {error}") from error
    with rdBase.CaptureErrorLog() as log:
        mol = _read(text, format, max_smiles_length, sanitize=True)
    if mol is None:
        # A molecule that can be read without sanitization is well-formed text of an impossible structure.
        with rdBase.CaptureErrorLog():
            broken = _read(text, format, max_smiles_length, sanitize=False)
        message = " ".join(line.split("] ", 1)[-1].strip() for line in log.messages.splitlines() if line.strip())
        reason = "unparsable" if broken is None else "unsanitizable"
        raise MoleculeError("parse", reason, message or f"RDKit cannot read this {format}")
    if mol.GetNumAtoms() == 0:
        raise MoleculeError("parse", "no_atoms", "a molecule without atoms")
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
    return mol


def _read(text: str, format: Literal["smiles", "molblock"], max_smiles_length: int, sanitize: bool) -> Chem.Mol | None:
    """One attempt of RDKit at a text: None where it cannot."""
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
        smiles, *extension = text.split(maxsplit=1)
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


def _with_geometry(mol: Chem.Mol) -> Chem.Mol:
    """The molecule with its 3D geometry, atoms sorted by coordinate so that their order in the file is forgotten.

    Without conformers where the input has none that is declared 3D, finite and free of colliding atoms. Coordinates are
    then distinct, and tell which atom of the input an atom of the parent is.
    """
    if mol.GetNumConformers() and mol.GetConformer().Is3D():
        positions = mol.GetConformer().GetPositions()
        if np.isfinite(positions).all() and _closest_pair(mol) >= MIN_ATOM_DISTANCE:
            return Chem.RenumberAtoms(mol, np.lexsort(positions.T[::-1]).tolist())
    mol.RemoveAllConformers()
    return mol


def _closest_pair(mol: Chem.Mol) -> float:
    """Smallest distance between two atoms in angstrom; infinite for a single atom."""
    distances = Chem.Get3DDistanceMatrix(mol)
    return distances[np.triu_indices(len(distances), 1)].min(initial=np.inf)


def _without_hydrogens(source: Chem.Mol) -> Chem.Mol:
    """The molecule with implicit hydrogens where they can be; with a geometry, stereochemistry is read from it.

    The atom order then is that of the stereo-free canonical SMILES first: what RDKit finds in a ring with several
    dependent stereocentres would otherwise depend on the order of the bonds in the file.
    """
    if not source.GetNumConformers():
        return _remove_hydrogens(source)
    mol = Chem.Mol(source)
    Chem.RemoveStereochemistry(mol)
    mol = _remove_hydrogens(mol)
    mol = _reread(mol, Chem.MolToSmiles(mol))
    Chem.AssignStereochemistryFrom3D(mol)
    return mol


def _remove_hydrogens(mol: Chem.Mol) -> Chem.Mol:
    """Also removes hydrogens that only tell the E and Z form of an imine: that proton exchanges."""
    if mol.GetNumHeavyAtoms() == mol.GetNumAtoms():
        return mol
    parameters = Chem.RemoveHsParameters()
    parameters.removeDefiningBondStereo = True
    return Chem.RemoveHs(mol, parameters)


def _fixed_point(mol: Chem.Mol, config: StandardizeConfig) -> tuple[str, Chem.Mol]:
    """Canonical SMILES of the standardized molecule, and the molecule parsed from it.

    Standardizing is repeated until its canonical SMILES comes back: nearly always at once. Where RDKit's rules chase
    each other in a circle the alphabetically first SMILES of the circle is taken, so that the result is still unique.
    """
    forms: dict[str, Chem.Mol] = {}
    smiles = Chem.MolToSmiles(mol)
    while smiles not in forms:
        forms[smiles] = _reread(mol, smiles)
        mol = _clean(forms[smiles], config)
        smiles = Chem.MolToSmiles(mol)
    path = list(forms)
    smiles = min(path[path.index(smiles) :])
    return smiles, forms[smiles]


def _reread(mol: Chem.Mol, smiles: str) -> Chem.Mol:
    """The molecule parsed from the SMILES just written for ``mol``, with ``mol``'s conformer if it has one."""
    if not smiles:
        raise MoleculeError("standardize", "no_atoms", "standardizing left no atom")
    reread = Chem.MolFromSmiles(smiles)
    if reread is None:
        raise MoleculeError("standardize", "rdkit_error", f"RDKit cannot read back its own SMILES {smiles}")
    if mol.GetNumConformers():
        if reread.GetNumAtoms() != mol.GetNumAtoms():
            raise MoleculeError("standardize", "rdkit_error", f"RDKit reads back other hydrogens from {smiles}")
        written = [int(index) for index in mol.GetProp("_smilesAtomOutputOrder").strip("[],").split(",")]
        conformer = Chem.Conformer(reread.GetNumAtoms())
        conformer.SetPositions(mol.GetConformer().GetPositions()[written])
        reread.AddConformer(conformer)
    return reread


@dataclass(frozen=True)
class _Tools:
    """RDKit's standardizers; building their rule tables costs as much as using them once."""

    metals: rdMolStandardize.MetalDisconnector
    normalizer: rdMolStandardize.Normalizer
    reionizer: rdMolStandardize.Reionizer
    fragments: rdMolStandardize.LargestFragmentChooser
    uncharger: rdMolStandardize.Uncharger
    charged: Chem.Mol
    """Query for what reionizer and uncharger act on: charges, and atoms without neighbours that should have one."""


@functools.cache
def _tools() -> _Tools:
    return _Tools(
        rdMolStandardize.MetalDisconnector(),
        rdMolStandardize.Normalizer(),
        rdMolStandardize.Reionizer(),
        rdMolStandardize.LargestFragmentChooser(),
        rdMolStandardize.Uncharger(),
        Chem.MolFromSmarts("[!+0,X0]"),
    )


def _clean(mol: Chem.Mol, config: StandardizeConfig) -> Chem.Mol:
    """One pass of RDKit's standardization (the steps of ``Cleanup``, ``FragmentParent`` and ``ChargeParent``)."""
    tools = _tools()
    mol = Chem.RWMol(mol)
    if config.disconnect_metals:
        tools.metals.DisconnectInPlace(mol)
    # Not normalizeInPlace, nor Cleanup: they write impossible aromatic rings for one ZINC molecule in a thousand.
    mol = tools.normalizer.normalize(mol)
    charged = mol.HasSubstructMatch(tools.charged)
    if charged:
        tools.reionizer.reionizeInPlace(mol)
    if config.largest_fragment:
        tools.fragments.chooseInPlace(mol)
    if config.neutralise and charged:
        neutral = tools.uncharger.uncharge(mol)
        # Hexafluorophosphate has no neutral form, but RDKit makes one with seven bonds at phosphorus.
        if Chem.SanitizeMol(neutral, catchErrors=True) == Chem.SANITIZE_NONE:
            mol = neutral
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    return mol


def _key(mol: Chem.Mol, smiles: str) -> str:
    """Full InChIKey, or a hash of the canonical SMILES where InChI gives none (unknown bonds, above 1023 atoms)."""
    return Chem.MolToInchiKey(mol) or f"SMILES-{hashlib.sha256(smiles.encode()).hexdigest()[:27]}"


def _given(mol: Chem.Mol, source: Chem.Mol) -> np.ndarray | None:
    """The input's coordinates for a parent molecule; see ``StandardizedMolecule.given``."""
    atom_at = {tuple(position): index for index, position in enumerate(source.GetConformer().GetPositions().tolist())}
    stored = [atom_at[tuple(position)] for position in mol.GetConformer().GetPositions().tolist()]
    hydrogens: list[int] = []
    complete = True
    for atom, origin in zip(mol.GetAtoms(), stored, strict=True):
        neighbours = source.GetAtomWithIdx(origin).GetNeighbors()
        attached = sorted({a.GetIdx() for a in neighbours if a.GetAtomicNum() == 1} - set(stored))
        complete &= len(attached) == atom.GetTotalNumHs()
        hydrogens += attached
    return source.GetConformer().GetPositions()[stored + hydrogens if complete else stored]

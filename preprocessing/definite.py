"""Whether what RDKit has read is the one molecule that the text names: nothing undecided, nothing lost or added."""

import functools
import re

from rdkit import Chem
from rdkit.Chem import BondType, rdMolDescriptors

from molstream.errors import MoleculeError
from molstream.preprocessing.fields import Format

BOND_TYPES = frozenset(
    {BondType.SINGLE, BondType.DOUBLE, BondType.TRIPLE, BondType.QUADRUPLE, BondType.AROMATIC, BondType.DATIVE}
)
"""Bonds that say which atoms are bonded, and how; ``any``, ``single or double``, hydrogen and zero bonds do not."""
UNDECIDED = frozenset("~:|")
"""Characters without which a SMILES has no bond of unknown order, no extension, and nothing else that is undecided."""
COMPLETE_GROUPS = frozenset({"DAT", "SUP", "MUL", "GEN", "COM", "MIX", "FOR"})
"""Substance groups whose atoms are all in the atom block: data, abbreviations, multiples, parts of a mixture. The
others (SRU, MON, COP, ...) are units of a polymer."""
REPEATED = "_molLinkNodes"
"""Property with the atoms that occur a variable number of times."""
LABELS = ("molFileAlias", "atomLabel")
"""Properties with a text that is shown in place of an atom: alias of a mol block, label of a CXSMILES."""
SPECIAL_LINES = re.compile(r"^(A  |M  (S|APO|LIN|V30 )|[ \d]{6}  [4-9]|[ \d]{6} 1\d)", re.MULTILINE)
"""Lines of a mol block for aliases, substance groups, attachment points, repeated atoms, and bonds of other types than
1, 2 and 3; V3000 has all of these in its own way."""


def may_be_indefinite(mol: Chem.Mol, text: str, format: Format) -> bool:
    """Whether :func:`require_definite` can find anything, at a fraction of its time.

    Args:
        mol: read from ``text``.
    """
    if format == "smiles":
        return not UNDECIDED.isdisjoint(text)
    parts = (*mol.GetAtoms(), *mol.GetBonds())
    return SPECIAL_LINES.search(text) is not None or any(part.HasQuery() for part in parts)


def require_definite(mol: Chem.Mol) -> None:
    """Check that every atom and bond of a sanitized molecule is a definite one.

    Raises:
        MoleculeError: a bond of several possible orders (reason ``query_bond``), a query atom (``query_atom``), or a
            text, attachment point or repeating unit that stands for more than the atoms (``indefinite_structure``).
    """
    if mol.HasProp(REPEATED):
        raise MoleculeError("parse", "indefinite_structure", f"atoms that repeat: {mol.GetProp(REPEATED)}")
    for bond in mol.GetBonds():
        _require_definite_bond(bond)
    for atom in mol.GetAtoms():
        _require_definite_atom(atom)
    for group in Chem.GetMolSubstanceGroups(mol):
        kind = group.GetProp("TYPE")
        if kind not in COMPLETE_GROUPS:
            raise MoleculeError(
                "parse", "indefinite_structure", f"a substance group of type {kind}, a part of a polymer"
            )


def _require_definite_bond(bond: Chem.Bond) -> None:
    kind, ends = bond.GetBondType(), (bond.GetBeginAtom(), bond.GetEndAtom())
    # RDKit keeps the delocalised bonds of a carboxylate, but no valence follows from them.
    delocalised = kind == BondType.AROMATIC and not all(atom.GetIsAromatic() for atom in ends)
    if bond.HasQuery() or kind not in BOND_TYPES or delocalised:
        between = " and ".join(f"{atom.GetSymbol()}{atom.GetIdx() + 1}" for atom in ends)
        what = "delocalised" if delocalised else f"of type {kind.name.lower()}"
        raise MoleculeError("parse", "query_bond", f"the bond between {between} is {what}: its order is not known")
    if bond.HasProp("_MolFileBondEndPts"):
        raise MoleculeError("parse", "indefinite_structure", "a bond to any of several atoms")


def _require_definite_atom(atom: Chem.Atom) -> None:
    number = atom.GetIdx() + 1
    if atom.HasQuery() and atom.GetAtomicNum():
        raise MoleculeError("parse", "query_atom", f"atom {number} is a query: {atom.GetSmarts()}")
    if atom.HasProp("molAttchpt"):
        raise MoleculeError("parse", "indefinite_structure", f"an attachment point at atom {number}")
    for name in LABELS:
        if atom.HasProp(name) and atom.GetAtomicNum() and not _names(atom.GetProp(name), atom):
            detail = f"the text '{atom.GetProp(name)}' in place of atom {number}, {atom.GetSymbol()}"
            raise MoleculeError("parse", "indefinite_structure", detail)


def _names(label: str, atom: Chem.Atom) -> bool:
    """Whether a label is the atom itself, as in CH3, H2N or NH3+."""
    symbol = re.escape(atom.GetSymbol())
    return re.fullmatch(rf"(H\d*)?{symbol}(H\d*)?([+-]\d*)?", label.strip()) is not None


def is_rewritten(mol: Chem.Mol) -> bool:
    """Whether sanitization may have changed bonds and charges of ``mol``: whatever it rewrites has charges then."""
    return mol.HasSubstructMatch(_charged())


@functools.cache
def _charged() -> Chem.Mol:
    return Chem.MolFromSmarts("[!+0]")


def require_conserved(written: Chem.Mol, mol: Chem.Mol) -> None:
    """Check that sanitization has kept formula and charge.

    RDKit rewrites groups with impossible valences, and for some of them (N#N=O) it makes another molecule.

    Args:
        written: as read without sanitization.
        mol: as read with it.

    Raises:
        MoleculeError: with the reason ``not_conserved``.
    """
    written.UpdatePropertyCache(strict=False)
    before, after = (rdMolDescriptors.CalcMolFormula(each) for each in (written, mol))
    if before != after:
        raise MoleculeError("parse", "not_conserved", f"{before} is written, but RDKit makes {after} of it")

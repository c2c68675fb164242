"""Canonical stereo tags of atoms with more than four neighbours, and of square planar ones.

RDKit numbers the arrangements of ligands around such a centre by the order of its bonds, and writes the number that it
has read. Where ligands are equivalent, several numbers name one arrangement; where all arrangements are one, as in SF6,
the number says nothing. Both are settled here: of equivalent numbers the one with the first SMILES is taken, and those
that say nothing go.
"""

import functools
import itertools
import re
from collections.abc import Iterable, Sequence

from rdkit import Chem
from rdkit.Chem import ChiralType

KINDS = {
    ChiralType.CHI_SQUAREPLANAR: "SP",
    ChiralType.CHI_TRIGONALBIPYRAMIDAL: "TB",
    ChiralType.CHI_OCTAHEDRAL: "OH",
}
"""The tags of SMILES."""
TAG = re.compile(f"@({'|'.join(KINDS.values())})")
NUMBER = "_chiralPermutation"
"""RDKit's property for the number of an arrangement."""


def settle_polyhedra(mol: Chem.Mol, smiles: str) -> str:
    """Give the centres of a molecule their canonical tags, in place.

    Args:
        mol: any molecule.
        smiles: its canonical SMILES.

    Returns:
        The canonical SMILES with these tags. Centres are settled one after the other, so that of molecules with
        several ones that depend on each other not every pair of drawings is unified.
    """
    if TAG.search(smiles) is None:
        return smiles
    for atom in mol.GetAtoms():
        if atom.GetChiralTag() in KINDS:
            _settle(mol, atom)
    return Chem.MolToSmiles(mol)


def _settle(mol: Chem.Mol, center: Chem.Atom) -> None:
    number = center.GetIntProp(NUMBER) if center.HasProp(NUMBER) else 0
    ligands = [bond.GetOtherAtomIdx(center.GetIdx()) for bond in center.GetBonds()]
    shape = KINDS[center.GetChiralTag()], center.GetTotalNumHs(), len(ligands)
    same = _reached(shape, number, _symmetries(mol, center, ligands)) if number else set()
    if same == (_reached(shape, number, _transpositions(range(len(ligands)))) if number else set()):
        center.SetChiralTag(ChiralType.CHI_UNSPECIFIED)
        return
    texts: dict[str, int] = {}
    for each in sorted(same):
        center.SetIntProp(NUMBER, each)
        texts.setdefault(Chem.MolToSmiles(mol), each)
    center.SetIntProp(NUMBER, texts[min(texts)])


def _transpositions(classes: Iterable[int]) -> list[tuple[int, ...]]:
    """Every exchange of two ligands, of as many as ``classes`` has."""
    places = list(classes)
    orders = []
    for first, second in itertools.combinations(places, 2):
        order = list(places)
        order[first], order[second] = second, first
        orders.append(tuple(order))
    return orders


def _symmetries(mol: Chem.Mol, center: Chem.Atom, ligands: Sequence[int]) -> list[tuple[int, ...]]:
    """Exchanges of ligands that leave the molecule the same, stereochemistry of the centre apart.

    Equivalent ligands that are bonded to nothing else of the centre can be exchanged one by one; parts of chelates only
    in those ways in which the whole molecule stays.
    """
    bare = Chem.Mol(mol)
    bare.GetAtomWithIdx(center.GetIdx()).SetChiralTag(ChiralType.CHI_UNSPECIFIED)
    ranks = list(Chem.CanonicalRankAtoms(bare, breakTies=False))
    classes = [ranks[index] for index in ligands]
    if not any(bond.IsInRing() for bond in center.GetBonds()):
        return [order for order in _transpositions(range(len(ligands))) if [classes[k] for k in order] == classes]
    orders = (o for o in itertools.permutations(range(len(ligands))) if [classes[k] for k in o] == classes)
    labelled = _labelled(bare, ligands)
    return [order for order in orders if _labelled(bare, [ligands[k] for k in order]) == labelled]


def _labelled(mol: Chem.Mol, ligands: Sequence[int]) -> str:
    """Canonical SMILES with the ligands numbered in their order."""
    labelled = Chem.Mol(mol)
    for number, index in enumerate(ligands, 1):
        labelled.GetAtomWithIdx(index).SetAtomMapNum(number)
    return Chem.MolToSmiles(labelled)


Shape = tuple[str, int, int]
"""Tag, implicit hydrogens and ligands of a centre."""


def _reached(shape: Shape, number: int, orders: Sequence[tuple[int, ...]]) -> set[int]:
    """The arrangements that exchanges of ligands make of one."""
    found, waiting = {number}, [number]
    while waiting:
        number = waiting.pop()
        new = {_exchanged(shape, number, order) for order in orders} - found
        found |= new
        waiting += new
    return found


@functools.cache
def _exchanged(shape: Shape, number: int, order: tuple[int, ...]) -> int:
    """The number of an arrangement after its ligands have changed places: RDKit's for a centre of labelled atoms."""
    kind, hydrogens, count = shape
    others = "".join(f"([{label}*])" for label in range(2, count + 1))
    text = f"[1*][Xe@{kind}{number}H{hydrogens}]{others}"
    mol = Chem.MolFromSmiles(text, sanitize=False)
    places = [0, *range(2, count + 1)]
    first, *rest = (places[k] for k in order)
    written = Chem.MolToSmiles(Chem.RenumberAtoms(mol, [first, 1, *rest]), canonical=False)
    match = re.search(rf"@{kind}(\d+)", written)
    assert match is not None
    return int(match[1])

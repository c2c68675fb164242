"""How the graph of a molecule is laid on its geometry: which of its equivalent atoms has which position."""

from collections.abc import Iterable

import numpy as np
from rdkit import Chem

from molstream.preprocessing.alignment import MAX_SYMMETRIES
from molstream.preprocessing.polyhedra import KINDS as POLYHEDRA
from molstream.preprocessing.polyhedra import NUMBER

MAX_HYDROGENS = 16
"""More than any atom has."""

NUM_TAGS = len(Chem.ChiralType.values)

ALTERNATING = Chem.MolFromSmarts("[$(*=;@*-;@*=;@*),$([!+0]-*=*),$([!+0]=*-*)]")
"""Query for what any molecule has whose double bonds can be drawn in another place without moving a hydrogen: they
alternate in a ring that is not aromatic, or they are next to a charge."""


def coordinate_order(positions: np.ndarray) -> np.ndarray:
    """Indices that sort atoms by x, then y, then z, int64 [m]: an order that does not depend on the file's."""
    return np.lexsort(positions.T[::-1])


def laid(mol: Chem.Mol) -> Chem.Mol:
    """``mol`` with its positions exchanged among equivalent atoms, if they then suit its graph better.

    Atoms are equivalent here if a symmetry of the graph of elements, hydrogens and bonds without their orders exchanges
    them. Two things tell which of the symmetric ways to lay the graph on the geometry is right:

    - Chirality tags. Canonical SMILES writes stereocentres that depend on each other, as in
      cis-1,3-dimethylcyclobutane, in one of the two ways that name the molecule, whichever way they were read; the
      other one then numbers equivalent atoms differently.
    - Bond orders. In azocine or cyclooctatetraene, whose double bonds alternate and are not aromatic, and in a nitro
      group or carboxylate, a graph names one of several equivalent resonance structures. Bonds of higher order are laid
      on shorter distances: the sum of order times length is the smallest one.

    Where no symmetry relates the resonance structure of the graph to the one that the geometry shows, as in
    methylazocine, every atom still has its own position, and a double bond may have the length of a single one: a
    record has the canonical structure, for the two are one molecule. If no numbering suits all tags, the molecule is
    returned as it is. At most MAX_SYMMETRIES numberings are tried.
    """
    by_order = orders_can_move(mol)
    if not by_order and _tags_hold(mol):
        return mol
    skeleton = skeleton_of(mol, with_hydrogens=True)
    numberings = np.array(skeleton.GetSubstructMatches(skeleton, uniquify=False, maxMatches=MAX_SYMMETRIES))
    positions = mol.GetConformer().GetPositions()
    if by_order:
        numberings = numberings[_shortest_first(mol, positions, numberings)]
    for numbering in numberings:
        dealt = Chem.Mol(mol)
        dealt.GetConformer().SetPositions(positions[numbering])
        if _tags_hold(dealt):
            return dealt
    return mol


def orders_can_move(mol: Chem.Mol) -> bool:
    """Whether equivalent bonds of the skeleton may have different orders in ``mol``, so that its laying matters."""
    if not mol.HasSubstructMatch(ALTERNATING):
        return False
    ranks = list(Chem.CanonicalRankAtoms(skeleton_of(mol, with_hydrogens=True), breakTies=False))
    orders: dict[tuple[int, int], float] = {}
    for bond in mol.GetBonds():
        i, j = ranks[bond.GetBeginAtomIdx()], ranks[bond.GetEndAtomIdx()]
        order = bond.GetBondTypeAsDouble()
        if orders.setdefault((i, j) if i < j else (j, i), order) != order:
            return True
    return False


def _shortest_first(mol: Chem.Mol, positions: np.ndarray, numberings: np.ndarray) -> np.ndarray:
    """Indices that sort numberings, int [k, n], by the sum of order times length, then by the order of coordinates."""
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), b.GetBondTypeAsDouble()) for b in mol.GetBonds()]
    begin, end, order = (np.array(column) for column in zip(*bonds, strict=True))
    lengths = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    # Sorted before they are added, so that numberings which differ by a symmetry of the molecule have equal sums.
    cost = np.sort(lengths[numberings[:, begin], numberings[:, end]] * order, axis=1).sum(axis=1)
    rank = np.empty(len(positions), dtype=np.int64)
    rank[coordinate_order(positions)] = np.arange(len(positions))
    return np.lexsort((*rank[numberings].T[::-1], cost))


def _tags_hold(mol: Chem.Mol) -> bool:
    """Whether the positions show every specified stereocentre and double bond as the graph has it."""
    tags, stereo = stereochemistry(mol)
    if not any(tags) and not any(stereo):
        return True
    shown = Chem.Mol(mol)
    Chem.AssignAtomChiralTagsFromStructure(shown, replaceExistingTags=True)
    if any(before not in (0, after) for before, after in zip(tags, stereochemistry(shown)[0], strict=True)):
        return False
    Chem.AssignStereochemistryFrom3D(shown)
    return all(before in (0, after) for before, after in zip(stereo, stereochemistry(shown)[1], strict=True))


def stereochemistry(mol: Chem.Mol) -> tuple[list[int], list[Chem.BondStereo]]:
    """Chirality tag of every atom, with the number of its arrangement, and stereo of every bond; 0 is unspecified."""
    # By index: RDKit's iterators take several times as long.
    return (
        [_tag(mol.GetAtomWithIdx(index)) for index in range(mol.GetNumAtoms())],
        [mol.GetBondWithIdx(index).GetStereo() for index in range(mol.GetNumBonds())],
    )


def _tag(atom: Chem.Atom) -> int:
    tag = atom.GetChiralTag()
    if tag not in POLYHEDRA:
        return int(tag)
    # More than four neighbours, or square planar ones, are told apart by a number beside the tag.
    number = atom.GetIntProp(NUMBER) if atom.HasProp(NUMBER) else 0
    return int(tag) + NUM_TAGS * number


def skeleton_of(mol: Chem.Mol, with_hydrogens: bool = False) -> Chem.Mol:
    """The graph of elements and bonds alone: no orders, charges, isotopes, stereochemistry or implicit hydrogens.

    ``with_hydrogens`` tells atoms apart by isotope and implicit hydrogens too, as isotopes of the skeleton.
    """
    ends = ((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds())
    bare = bare_graph(atomic_numbers(mol), ends)
    if with_hydrogens:
        for atom, copy in zip(mol.GetAtoms(), bare.GetAtoms(), strict=True):
            copy.SetIsotope(atom.GetIsotope() * MAX_HYDROGENS + atom.GetTotalNumHs())
    return bare


def atomic_numbers(mol: Chem.Mol) -> list[int]:
    """Atomic numbers of the atoms."""
    return [mol.GetAtomWithIdx(index).GetAtomicNum() for index in range(mol.GetNumAtoms())]


def bare_graph(numbers: list[int], ends: Iterable[tuple[int, int]]) -> Chem.Mol:
    """Atoms by number, single bonds between them, and nothing else."""
    mol = Chem.RWMol()
    for number in numbers:
        atom = Chem.Atom(number)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for begin, end in ends:
        mol.AddBond(begin, end, Chem.BondType.SINGLE)
    mol.UpdatePropertyCache(strict=False)
    return mol.GetMol()

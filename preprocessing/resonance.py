"""One resonance form of every molecule: where the double bonds and charges of a conjugated system are written.

A canonical SMILES is a function of bond orders and charges. One molecule has many of them: Kekule forms of rings that
RDKit does not take for aromatic, charges that move along an amidinium ion or a dye, bonds of phosphorus, sulfur or
nitrogen that are drawn as two charges. Here a conjugated system is reduced to what all its forms share, which are its
atoms, their hydrogens, the bonds between them and the whole charge. Its atoms are put in the canonical order of that
skeleton, and charges and bond orders are laid over it anew: as few charges as possible, on the atoms that bear them
best, double bonds in rings rather than beside them, and of forms that are equally good the first one. The result thus
is a function of the skeleton, and does not depend on the form that was read.
"""

import functools
from collections.abc import Iterator, Sequence

from rdkit import Chem
from rdkit.Chem import BondDir, BondStereo, BondType

from molstream.preprocessing.bond_orders import Assignment, System, assign
from molstream.preprocessing.conjugation import ORDERS, OXO_GROUPS, ConjugatedSystem, conjugated_systems
from molstream.preprocessing.hydrogens import smiles_order

TYPES = {order: kind for kind, order in ORDERS.items()}
SULFUR = 16


@functools.cache
def _queries() -> tuple[tuple[Chem.Mol, Chem.Mol], ...]:
    """What has a choice, each as a quick query for most molecules without, and the exact one.

    The first pair finds charges, radicals and S(IV) with two neighbours, but for charges that have but one place, as
    in nitro groups and sulfoxides. The others find what every ring has whose bonds alternate but are not all aromatic.
    """
    unusual = "!+0&!D0,#6!v4,#7!v3,#8!v2,#16v4,#34"
    elsewhere = "!+0;!D0;!$([#7X4]);!$([#15X4]([#6])([#6])([#6])[#6])"
    oxo = "!$([#7X3+](=[0#8X1])[0#8X1-]);!$([0#8X1-][#7X3+]=[0#8X1]);!$([0#8X1-][#6]=[0#8X1]);!$([0#8X1-][#16X4](=O)=O)"
    sulfoxide = "[#16X3v3+]([0#8X1-])([!#8])[!#8]"
    oxo += f";!$({sulfoxide});!$([0#8X1-]{sulfoxide.replace('([0#8X1-])', '')})"
    exact = f"[$([{elsewhere};{oxo}]),$([#6;!v4]),$([#7;+0;!v3]),$([#8;+0;!v2]),$([#16,#34;X2;v4])]"
    between, beside = "[$(*=,:;@*)]-;!:;@[$(*=,:;@*)]", "a=;!:;@*"
    pairs = ((f"[{unusual}]", exact), ("[^2]-;!:;@[^2]", between), (beside, beside))
    return tuple((Chem.MolFromSmarts(quick), Chem.MolFromSmarts(query)) for quick, query in pairs)


def canonical_resonance(mol: Chem.Mol) -> Chem.Mol:
    """The molecule in its canonical resonance form; ``mol`` itself where there is nothing to choose.

    A double bond that an equally good form has as a single one loses its E or Z, which that form cannot say.

    Args:
        mol: sanitized, or at least with valences, aromaticity and rings as RDKit finds them.
    """
    seeds = {
        index
        for quick, query in _queries()
        if mol.HasSubstructMatch(quick)
        for match in mol.GetSubstructMatches(query)
        for index in match
    }
    if not seeds:
        return mol
    form, rewritten = _rewritten(mol, seeds)
    # Which systems had a choice, and with them the canonical order, may have depended on how they were drawn.
    return _rewritten(form, seeds)[0] if rewritten > 1 else form


def _rewritten(mol: Chem.Mol, seeds: set[int]) -> tuple[Chem.Mol, int]:
    """The molecule with every system that has a choice in its canonical form, and the number of such systems."""
    kekule = Chem.RWMol(mol)
    Chem.Kekulize(kekule, clearAromaticFlags=True)
    systems = [system for system in conjugated_systems(kekule, seeds) if system.has_choice(mol)]
    if not systems:
        return mol, 0
    Chem.GetSymmSSSR(kekule)
    stereo = []
    for bond in kekule.GetBonds():
        if len(bond.GetStereoAtoms()) == 2:
            stereo.append(bond)
        else:
            # A flag without the neighbours that it is about says nothing, and crashes RDKit below.
            bond.SetStereo(BondStereo.STEREONONE)
    ranks = _canonical_ranks(mol, systems)
    for system in systems:
        _rewrite(kekule, system, ranks, stereo)
    if stereo:
        # RDKit reads E and Z from the directions of single bonds; those around bonds that lost it have to go.
        for bond in kekule.GetBonds():
            bond.SetBondDir(BondDir.NONE)
        Chem.SetDoubleBondNeighborDirections(kekule)
    form = kekule.GetMol()
    if Chem.SanitizeMol(form, catchErrors=True) != Chem.SANITIZE_NONE:
        return mol, 0
    return form, len(systems)


def _rewrite(mol: Chem.RWMol, system: ConjugatedSystem, ranks: dict[int, int], stereo: Sequence[Chem.Bond]) -> None:
    """Give a system its canonical form, in place; it stays as drawn if there is none.

    Args:
        mol: a Kekule form.
        system: of that form.
        ranks: canonical ones of all atoms.
        stereo: the bonds with E or Z.
    """
    free = sorted(system.free(), key=ranks.__getitem__)
    reduced = system.reduced(mol, free)
    found = assign(reduced, system.max_charges) if free else Assignment([], {}, 0, 0)
    if found is None:
        return
    for bond in _turning(stereo, free, reduced, found):
        bond.SetStereo(BondStereo.STEREONONE)
    states = {index: (state.charge, state.radical) for index, state in zip(free, found.states, strict=True)}
    orders = {frozenset((free[i], free[j])): 1 + extra for (i, j), extra in found.pi_bonds.items()}
    for center, oxygens in system.oxo.items():
        double, charge = OXO_GROUPS[system.kind(center)]
        states[center] = charge, 0
        for place, oxygen in enumerate(sorted(oxygens, key=ranks.__getitem__)):
            states[oxygen] = (0 if place < double else -1), 0
            orders[frozenset((center, oxygen))] = 2 if place < double else 1
    for index, part in system.parts.items():
        _write_atom(mol.GetAtomWithIdx(index), part.hydrogens, *states[index])
        for other in part.bonds:
            if other < index:
                _write_bond(mol.GetBondBetweenAtoms(index, other), orders.get(frozenset((index, other)), 1))
    for index, part in system.parts.items():
        if part.number == SULFUR and part.degree == 3:
            _separate_sulfoxide(mol.GetAtomWithIdx(index))


def _turning(
    stereo: Sequence[Chem.Bond], free: Sequence[int], system: System, found: Assignment
) -> Iterator[Chem.Bond]:
    """Bonds with an E or Z that are single in the canonical form or in one that is as good."""
    place = {index: k for k, index in enumerate(free)}
    for bond in stereo:
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if not all(end in place for end in ends):
            continue
        pair = min(place[end] for end in ends), max(place[end] for end in ends)
        other = assign(system.without_pi_bond(*pair), found.charges) if pair in found.pi_bonds else found
        if other is not None and other.cost == found.cost:
            yield bond


def _write_atom(atom: Chem.Atom, hydrogens: int, charge: int, radical: int) -> None:
    atom.SetNoImplicit(True)
    atom.SetNumExplicitHs(hydrogens)
    atom.SetFormalCharge(charge)
    atom.SetNumRadicalElectrons(radical)


def _write_bond(bond: Chem.Bond, order: int) -> None:
    bond.SetBondType(TYPES[order])
    if order != 2:
        bond.SetStereo(BondStereo.STEREONONE)


def _separate_sulfoxide(atom: Chem.Atom) -> None:
    """Write a sulfoxide, which has no other oxygen at its sulfur, with charges, as RDKit does."""
    oxygens = [bond for bond in atom.GetBonds() if bond.GetOtherAtom(atom).GetAtomicNum() == 8]
    valence = sum(ORDERS[bond.GetBondType()] for bond in atom.GetBonds())
    if len(oxygens) == 1 and oxygens[0].GetBondType() == BondType.DOUBLE and valence == 4 and atom.GetDegree() == 3:
        oxygens[0].SetBondType(BondType.SINGLE)
        oxygens[0].GetOtherAtom(atom).SetFormalCharge(-1)
        atom.SetFormalCharge(1)


def _canonical_ranks(mol: Chem.Mol, systems: Sequence[ConjugatedSystem]) -> dict[int, int]:
    """The place of every atom in the canonical SMILES of the skeleton.

    In it the bonds of a system are single and its atoms are alike, each with the charge of the whole.
    """
    skeleton = Chem.RWMol(mol)
    for system in systems:
        for index, part in system.parts.items():
            atom = skeleton.GetAtomWithIdx(index)
            atom.SetIsAromatic(False)
            atom.SetNoImplicit(True)
            atom.SetNumExplicitHs(part.hydrogens)
            atom.SetNumRadicalElectrons(0)
            atom.SetFormalCharge(system.charge + 10 * system.radicals)
            for other in part.bonds:
                bond = skeleton.GetBondBetweenAtoms(index, other)
                bond.SetIsAromatic(False)
                bond.SetStereo(BondStereo.STEREONONE)
                bond.SetBondType(BondType.SINGLE)
    skeleton.UpdatePropertyCache(strict=False)
    Chem.MolToSmiles(skeleton)
    return {index: place for place, index in enumerate(smiles_order(skeleton))}

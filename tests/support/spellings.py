"""Other texts of a molecule: atom orders, Kekule forms, resonance forms, bonds drawn as two charges."""

import random
from collections.abc import Iterator

from rdkit import Chem
from rdkit.Chem import BondType

STEREONONE = Chem.BondStereo.STEREONONE
MAX_FORMS = 8
"""Most resonance forms of a molecule."""
MAX_ATOMS = 50
"""Heavy atoms of the largest molecules that resonance forms are made of: RDKit takes minutes for some porphyrins."""
CHARGED = Chem.MolFromSmarts("[P,S,Se,As,Te;!X1]=;!@[O,S,Se,N,C]")
"""Double bonds that are drawn as two charges as well."""
CUMULATED = Chem.MolFromSmarts("[#6,#7]=[N+]=[N-]")
"""Azides and diazo compounds."""


def other_spellings(text: str, seed: int) -> Iterator[tuple[str, str]]:
    """Other texts of the molecule of a SMILES, each with its kind."""
    mol = Chem.MolFromSmiles(text)
    for order in Chem.MolToRandomSmilesVect(mol, 2, randomSeed=seed + 1):
        yield "order", order
    kekule = _shuffled(mol, seed)
    Chem.Kekulize(kekule, clearAromaticFlags=True)
    yield "Kekule form", Chem.MolToSmiles(kekule, canonical=False, kekuleSmiles=True)
    flags = Chem.ResonanceFlags.KEKULE_ALL | Chem.ResonanceFlags.ALLOW_CHARGE_SEPARATION
    small = mol.GetNumHeavyAtoms() <= MAX_ATOMS
    for form in Chem.ResonanceMolSupplier(mol, flags, MAX_FORMS) if small else ():
        if form is not None:
            kind = "resonance form" if _says_as_much(form, mol) else "resonance form that says less"
            yield kind, Chem.MolToSmiles(_shuffled(form, seed), canonical=False)
    for form in _separated(mol):
        yield "charges", Chem.MolToSmiles(_shuffled(form, seed), canonical=False)


def _says_as_much(form: Chem.Mol, mol: Chem.Mol) -> bool:
    """Whether a form, whose atoms are in the order of the molecule's, says E or Z of every bond that the molecule does.

    It cannot where the bond is single, or one of two double bonds in a row.
    """
    form = Chem.Mol(form)
    if Chem.SanitizeMol(form, catchErrors=True) != Chem.SANITIZE_NONE:
        return True
    pairs = zip(form.GetBonds(), mol.GetBonds(), strict=True)
    if any(written.GetBondType() != BondType.DOUBLE for written, bond in pairs if bond.GetStereo() != STEREONONE):
        return False
    # By its text: on one of two double bonds in a row RDKit leaves the mark that it had.
    text = Chem.MolFromSmiles(Chem.MolToSmiles(form, allBondsExplicit=True))
    return text is None or _num_sides(text) >= _num_sides(mol)


def _num_sides(mol: Chem.Mol) -> int:
    """Number of double bonds that say E or Z."""
    return sum(bond.GetStereo() != STEREONONE for bond in mol.GetBonds())


def _shuffled(mol: Chem.Mol, seed: int) -> Chem.Mol:
    order = list(range(mol.GetNumAtoms()))
    random.Random(seed).shuffle(order)
    return Chem.RenumberAtoms(mol, order)


def _separated(mol: Chem.Mol) -> Iterator[Chem.Mol]:
    """The molecule with each bond of phosphorus, sulfur and the like as two charges, and each azide the other way."""
    for first, second in mol.GetSubstructMatches(CHARGED):
        yield _drawn(mol, [(first, second, BondType.SINGLE)], {first: 1, second: -1})
    for first, second, third in mol.GetSubstructMatches(CUMULATED):
        bonds = [(first, second, BondType.SINGLE), (second, third, BondType.TRIPLE)]
        yield _drawn(mol, bonds, {first: -1, third: 1})


def _drawn(mol: Chem.Mol, bonds: list[tuple[int, int, BondType]], charges: dict[int, int]) -> Chem.Mol:
    drawn = Chem.RWMol(mol)
    for index, charge in charges.items():
        atom = drawn.GetAtomWithIdx(index)
        atom.SetNumExplicitHs(atom.GetTotalNumHs())
        atom.SetNoImplicit(True)
        atom.SetFormalCharge(atom.GetFormalCharge() + charge)
    for first, second, kind in bonds:
        drawn.GetBondBetweenAtoms(first, second).SetBondType(kind)
    Chem.SanitizeMol(drawn)
    return drawn.GetMol()

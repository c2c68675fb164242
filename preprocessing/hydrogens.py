"""Hydrogens as atoms or implicit, and molecules re-read from their own SMILES, which fixes the order of the atoms."""

from rdkit import Chem

from molstream.errors import MoleculeError


def remove_hydrogens(mol: Chem.Mol) -> Chem.Mol:
    """The molecule with implicit hydrogens wherever they can be.

    That includes the hydrogen that defines the E or Z form of an imine, since it exchanges.
    """
    if mol.GetNumHeavyAtoms() == mol.GetNumAtoms():
        return mol
    parameters = Chem.RemoveHsParameters()
    parameters.removeDefiningBondStereo = True
    return Chem.RemoveHs(mol, parameters)


def read_with_hydrogens(smiles: str) -> Chem.Mol:
    """The molecule of a stored SMILES, its hydrogens as atoms behind those of the SMILES, in the order of ``AddHs``."""
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


def smiles_order(mol: Chem.Mol) -> list[int]:
    """Atoms of ``mol`` in the order of the SMILES last written for it."""
    return [int(index) for index in mol.GetProp("_smilesAtomOutputOrder").strip("[],").split(",")]


def reread(mol: Chem.Mol, smiles: str) -> Chem.Mol:
    """The molecule parsed from the SMILES just written for ``mol``, with the conformer of ``mol`` if it has one.

    Raises:
        MoleculeError: the SMILES is empty, RDKit cannot read it, or atoms are missing for the conformer.
    """
    if not smiles:
        raise MoleculeError("standardize", "no_atoms", "standardizing left no atom")
    read = Chem.MolFromSmiles(smiles)
    if read is None:
        raise MoleculeError("standardize", "rdkit_error", f"RDKit cannot read back its own SMILES {smiles}")
    if mol.GetNumConformers():
        if read.GetNumAtoms() != mol.GetNumAtoms():
            raise MoleculeError("standardize", "rdkit_error", f"RDKit reads back other hydrogens from {smiles}")
        conformer = Chem.Conformer(read.GetNumAtoms())
        conformer.SetPositions(mol.GetConformer().GetPositions()[smiles_order(mol)])
        read.AddConformer(conformer)
    return read


def without_stereochemistry(mol: Chem.Mol) -> Chem.Mol:
    """The molecule re-read from its canonical SMILES without stereochemistry, hydrogens implicit where they can be.

    The order of its atoms thus does not depend on how the molecule was spelled. It keeps the first conformer.
    """
    mol = Chem.Mol(mol)
    Chem.RemoveStereochemistry(mol)
    mol = remove_hydrogens(mol)
    return reread(mol, Chem.MolToSmiles(mol))


def without_hydrogens(source: Chem.Mol) -> Chem.Mol:
    """The molecule with implicit hydrogens where they can be; with a geometry, stereochemistry is read from it.

    The atom order then is that of the stereo-free canonical SMILES first: what RDKit finds in a ring with several
    dependent stereocentres would otherwise depend on the order of the bonds in the file.
    """
    if not source.GetNumConformers():
        return remove_hydrogens(source)
    mol = without_stereochemistry(source)
    Chem.AssignStereochemistryFrom3D(mol)
    return mol

"""Every conformer that is stored is one of its molecule: bonds, stereochemistry, and double bonds where they are short.

Right values come from the molecules that the geometries were made of, and from lengths measured here.
"""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from rdkit.Geometry import Point3D

from molstream.preprocessing.config import ConformerConfig, FeaturizeConfig
from molstream.preprocessing.featurize import Description, describe
from molstream.preprocessing.fields import RawMolecule, Rejection
from tests.support.diverse import same_bytes

ALL = FeaturizeConfig(hydrogens="all", conformers=ConformerConfig(num_conformers=0))
DOUBLE = 1
"""Index of double bonds in OGB's vocabulary."""


def embedded(text: str, count: int = 1) -> Chem.Mol:
    """A molecule with all its hydrogens and ``count`` conformers."""
    mol = Chem.AddHs(Chem.MolFromSmiles(text))
    assert len(rdDistGeom.EmbedMultipleConfs(mol, count, randomSeed=7)) == count
    return mol


def record_of(mol: Chem.Mol, order: Sequence[int] | None = None, **keys: object) -> dict:
    """The geometry record of a molecule, its atoms in another order."""
    order = list(range(mol.GetNumAtoms())) if order is None else list(order)
    numbers = [mol.GetAtomWithIdx(i).GetAtomicNum() for i in order]
    return {**keys, "numbers": numbers, "positions": [c.GetPositions()[order].tolist() for c in mol.GetConformers()]}


def described(text: str | dict, format: str = "geometry") -> Description | Rejection:
    """The description of a mol block, SMILES or geometry record."""
    text = text if isinstance(text, str) else json.dumps(text)
    return describe(RawMolecule(text, format, "test", 0), ALL)  # pyright: ignore[reportArgumentType]


def kept(text: str | dict, format: str = "geometry") -> Description:
    """The description of a text that must give one."""
    result = described(text, format)
    assert isinstance(result, Description), result
    return result


def refused(text: str | dict, format: str = "geometry") -> Rejection:
    """The rejection of a text that must give one."""
    result = described(text, format)
    assert isinstance(result, Rejection), result
    assert result.stage == "parse"
    return result


def pulled(positions: np.ndarray, atom: int, angstrom: float, away_from: int) -> np.ndarray:
    """Positions with one atom moved along its bond to another one."""
    moved = positions.copy()
    direction = positions[atom] - positions[away_from]
    moved[atom] += angstrom * direction / np.linalg.norm(direction)
    return moved


def mirrored(positions: np.ndarray) -> np.ndarray:
    return positions * [-1, 1, 1]


def double_bonds(result: Description) -> list[float]:
    """Lengths of the double bonds of a record in its first conformer, angstrom."""
    sample = result.sample
    chosen = sample.bond_index.T[sample.bond_features[:, 0] == DOUBLE]
    return [float(np.linalg.norm(sample.positions[0][i] - sample.positions[0][j])) for i, j in chosen]


AZOCINE = "C1=CC=CN=CC=C1"
ALTERNATING = {
    "azocine": (AZOCINE, 4),
    "cyclooctatetraene": ("C1=CC=CC=CC=C1", 4),
    "methylcyclooctatetraene": ("CC1=CC=CC=CC=C1", 4),
    "1,5-diazocine": ("C1=CN=CC=CN=C1", 4),
    "pentalene": ("C1=CC2=CC=CC2=C1", 4),
    "a carboxylate": ("C[N+](C)(C)CC(=O)[O-]", 1),
}


@pytest.mark.parametrize(("text", "count"), ALTERNATING.values(), ids=ALTERNATING)
def test_double_bonds_are_where_the_geometry_has_them(text, count):
    """In every order of the atoms and with the SMILES of either structure, in the same bytes."""
    mol = embedded(text)
    shorten_double_bonds(mol)
    expected = kept(record_of(mol, smiles=text))
    assert len(double_bonds(expected)) == count
    assert max(double_bonds(expected)) < 1.40
    rng = np.random.default_rng(0)
    for spelling in Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(text), 4, randomSeed=3):
        again = kept(record_of(mol, rng.permutation(mol.GetNumAtoms()).tolist(), smiles=spelling))
        assert same_bytes(again.sample, expected.sample)
    assert same_bytes(kept(Chem.MolToMolBlock(mol), "molblock").sample, kept(shuffled_block(mol), "molblock").sample)


def shorten_double_bonds(mol: Chem.Mol) -> None:
    """Move the ends of every double bond to 1.3 angstrom, whatever ETKDG gave."""
    conformer = mol.GetConformer()
    for bond in mol.GetBonds():
        if bond.GetBondType() == Chem.BondType.DOUBLE:
            ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            first, second = (np.array(conformer.GetAtomPosition(i)) for i in ends)
            middle, half = (first + second) / 2, (second - first) / np.linalg.norm(second - first) * 0.65
            for index, place in zip(ends, (middle - half, middle + half), strict=True):
                conformer.SetAtomPosition(index, Point3D(*place.tolist()))


def shuffled_block(mol: Chem.Mol) -> str:
    order = np.random.default_rng(5).permutation(mol.GetNumAtoms()).tolist()
    return Chem.MolToMolBlock(Chem.RenumberAtoms(mol, order))


def test_a_mol_block_that_draws_the_other_structure_is_the_same_record():
    """The double bonds of cyclooctatetraene drawn on its long bonds: the geometry tells where they are."""
    mol = embedded("C1=CC=CC=CC=C1")
    shorten_double_bonds(mol)
    other = Chem.RWMol(mol)
    for bond in other.GetBonds():
        if bond.IsInRing():
            single = bond.GetBondType() == Chem.BondType.SINGLE
            bond.SetBondType(Chem.BondType.DOUBLE if single else Chem.BondType.SINGLE)
            bond.SetStereo(Chem.BondStereo.STEREONONE)
    first, second = (kept(Chem.MolToMolBlock(m), "molblock") for m in (mol, other))
    assert max(double_bonds(first)) < 1.40
    assert same_bytes(first.sample, second.sample)


def ethanol(change: str) -> np.ndarray:
    """Positions of ethanol (C, C, O, then hydrogens, the last one at O) with a fault."""
    good = embedded("CCO").GetConformer().GetPositions()
    match change:
        case "a broken bond":
            return pulled(good, 2, 5.0, away_from=1)
        case "a bond that is half broken":
            return pulled(good, 2, 0.55, away_from=1)
        case "a squeezed bond":
            return pulled(good, 2, -0.7, away_from=1)
        case "a hydrogen on another atom":
            moved = good.copy()
            moved[8] = good[0] + [0.0, 0.0, 1.05]
            return moved
        case "the atoms in another order":
            return good[[2, 0, 1, 8, 3, 4, 5, 6, 7]]
        case "atoms that collide":
            return pulled(good, 0, -1.4, away_from=1)
        case "not finite":
            return np.where(np.arange(9)[:, None] == 4, np.nan, good)
    raise ValueError(change)


FAULTS = (
    "a broken bond",
    "a bond that is half broken",
    "a squeezed bond",
    "a hydrogen on another atom",
    "the atoms in another order",
    "atoms that collide",
    "not finite",
)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("change", FAULTS)
def test_a_conformer_with_other_bonds_is_left_out_and_counted(change, place):
    mol = embedded("CCO", 3)
    record = record_of(mol, smiles="CCO") | {"energies": [1.0, 2.0, 3.0]}
    record["positions"][place] = ethanol(change).tolist()
    result = kept(record)
    assert result.left_out == ("bad_geometry",)
    good = [k for k in range(3) if k != place]
    assert result.sample.conformer_energy.tolist() == [record["energies"][k] for k in good]
    alone = {name: [record[name][k] for k in good] for name in ("positions", "energies")}
    assert same_bytes(result.sample, kept(record | alone).sample)


@pytest.mark.parametrize("change", FAULTS[:-2])
def test_without_a_good_conformer_the_row_is_rejected(change):
    record = record_of(embedded("CCO"), smiles="CCO")
    result = refused(record | {"positions": [ethanol(change).tolist()] * 2})
    assert result.reason in ("bad_geometry", "geometry_mismatch")


@pytest.mark.parametrize("change", ["a broken bond", "a bond that is half broken", "a hydrogen on another atom"])
def test_a_mol_block_with_other_bonds_is_rejected(change):
    mol = embedded("CCO")
    mol.GetConformer().SetPositions(ethanol(change))
    result = refused(Chem.MolToMolBlock(mol), "molblock")
    assert result.reason == "bad_geometry"
    assert "angstrom" in result.detail


def test_atoms_that_form_a_bond_are_no_conformer():
    """Two ends of hexane at the length of a bond: every bond of the molecule is whole, and there is one more."""
    mol = embedded("CCCCCC", 2)
    closed = embedded("C1CCCCC1").GetConformer().GetPositions()
    positions = mol.GetConformer(1).GetPositions()
    positions[:6] = closed[:6]
    carbons = Chem.MolFromMolBlock(Chem.MolToMolBlock(Chem.MolFromSmiles("CCCCCC")))
    block = Chem.Mol(carbons)
    conformer = Chem.Conformer(6)
    conformer.SetPositions(positions[:6])
    block.RemoveAllConformers()
    block.AddConformer(conformer)
    result = refused(Chem.MolToMolBlock(block), "molblock")
    assert result.reason == "bad_geometry"
    assert "C and C without a bond" in result.detail


CHIRAL = {
    "a carbon": "C[C@H](F)Cl",
    "a sulfoxide": "C[S@](=O)CC",
    "two carbons": "C[C@H](F)[C@@H](Cl)Br",
    "a ring": "C[C@H]1CCO[C@H]1F",
}


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("text", CHIRAL.values(), ids=CHIRAL)
def test_the_mirror_image_is_left_out(text, declared):
    mol = embedded(text, 3)
    smiles = text if declared else Chem.MolToSmiles(mol, isomericSmiles=False)
    record = record_of(mol, smiles=smiles)
    record["positions"][1] = mirrored(np.array(record["positions"][1])).tolist()
    result = kept(record)
    assert (result.left_out, len(result.sample.positions)) == (("stereo_mismatch",), 2)
    assert result.sample.smiles == kept(text, "smiles").sample.smiles


def test_the_first_conformer_is_left_out_too_if_the_smiles_says_so():
    mol = embedded("C[C@H](F)Cl", 3)
    record = record_of(mol, smiles="C[C@H](F)Cl")
    record["positions"][0] = mirrored(np.array(record["positions"][0])).tolist()
    result = kept(record)
    assert (result.left_out, result.sample.smiles) == (("stereo_mismatch",), "C[C@H](F)Cl")
    assert same_bytes(result.sample, kept(record | {"positions": record["positions"][1:]}).sample)


def test_an_achiral_molecule_has_mirror_images_as_conformers():
    record = record_of(embedded("OCCCN", 2), smiles="OCCCN")
    record["positions"].append(mirrored(np.array(record["positions"][0])).tolist())
    assert (kept(record).left_out, len(kept(record).sample.positions)) == ((), 3)


def test_the_other_form_of_a_double_bond_is_left_out():
    """cis- and trans-difluoroethene have equal bonds, and their atoms come in the same order."""
    cis, trans = embedded("F/C=C\\F"), embedded("F/C=C/F")
    record = record_of(cis, smiles="FC=CF")
    record["positions"] += record_of(trans)["positions"]
    result = kept(record)
    assert (result.left_out, result.sample.smiles) == (("stereo_mismatch",), "F/C=C\\F")
    result = kept(record | {"smiles": "F/C=C/F"})
    assert (result.left_out, result.sample.smiles) == (("stereo_mismatch",), "F/C=C/F")


CONTRADICTED = {
    "a carbon": ("C[C@H](F)Cl", "C[C@@H](F)Cl"),
    "a double bond": ("F/C=C/F", "F/C=C\\F"),
    "one of two": ("C[C@H](F)[C@@H](Cl)Br", "C[C@@H](F)[C@@H](Cl)Br"),
    "one, the other open": ("C[C@H](F)[C@@H](Cl)Br", "C[C@@H](F)C(Cl)Br"),
    "cis for trans in a ring": ("C[C@H]1C[C@@H](C)C1", "C[C@H]1C[C@H](C)C1"),
}


@pytest.mark.parametrize(("shown", "said"), CONTRADICTED.values(), ids=CONTRADICTED)
def test_a_geometry_that_contradicts_the_text_is_rejected(shown, said):
    result = refused(record_of(embedded(shown), smiles=said))
    assert result.reason == "stereo_mismatch"
    assert Chem.MolToSmiles(Chem.MolFromSmiles(said)) in result.detail
    assert kept(record_of(embedded(shown), smiles=shown)).left_out == ()


def test_coordinates_of_cxsmiles_that_contradict_it_are_rejected():
    text = Chem.MolToCXSmiles(embedded("C[C@H](F)Cl"))
    other = text.replace("@", "@@", 1) if "@@" not in text else text.replace("@@", "@", 1)
    assert kept(text, "smiles").sample.smiles == "C[C@H](F)Cl"
    assert refused(other, "smiles").reason == "stereo_mismatch"


def test_the_geometry_of_a_mol_block_is_its_stereochemistry():
    """Parities depend on the order of the atoms, and are to be ignored by readers."""
    mol = embedded("C[C@H](F)Cl")
    right = Chem.MolToMolBlock(mol)
    turned = right.splitlines()
    for index in range(4, 4 + mol.GetNumAtoms()):
        line = turned[index]
        turned[index] = f"{line[:39]}{ {'  1': '  2', '  2': '  1'}.get(line[39:42], line[39:42]) }{line[42:]}"
    assert "\n".join(turned) != right.rstrip("\n")
    assert same_bytes(kept("\n".join(turned), "molblock").sample, kept(right, "molblock").sample)


def test_a_block_whose_atoms_are_all_at_one_place_has_no_geometry():
    mol = embedded("CCO")
    mol.GetConformer().SetPositions(np.ones((9, 3)))
    assert len(kept(Chem.MolToMolBlock(mol), "molblock").sample.positions) == 0


def test_left_out_conformers_are_counted_only_where_given_ones_are_stored():
    record = record_of(embedded("CCO", 2), smiles="CCO")
    record["positions"][1] = ethanol("a broken bond").tolist()
    replaced = FeaturizeConfig(hydrogens="all", conformers=ConformerConfig(num_conformers=0, given="replace"))
    result = describe(RawMolecule(json.dumps(record), "geometry", "test", 0), replaced)
    assert isinstance(result, Description)
    assert result.left_out == ()


def test_frames_of_a_trajectory_are_conformers(shared_data):
    """Ethanol at 500 K: bonds stretch, none breaks."""
    with np.load(shared_data / "geom3d" / "md17" / "ethanol_2000.npz") as frames:
        numbers, positions = frames["z"].tolist(), frames["R"][::5].tolist()
    result = kept({"smiles": "CCO", "numbers": numbers, "positions": positions})
    assert (result.left_out, len(result.sample.positions)) == ((), 400)

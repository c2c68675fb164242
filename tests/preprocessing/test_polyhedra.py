"""Stereo tags of centres with more than four neighbours, or square planar: only where ligands differ, and canonical."""

from collections import Counter

import numpy as np
import pytest
from rdkit import Chem

from molstream.preprocessing.alignment import with_conformers
from molstream.preprocessing.config import StandardizeConfig
from molstream.preprocessing.fields import Format
from molstream.preprocessing.standardize import StandardizedMolecule, standardize

CONFIG = StandardizeConfig(disconnect_metals=False, largest_fragment=False)
AXES = np.concatenate([np.eye(3), -np.eye(3)])
"""The corners of an octahedron: those opposite to each other are three apart."""
TRIANGLE = np.array([[1, 0, 0], [-0.5, 0.866, 0], [-0.5, -0.866, 0], [0, 0, 1], [0, 0, -1]])
"""The corners of a trigonal bipyramid, its axis last."""


def read(text: str, format: Format = "smiles") -> StandardizedMolecule:
    return standardize(text, format, CONFIG, max_atoms=256, max_smiles_length=2000)


def block(center: str, ligands: str, corners: np.ndarray, order: np.ndarray) -> str:
    """A mol block of a centre and one-letter ligands at the corners of a polyhedron, its atoms in some order."""
    elements = np.array([center, *ligands])[order]
    lengths = np.array([2.4 if ligand == "I" else 1.7 for ligand in ligands])
    positions = np.concatenate([np.zeros((1, 3)), lengths[:, None] * corners])[order]
    first = int(np.flatnonzero(order == 0)[0]) + 1
    bonds = [f"{first:3}{k:3}  1  0" for k in range(1, len(order) + 1) if k != first]
    atoms = [
        f"{x:10.4f}{y:10.4f}{z:10.4f} {element:3} 0  0  0  0  0  0  0  0  0  0  0  0"
        for (x, y, z), element in zip(positions.tolist(), elements, strict=True)
    ]
    head = ["", "  RDKit          3D", "", f"{len(order):3}{len(bonds):3}  0  0  0  0  0  0  0  0999 V2000"]
    return "\n".join([*head, *atoms, *bonds, "M  END", ""])


def orders(size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.permutation(size) for _ in range(8)]


@pytest.mark.parametrize(
    ("center", "ligands", "corners", "smiles"),
    [
        ("S", "FFFFFF", AXES, "FS(F)(F)(F)(F)F"),
        ("P", "FFFFF", TRIANGLE, "FP(F)(F)(F)F"),
        ("S", "FFFFFI", AXES, "FS(F)(F)(F)(F)I"),
    ],
)
def test_a_centre_with_one_arrangement_has_no_tag(center, ligands, corners, smiles):
    found = {read(block(center, ligands, corners, order), "molblock").smiles for order in orders(len(ligands) + 1)}
    assert found == {smiles}


@pytest.mark.parametrize(
    ("center", "corners", "isomers"),
    [
        ("S", AXES, ("FFFFII", "FFIFFI")),
        ("S", AXES, ("FFFIII", "FFIFII")),
        ("P", TRIANGLE, ("FFFII", "FIIFF", "FFIFI")),
        ("P", TRIANGLE, ("FFFFI", "FFIFF")),
        ("S", AXES, ("FFIIBC", "FFIBIC")),
    ],
)
def test_each_isomer_has_one_tag_in_every_order_of_its_atoms(center, corners, isomers):
    found = []
    for ligands in isomers:
        texts = [block(center, ligands, corners, order) for order in orders(len(ligands) + 1)]
        found.append({read(text, "molblock").smiles for text in texts})
        assert {read(smiles).smiles for smiles in found[-1]} == found[-1]
    assert [len(each) for each in found] == [1] * len(isomers)
    assert len(set.union(*found)) == len(isomers)


@pytest.mark.parametrize(
    ("text", "numbers", "isomers"),
    [
        ("F[S@OH{}](F)(F)(F)(F)Cl", 30, [30]),
        ("F[S@OH{}](F)(F)(F)(Cl)Cl", 30, [6, 24]),
        ("F[S@OH{}](F)(F)(Cl)(Cl)Cl", 30, [12, 18]),
        ("F[S@OH{}](F)(Br)(Br)(Cl)Cl", 30, [2, 4, 4, 4, 8, 8]),
        ("F[P@TB{}](F)(F)(F)Cl", 20, [8, 12]),
        ("F[P@TB{}](F)(F)(Cl)Cl", 20, [2, 6, 12]),
        ("C[Pt@SP{}](C)([NH3])[NH3]", 3, [1, 2]),
        ("C[Pt@SP{}](F)(Br)Cl", 3, [1, 1, 1]),
        ("N1CCN[Co@OH{}]12(NCCN2)(Cl)Cl", 30, [2, 4, 8, 8, 8]),
    ],
)
def test_all_numbers_are_divided_among_the_isomers(text, numbers, isomers):
    """The isomers of each formula are known, and by how many numbers each is named."""
    counts = Counter(read(text.format(number)).smiles for number in range(1, numbers + 1))
    assert sorted(counts.values()) == isomers
    assert {read(smiles).smiles for smiles in counts} == set(counts)


@pytest.mark.parametrize(("center", "ligands", "corners"), [("S", "FFFFII", AXES), ("P", "FIIFF", TRIANGLE)])
def test_positions_have_the_arrangement_of_the_tag(center, ligands, corners):
    for order in orders(len(ligands) + 1):
        result = read(block(center, ligands, corners, order), "molblock")
        assert result.given is not None
        shown = with_conformers(result.smiles, result.given.positions)
        numbers = []
        Chem.AssignAtomChiralTagsFromStructure(shown, replaceExistingTags=True)
        for mol in (Chem.MolFromSmiles(result.smiles), shown):
            numbers += [a.GetIntProp("_chiralPermutation") for a in mol.GetAtoms() if a.HasProp("_chiralPermutation")]
        assert len(numbers) == 2
        assert numbers[0] == numbers[1]

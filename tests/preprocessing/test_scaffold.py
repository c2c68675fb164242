"""The scaffold split: whole scaffolds, largest to train, nothing that depends on the order of the rows."""

import numpy as np
import pytest
from rdkit import Chem

from molstream.errors import ConfigError, DataError
from molstream.preprocessing.scaffold import murcko_scaffold, scaffold_split
from tests.support.diverse import zinc

PARTS = ("train", "valid", "test")


def assignment(smiles: list[str]) -> dict[str, str]:
    return {smiles[row]: name for name, rows in zip(PARTS, scaffold_split(smiles), strict=True) for row in rows}


@pytest.mark.parametrize(
    ("text", "scaffold"),
    [
        ("CCCO", ""),
        ("Cc1ccc(CC2CCNC2)cc1Cl", "c1ccc(CC2CCNC2)cc1"),
        ("O=C1CCCC1CC", "O=C1CCCC1"),
        ("C[C@H]1CC[C@@H](c2ccccc2)O1", "c1ccc([C@@H]2CCCO2)cc1"),
    ],
)
def test_murcko_scaffold(text, scaffold):
    assert murcko_scaffold(Chem.MolFromSmiles(text)) == Chem.CanonSmiles(scaffold)


def test_chirality_tells_scaffolds_apart_where_asked():
    left, right = (Chem.MolFromSmiles(text) for text in ("O1CCC[C@@H]1c1ccccc1", "O1CCC[C@H]1c1ccccc1"))
    assert murcko_scaffold(left) != murcko_scaffold(right)
    assert murcko_scaffold(left, include_chirality=False) == murcko_scaffold(right, include_chirality=False)


def test_split_by_hand():
    """Seven benzenes; two pyridines, which would overfill a training part of eight; a cyclopropane, which would not."""
    smiles = ["C" * n + "c1ccccc1" for n in range(1, 8)] + ["Cc1ccncc1", "CCc1ccncc1", "C1CC1"]
    train, valid, test = scaffold_split(smiles)
    assert (train.tolist(), valid.tolist(), test.tolist()) == ([0, 1, 2, 3, 4, 5, 6, 9], [7, 8], [])
    train, valid, test = scaffold_split(smiles, (0.7, 0.2, 0.1))
    assert (train.tolist(), valid.tolist(), test.tolist()) == ([0, 1, 2, 3, 4, 5, 6], [7, 8], [9])


def test_split_of_real_molecules(shared_data):
    smiles = sorted(set(zinc(shared_data)[::500]))
    expected = assignment(smiles)
    assert set(expected) == set(smiles)
    parts_of_scaffold: dict[str, set[str]] = {}
    for text, part in expected.items():
        parts_of_scaffold.setdefault(murcko_scaffold(Chem.MolFromSmiles(text)), set()).add(part)
    assert all(len(parts) == 1 for parts in parts_of_scaffold.values())
    sizes = [list(expected.values()).count(part) / len(smiles) for part in PARTS]
    assert sizes == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    rng = np.random.default_rng(0)
    for _ in range(3):
        assert assignment([smiles[row] for row in rng.permutation(len(smiles))]) == expected


def test_every_spelling_is_in_the_same_part(shared_data):
    smiles = sorted(set(zinc(shared_data)[::1200]))
    spelled = [Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(text), 1, randomSeed=3)[0] for text in smiles]
    assert spelled != smiles
    for rows, again in zip(scaffold_split(smiles), scaffold_split(spelled), strict=True):
        assert rows.tolist() == again.tolist()


def test_no_rows():
    assert [part.tolist() for part in scaffold_split([])] == [[], [], []]


def test_errors_name_the_input():
    with pytest.raises(DataError, match="row 1: RDKit cannot read the SMILES 'C1CC'"):
        scaffold_split(["C", "C1CC"])
    with pytest.raises(ConfigError, match="add up to 1"):
        scaffold_split(["C"], (0.8, 0.1, 0.2))

"""The whole of featurize: same bytes for every spelling and in every process, and a reason for every rejection."""

import subprocess
import sys
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from rdkit import Chem, rdBase

from molstream.errors import ConfigError
from molstream.preprocessing.config import ConformerConfig, FeaturizeConfig
from molstream.preprocessing.descriptors import DESCRIPTORS_V1
from molstream.preprocessing.featurize import Description, add_conformers, describe, featurize, needs_embedding
from molstream.preprocessing.fields import FIELDS, ConformerStatus, MoleculeSample, RawMolecule, Rejection
from tests.support.diverse import (
    DIVERSE,
    FAST,
    FLAT,
    IMPOSSIBLE_STEREO,
    mol_blocks,
    same_bytes,
    sample,
    smiles_record,
    zinc,
)

EMPTY_MOL_BLOCK = "\n\n\n  0  0  0  0  0  0            999 V2000\nM  END\n"


@pytest.mark.parametrize("hydrogens", ["heavy", "all"])
@pytest.mark.parametrize("text", DIVERSE.values(), ids=DIVERSE)
def test_every_field_has_its_type_and_shape(text, hydrogens):
    result = sample(text, replace(FAST, hydrogens=hydrogens))
    sizes: dict[str | int, int] = {
        3: 3,
        9: 9,
        2: 2,
        "n": result.num_atoms,
        "b": result.bond_index.shape[1],
        "c": len(result.positions),
        "t": 0,
        "k": len(DESCRIPTORS_V1),
    }
    for field in FIELDS:
        value = getattr(result, field.name)
        if field.dtype == "string":
            assert isinstance(value, str)
        elif not field.shape:
            assert type(value) is int
        else:
            assert value.dtype == field.dtype, field.name
            expected = tuple(sizes[size] for size in field.shape)
            assert value.shape == ((0, *expected[1:]) if field.name == "forces" else expected), field.name
    assert np.isfinite(result.positions).all()


@pytest.mark.parametrize("text", DIVERSE.values(), ids=DIVERSE)
def test_every_spelling_gives_the_same_bytes(text):
    expected = sample(text, FAST)
    with rdBase.BlockLogs():
        spellings = Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(text), 3, randomSeed=5)
    for spelling in [*spellings, expected.smiles]:
        assert same_bytes(sample(spelling, FAST), expected), spelling


def test_every_spelling_of_real_molecules_gives_the_same_bytes(shared_data):
    config = replace(FAST, conformers=replace(FAST.conformers, force_field="none"))
    for text in zinc(shared_data)[::2500]:
        spelling = Chem.MolToSmiles(Chem.MolFromSmiles(text), doRandom=True)
        assert same_bytes(sample(spelling, config), sample(text, config)), (text, spelling)


def test_another_process_gives_the_same_bytes():
    """Hash randomization, import order and the history of the process do not matter."""
    text = "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O"
    code = (
        "import sys; from molstream.preprocessing.featurize import featurize;"
        "from molstream.preprocessing.config import FeaturizeConfig;"
        "from molstream.preprocessing.fields import RawMolecule;"
        f"s = featurize(RawMolecule({text!r}, 'smiles', 'test.smi', 0), FeaturizeConfig());"
        "sys.stdout.write((s.atom_features.tobytes() + s.bond_index.tobytes() + s.positions.tobytes()).hex())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    sample("CCO", FeaturizeConfig())
    here = sample(text, FeaturizeConfig())
    assert there == (here.atom_features.tobytes() + here.bond_index.tobytes() + here.positions.tobytes()).hex()


def test_the_two_halves_make_the_whole():
    for text in DIVERSE.values():
        first = describe(smiles_record(text), FAST)
        assert isinstance(first, Description)
        assert len(first.sample.positions) == 0
        second = add_conformers(first.sample, FAST, text)
        assert isinstance(second, MoleculeSample)
        assert same_bytes(second, sample(text, FAST))


def test_the_steps_that_changed_a_molecule_are_told():
    first = describe(smiles_record("CC(=O)[O-].[Na+]"), FLAT)
    assert isinstance(first, Description)
    assert first.changes == ("largest_fragment", "neutralise")


def test_rings_and_rotatable_bonds_are_counted():
    for text, rings, rotatable in [("CCO", 0, 0), ("c1ccccc1CCO", 1, 2), ("C1CC2CCC1C2", 2, 0)]:
        first = describe(smiles_record(text), FLAT)
        assert isinstance(first, Description)
        assert (first.num_rings, first.num_rotatable_bonds) == (rings, rotatable)


def test_the_record_says_where_it_came_from():
    result = featurize(RawMolecule("CO", "smiles", "a.csv", 7, (1.5, float("nan"))), FLAT)
    assert isinstance(result, MoleculeSample)
    assert (result.source, result.row) == ("a.csv", 7)
    np.testing.assert_array_equal(result.targets, np.array([1.5, np.nan], dtype=np.float32))


def test_heavy_and_all_hydrogens_share_the_conformer():
    heavy, everything = (sample("OCC", replace(FAST, hydrogens=hydrogens)) for hydrogens in ("heavy", "all"))
    assert (heavy.num_atoms, everything.num_atoms) == (3, 9)
    assert (heavy.key, heavy.smiles) == (everything.key, everything.smiles)
    first = everything.positions[0, :3]
    np.testing.assert_allclose(heavy.positions[0], first - first.mean(axis=0), atol=1e-5)
    assert (everything.atom_features[3:, 0] == 0).all()


def test_hydrogens_that_stay_atoms():
    """Isotopes, H2 and lone ions are stored as atoms even where hydrogens are not."""
    assert sample("[2H]C", FLAT).atom_features[:, 0].tolist() == [0, 5]
    assert sample("[H][H]", FLAT).num_atoms == 2
    assert sample("[H-]", replace(FLAT, standardize=replace(FLAT.standardize, neutralise=False))).num_atoms == 1
    assert sample("[2H]O[2H]", FAST).positions.shape == (1, 3, 3)


@pytest.mark.parametrize("hydrogens", ["heavy", "all"])
def test_given_geometry_is_kept(shared_data, hydrogens):
    config = FeaturizeConfig(hydrogens=hydrogens)
    for block in mol_blocks(shared_data / "geom3d" / "qm9" / "gdb1k.sdf.gz")[100:1000:100]:
        result = featurize(RawMolecule(block, "molblock", "a.sdf", 0), config)
        assert isinstance(result, MoleculeSample), result
        assert result.conformer_status == ConformerStatus.GIVEN
        mol = Chem.MolFromMolBlock(block, removeHs=False)
        smallest = 2 if hydrogens == "heavy" else 1
        atoms = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() >= smallest]
        original = mol.GetConformer().GetPositions()[atoms]
        np.testing.assert_allclose(sorted_distances(result.positions[0]), sorted_distances(original), atol=1e-4)


def test_given_geometry_is_kept_where_no_conformers_are_asked_for(shared_data):
    block = mol_blocks(shared_data / "geom3d" / "qm9" / "gdb1k.sdf.gz")[100]
    result = featurize(RawMolecule(block, "molblock", "a.sdf", 0), FLAT)
    assert isinstance(result, MoleculeSample)
    assert (result.conformer_status, len(result.positions)) == (ConformerStatus.GIVEN, 1)
    config = FeaturizeConfig(conformers=ConformerConfig(num_conformers=0, given="replace"))
    result = featurize(RawMolecule(block, "molblock", "a.sdf", 0), config)
    assert isinstance(result, MoleculeSample)
    assert (result.conformer_status, len(result.positions)) == (ConformerStatus.NONE, 0)


def test_given_conformers_stay_where_embedding_fails():
    """With ``both`` they are what is left, and enough for ``require_conformer``."""
    conformers = ConformerConfig(given="both", max_iterations=1, random_coordinates_max_iterations=0)
    config = FeaturizeConfig(conformers=replace(conformers, require_conformer=True))
    described = describe(smiles_record(IMPOSSIBLE_STEREO), config)
    assert isinstance(described, Description)
    given = replace(
        described.sample,
        positions=np.ones((1, 8, 3), np.float32),
        conformer_energy=np.zeros(1, np.float32),
        forces=np.ones((1, 8, 3), np.float32),
        conformer_status=int(ConformerStatus.GIVEN),
    )
    result = add_conformers(given, config, IMPOSSIBLE_STEREO)
    assert isinstance(result, MoleculeSample)
    assert same_bytes(result, given)


@pytest.mark.parametrize(
    ("choice", "num_conformers", "of_given", "of_none"),
    [("keep", 1, False, True), ("replace", 1, False, True), ("both", 1, True, True), ("both", 0, False, False)],
)
def test_needs_embedding(choice, num_conformers, of_given, of_none):
    config = FeaturizeConfig(conformers=ConformerConfig(given=choice, num_conformers=num_conformers))
    assert needs_embedding(ConformerStatus.GIVEN, config) is of_given
    assert needs_embedding(ConformerStatus.NONE, config) is of_none


def sorted_distances(positions: np.ndarray) -> np.ndarray:
    return np.sort(np.linalg.norm(positions[:, None] - positions[None], axis=-1), axis=None)


REJECTED: list[tuple[str, Literal["smiles", "molblock"], str, str, str]] = [
    ("", "smiles", "parse", "empty_input", "empty"),
    (" \n", "molblock", "parse", "empty_input", "empty"),
    ("C1CC", "smiles", "parse", "unparsable", "unclosed ring"),
    ("CCO ethanol", "smiles", "parse", "unparsable", "ethanol"),
    ("C\ud800", "smiles", "parse", "unparsable", "Unicode"),
    ("no mol block", "molblock", "parse", "unparsable", "molblock"),
    ("CC(C)(C)(C)C", "smiles", "parse", "unsanitizable", "valence for atom # 1 C"),
    ("c1cccc1", "smiles", "parse", "unsanitizable", "kekulize"),
    (EMPTY_MOL_BLOCK, "molblock", "parse", "no_atoms", "without atoms"),
    ("C" * 20000, "smiles", "parse", "too_long", "20000 characters; the limit max_smiles_length is 2000"),
    ("C" * 300, "smiles", "standardize", "too_many_atoms", "300 heavy atoms; the limit max_atoms is 256"),
    ("*CCO", "smiles", "standardize", "dummy_atom", "*CCO"),
]


@pytest.mark.parametrize(("text", "format", "stage", "reason", "detail"), REJECTED)
def test_rejections(text, format, stage, reason, detail):
    raw = RawMolecule(text, format, "a.smi", 3)
    result = featurize(raw, FeaturizeConfig())
    assert isinstance(result, Rejection)
    assert (result.source, result.row, result.text) == ("a.smi", 3, text)
    assert (result.stage, result.reason) == (stage, reason)
    assert detail in result.detail
    assert 0 <= result.seconds < 5
    first = describe(raw, FeaturizeConfig())
    assert isinstance(first, Rejection)
    assert first.reason == reason


def test_a_long_mol_block_is_rejected_before_canonicalization():
    chain = Chem.MolFromSmiles("C" * 2001)
    chain.AddConformer(Chem.Conformer(2001))
    result = featurize(RawMolecule(Chem.MolToV3KMolBlock(chain), "molblock", "a.sdf", 0), FeaturizeConfig())
    assert isinstance(result, Rejection)
    assert (result.stage, result.reason) == ("parse", "too_many_atoms")


def test_limits_are_of_the_parent_molecule():
    """A dummy atom or a polymer in the counter-ion is no reason to reject; the parent is what is stored."""
    config = replace(FLAT, max_atoms=6)
    assert sample("CCCCCC.O.O.O", config).num_atoms == 6
    assert sample("c1ccccc1.*", FLAT).num_atoms == 6


def test_without_a_conformer_a_molecule_is_stored_unless_one_is_required():
    result = sample(IMPOSSIBLE_STEREO, FeaturizeConfig())
    assert result.conformer_status == ConformerStatus.NONE
    assert result.positions.shape == (0, 8, 3)
    config = FeaturizeConfig(conformers=ConformerConfig(require_conformer=True))
    rejection = featurize(smiles_record(IMPOSSIBLE_STEREO), config)
    assert isinstance(rejection, Rejection)
    assert (rejection.stage, rejection.reason) == ("conformer", "no_conformer")
    assert "no conformer in 30 attempts" in rejection.detail


def test_nothing_is_logged_and_the_log_is_left_as_it_was(capfd):
    before = rdBase.LogStatus()
    for text, format, *_ in REJECTED:
        featurize(RawMolecule(text, format, "a.smi", 0), FeaturizeConfig())
    assert capfd.readouterr() == ("", "")
    assert rdBase.LogStatus() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hydrogens": "polar"}, "hydrogens=polar: expected one of heavy, all"),
        ({"max_smiles_length": 20000}, "max_smiles_length=20000: expected at most 5000"),
        ({"max_atoms": 3000}, "max_atoms=3000: expected at most max_smiles_length, which is 2000"),
    ],
)
def test_configuration_errors_name_key_and_choices(changes, message):
    with pytest.raises(ConfigError, match=message):
        FeaturizeConfig(**changes)


@pytest.mark.parametrize("num_conformers", [0, 1])
def test_without_its_key_a_record_is_the_same(num_conformers):
    config = replace(FAST, conformers=replace(FAST.conformers, num_conformers=num_conformers))
    for text in ("C[C@H](N)C(=O)O", "c1ccccc1O"):
        whole, found = sample(text, config), featurize(smiles_record(text), config, with_key=False)
        assert isinstance(found, MoleculeSample)
        # The seed of a conformer is made of the key.
        assert found.key == (whole.key if num_conformers else "")
        assert same_bytes(replace(found, key=whole.key), whole)

"""The conformer ladder: which rung gives what, energies, centring, and that the key is the only randomness."""

from dataclasses import replace

import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers

from preprocessing.conformers import ConformerConfig, Conformers, conformers, seed
from preprocessing.errors import ConfigError
from preprocessing.fields import ConformerStatus
from tests.preprocessing.molecules import IMPOSSIBLE_STEREO, TRILAURIN, mol_blocks

BRIEF = ConformerConfig(force_field="none", max_iterations=3, random_coordinates_max_iterations=3)


@pytest.fixture(autouse=True)
def _quiet():
    with rdBase.BlockLogs():
        yield


def with_hydrogens(text: str) -> Chem.Mol:
    return Chem.AddHs(Chem.MolFromSmiles(text))


def generate(text: str, config: ConformerConfig, key: str = "key", given: np.ndarray | None = None) -> Conformers:
    mol = with_hydrogens(text)
    return conformers(mol, mol.GetNumAtoms(), key, given, config)


def test_positions_are_those_of_the_first_atoms_centred_on_their_own_centroid():
    mol = with_hydrogens("CC(N)C(=O)O")
    everything = conformers(mol, mol.GetNumAtoms(), "key", None, ConformerConfig())
    heavy = conformers(mol, 6, "key", None, ConformerConfig())
    assert (heavy.positions.dtype, heavy.positions.shape) == (np.float32, (1, 6, 3))
    assert (heavy.energies.dtype, heavy.energies.shape) == (np.float32, (1,))
    np.testing.assert_allclose(heavy.positions.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(everything.positions.mean(axis=1), 0, atol=1e-6)
    moved = everything.positions[:, :6] - everything.positions[:, :6].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(heavy.positions, moved, atol=1e-5)
    assert heavy.energies == everything.energies


def test_relaxation_lowers_the_energy():
    text = "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O"
    relaxed, raw = generate(text, ConformerConfig()), generate(text, ConformerConfig(force_field="none"))
    assert np.isnan(raw.energies).all()
    assert mmff_energy(text, relaxed) < mmff_energy(text, raw) - 5
    assert relaxed.energies[0] == pytest.approx(mmff_energy(text, relaxed), abs=0.05)


def mmff_energy(text: str, result: Conformers) -> float:
    """Energy in kcal/mol of the first conformer, from RDKit's force field object."""
    mol = with_hydrogens(text)
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(result.positions[0].astype(np.float64))
    mol.AddConformer(conformer)
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94s")
    return rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties).CalcEnergy()


def test_several_conformers_come_lowest_energy_first():
    result = generate("OCCCCN", ConformerConfig(num_conformers=5))
    assert result.positions.shape[0] == 5
    assert (np.diff(result.energies) >= 0).all()
    assert result.energies[0] < result.energies[-1]


def test_energy_is_nan_without_parameters_of_the_force_field():
    result = generate("C[Se]C", ConformerConfig())
    assert result.status is ConformerStatus.ETKDG
    assert np.isnan(result.energies).all()


def test_the_key_is_the_only_randomness():
    text = "OCCCCN"
    assert generate(text, BRIEF, "a").positions.tobytes() == generate(text, BRIEF, "a").positions.tobytes()
    assert not np.allclose(generate(text, BRIEF, "a").positions, generate(text, BRIEF, "b").positions)


def test_seed_is_fixed_for_ever():
    assert seed("LFQSCWFLJHTTHZ-UHFFFAOYSA-N") == 136_228_787


def test_rung_given():
    text, given = "CO", np.random.default_rng(0).normal(size=(6, 3))
    result = generate(text, ConformerConfig(), given=given)
    assert result.status is ConformerStatus.GIVEN
    np.testing.assert_allclose(result.positions[0], given - given.mean(axis=0), atol=1e-6)
    assert np.isnan(result.energies).all()


@pytest.mark.parametrize(("rows", "keep_given"), [(2, True), (6, False)], ids=["incomplete", "switched off"])
def test_rung_given_is_passed_over(rows, keep_given):
    config = replace(BRIEF, keep_given=keep_given)
    assert generate("CO", config, given=np.eye(6, 3)[:rows]).status is ConformerStatus.ETKDG


def test_rung_random_coordinates():
    config = ConformerConfig(force_field="none", max_iterations=2)
    assert generate(TRILAURIN, config).status is ConformerStatus.RANDOM_COORDINATES
    without = generate(TRILAURIN, replace(config, random_coordinates_max_iterations=0))
    assert without.status is ConformerStatus.NONE


def test_rung_none():
    result = generate(IMPOSSIBLE_STEREO, ConformerConfig())
    assert result.status is ConformerStatus.NONE
    assert (result.positions.shape, result.positions.dtype) == ((0, 16, 3), np.float32)
    assert (result.energies.shape, result.energies.dtype) == ((0,), np.float32)
    assert "ETKDG" in result.detail
    assert "RANDOM_COORDINATES" in result.detail


def test_a_timeout_is_no_conformer():
    """RDKit then returns the ids [-1], which look like one conformer."""
    config = ConformerConfig(timeout_s=1, max_iterations=10_000, random_coordinates_max_iterations=0)
    assert generate(IMPOSSIBLE_STEREO, config).status is ConformerStatus.NONE


def test_exceptions_of_the_embedding_are_told():
    """RDKit raises on a molecule that was never sanitized; on the road it does so on some metal complexes."""
    mol = Chem.MolFromSmiles("CCO", sanitize=False)
    result = conformers(mol, 3, "key", None, ConformerConfig())
    assert result.status is ConformerStatus.NONE
    assert "ETKDG: " in result.detail


def test_no_conformers_asked_for():
    given = np.eye(6, 3)
    result = generate("CO", ConformerConfig(num_conformers=0), given=given)
    assert (result.status, result.positions.shape) == (ConformerStatus.NONE, (0, 6, 3))


def test_kept_fragments_do_not_lie_on_each_other():
    result = generate("CCCCCC.CCCCCC", ConformerConfig())
    first, second = result.positions[0][:6], result.positions[0][6:12]
    assert np.linalg.norm(first[:, None] - second[None], axis=-1).min() > 2.5


def test_ladder_on_molecules_that_break_embedding(shared_data):
    """Every one ends on a rung, and what is stored is finite."""
    lines = (shared_data / "dev" / "embed_breakers_dev.tsv").read_text().splitlines()[1:]
    smallest = sorted((line.split("\t")[1] for line in lines), key=len)[:24]
    seen = set()
    for text in smallest:
        mol = Chem.MolFromSmiles(text)
        if mol is not None:
            result = conformers(Chem.AddHs(mol), mol.GetNumAtoms(), "key", None, BRIEF)
            seen.add(result.status)
            assert np.isfinite(result.positions).all()
            assert (len(result.positions) == 0) == (result.status is ConformerStatus.NONE)
    assert seen >= {ConformerStatus.NONE, ConformerStatus.RANDOM_COORDINATES}


def test_bond_lengths_of_generated_conformers_are_those_of_crystal_structures(shared_data):
    """Median absolute difference below 0.03 angstrom over the bonds of drug-like ligands."""
    differences = []
    for block in mol_blocks(shared_data / "geom3d" / "genentech_pubLigsNeutralGoodDensity.sdf.gz")[::60]:
        mol = Chem.MolFromMolBlock(block, removeHs=False)
        observed = mol.GetConformer().GetPositions()
        made = conformers(mol, mol.GetNumAtoms(), "key", None, ConformerConfig()).positions[0]
        for bond in mol.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            differences.append(np.linalg.norm(made[i] - made[j]) - np.linalg.norm(observed[i] - observed[j]))
    assert len(differences) > 200
    assert np.median(np.abs(differences)) < 0.03


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"force_field": "UFF"}, "force_field is 'UFF'; expected one of: MMFF94s, none"),
        ({"num_conformers": -1}, "num_conformers is -1; expected 0 or more"),
        ({"max_iterations": 0}, "max_iterations is 0; expected 1 or more"),
    ],
)
def test_configuration_errors_name_key_and_choices(changes, message):
    with pytest.raises(ConfigError, match=message):
        ConformerConfig(**changes)

"""The conformer ladder: which rung gives what, energies, centring, and that the key is the only randomness."""

from dataclasses import replace

import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolAlign

from molstream.compose import compose
from molstream.errors import ConfigError
from molstream.pipeline.config import PreprocessConfig
from molstream.preprocessing.config import ConformerConfig
from molstream.preprocessing.conformers import MAX_SYMMETRIES, Conformers, conformers, given_conformers, seed
from molstream.preprocessing.fields import ConformerStatus
from molstream.preprocessing.force_field import FORCE_FIELDS
from molstream.preprocessing.geometry import GivenConformers
from tests.support.diverse import IMPOSSIBLE_STEREO, TRILAURIN, mol_blocks

BRIEF = ConformerConfig(force_field="none", max_iterations=3, random_coordinates_max_iterations=3)


@pytest.fixture(autouse=True)
def _quiet():
    with rdBase.BlockLogs():
        yield


def with_hydrogens(text: str) -> Chem.Mol:
    return Chem.AddHs(Chem.MolFromSmiles(text))


def generate(text: str, config: ConformerConfig, key: str = "key") -> Conformers:
    mol = with_hydrogens(text)
    return conformers(mol, mol.GetNumAtoms(), key, config)


def test_positions_are_those_of_the_first_atoms_centred_on_their_own_centroid():
    mol = with_hydrogens("CC(N)C(=O)O")
    everything = conformers(mol, mol.GetNumAtoms(), "key", ConformerConfig())
    heavy = conformers(mol, 6, "key", ConformerConfig())
    assert (heavy.positions.dtype, heavy.positions.shape) == (np.float32, (1, 6, 3))
    assert (heavy.energies.dtype, heavy.energies.shape) == (np.float32, (1,))
    np.testing.assert_allclose(heavy.positions.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(everything.positions.mean(axis=1), 0, atol=1e-6)
    moved = everything.positions[:, :6] - everything.positions[:, :6].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(heavy.positions, moved, atol=1e-5)
    assert heavy.energies == everything.energies


@pytest.mark.parametrize("force_field", ["MMFF94s", "MMFF94", "UFF"])
def test_relaxation_lowers_the_energy(force_field):
    text = "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)N(C)C"
    relaxed = generate(text, ConformerConfig(force_field=force_field))
    raw = generate(text, ConformerConfig(force_field="none"))
    assert np.isnan(raw.energies).all()
    assert energy(text, relaxed, force_field) < energy(text, raw, force_field) - 5
    assert relaxed.energies[0] == pytest.approx(energy(text, relaxed, force_field), abs=0.05)


def energy(text: str, result: Conformers, force_field: str) -> float:
    """Energy in kcal/mol of the first conformer, from RDKit's force field object."""
    mol = with_hydrogens(text)
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(result.positions[0].astype(np.float64))
    mol.AddConformer(conformer)
    if force_field == "UFF":
        return rdForceFieldHelpers.UFFGetMoleculeForceField(mol).CalcEnergy()
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant=force_field)
    return rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties).CalcEnergy()


def test_the_two_mmff_variants_differ():
    """MMFF94s makes delocalized nitrogen planar."""
    energies = [generate("CN(C)c1ccccc1", ConformerConfig(force_field=name)).energies[0] for name in FORCE_FIELDS[:2]]
    assert abs(energies[0] - energies[1]) > 0.1


def test_several_conformers_come_lowest_energy_first():
    result = generate("OCCCCN", ConformerConfig(num_conformers=5))
    assert result.positions.shape[0] == 5
    assert (np.diff(result.energies) >= 0).all()
    assert result.energies[0] < result.energies[-1]


@pytest.mark.parametrize(("text", "force_field"), [("C[Se]C", "MMFF94s"), ("C[Cu]C", "UFF")])
def test_energy_is_nan_without_parameters_of_the_force_field(text, force_field):
    result = generate(text, ConformerConfig(force_field=force_field))
    assert result.status is ConformerStatus.ETKDG
    assert np.isnan(result.energies).all()
    raw = generate(text, ConformerConfig(force_field="none"))
    np.testing.assert_array_equal(result.positions, raw.positions)


PRUNED = ConformerConfig(num_conformers=12, rmsd_threshold=0.5)


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9])
def test_pruning_keeps_the_lowest_and_what_differs_from_it(threshold):
    """Against RDKit's RMSD of every pair: what is kept is apart, what is dropped is close to one of lower energy."""
    text = "OCCCCN"
    everything = generate(text, replace(PRUNED, rmsd_threshold=0.0))
    kept = generate(text, replace(PRUNED, rmsd_threshold=threshold))
    assert 1 < len(kept.positions) < len(everything.positions) == 12
    found = [next(i for i, p in enumerate(everything.positions) if np.array_equal(p, q)) for q in kept.positions]
    assert found[0] == 0
    assert found == sorted(found)
    np.testing.assert_array_equal(kept.energies, everything.energies[found])
    rmsd = best_rmsd(text, everything.positions)
    assert all(rmsd[i, j] >= threshold for i in found for j in found if i != j)
    for dropped in set(range(12)) - set(found):
        assert min(rmsd[dropped, i] for i in found if i < dropped) < threshold


def best_rmsd(text: str, positions: np.ndarray) -> np.ndarray:
    """Heavy-atom RMSD between all conformers, pair by pair."""
    mol = with_hydrogens(text)
    for p in positions:
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(p.astype(np.float64))
        mol.AddConformer(conformer, assignId=True)
    heavy = Chem.RemoveHs(mol)
    probe = Chem.Mol(heavy)
    count = len(positions)
    return np.array([[rdMolAlign.GetBestRMS(probe, heavy, i, j) for j in range(count)] for i in range(count)])


@pytest.mark.parametrize("text", ["C", "CC", "c1ccccc1", "CC(C)(C)C", "FC(F)(F)C(F)(F)F", "Cc1ccccc1"])
def test_pruning_exchanges_equivalent_atoms(text):
    """Rigid but for rotations that exchange equal atoms: one conformer is left, though ETKDG turns it each time."""
    result = generate(text, PRUNED)
    assert len(result.positions) == 1


def test_pruning_of_a_highly_symmetric_molecule_is_bounded(monkeypatch):
    """Four trifluoromethyl groups have 31104 equivalent orders; no more than the limit are tried."""
    limits = []
    real = rdMolAlign.GetAllConformerBestRMS
    monkeypatch.setattr(
        "molstream.preprocessing.conformers.rdMolAlign.GetAllConformerBestRMS",
        lambda mol, **options: limits.append(options["maxMatches"]) or real(mol, **options),
    )
    result = generate("FC(F)(F)C(C(F)(F)F)(C(F)(F)F)C(F)(F)F", replace(PRUNED, num_conformers=3))
    assert limits == [MAX_SYMMETRIES]
    assert 1 <= len(result.positions) <= 3


def test_pruning_goes_by_embedding_order_without_energies():
    config = replace(PRUNED, force_field="none")
    everything, kept = generate("OCCCCN", replace(config, rmsd_threshold=0.0)), generate("OCCCCN", config)
    assert 1 < len(kept.positions) < 12
    np.testing.assert_array_equal(kept.positions[0], everything.positions[0])


def test_what_is_not_finite_is_dropped_before_pruning(monkeypatch):
    real = rdDistGeom.EmbedMultipleConfs

    def spoiled(mol, *arguments):
        real(mol, *arguments)
        positions = mol.GetConformers()[1].GetPositions()
        positions[0, 0] = np.nan
        mol.GetConformers()[1].SetPositions(positions)

    monkeypatch.setattr("molstream.preprocessing.conformers.rdDistGeom.EmbedMultipleConfs", spoiled)
    for threshold in (0.0, 1e-6):
        config = ConformerConfig(num_conformers=4, force_field="none", rmsd_threshold=threshold)
        result = generate("OCCCCN", config)
        assert len(result.positions) == 3
        assert np.isfinite(result.positions).all()


def test_the_key_is_the_only_randomness():
    text = "OCCCCN"
    assert generate(text, BRIEF, "a").positions.tobytes() == generate(text, BRIEF, "a").positions.tobytes()
    assert not np.allclose(generate(text, BRIEF, "a").positions, generate(text, BRIEF, "b").positions)


def test_seed_is_fixed_for_ever():
    assert seed("LFQSCWFLJHTTHZ-UHFFFAOYSA-N") == 136_228_787


def given(num_conformers: int, num_atoms: int, energies: list[float], forces: bool = False) -> GivenConformers:
    """Random conformers with these energies."""
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(num_conformers, num_atoms, 3))
    return GivenConformers(positions, np.array(energies), rng.normal(size=(num_conformers * forces, num_atoms, 3)))


def test_rung_given():
    source = given(1, 6, [np.nan])
    result = given_conformers(source, 6, ConformerConfig())
    assert result.status is ConformerStatus.GIVEN
    np.testing.assert_allclose(result.positions, source.positions - source.positions.mean(axis=1), atol=1e-6)
    assert np.isnan(result.energies).all()
    assert result.forces.shape == (0, 6, 3)


def test_given_conformers_come_lowest_energy_first_with_their_forces():
    source = given(3, 6, [2.0, np.nan, -1.0], forces=True)
    result = given_conformers(source, 4, ConformerConfig())
    np.testing.assert_array_equal(result.energies, [-1, 2, np.nan])
    positions = source.positions[[2, 0, 1], :4]
    np.testing.assert_allclose(result.positions, positions - positions.mean(axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(result.forces, source.forces[[2, 0, 1], :4], atol=1e-6)
    assert (result.positions.dtype, result.energies.dtype, result.forces.dtype) == (np.float32,) * 3


def test_given_conformers_are_never_pruned():
    source = given(1, 6, [np.nan])
    twice = GivenConformers(np.repeat(source.positions, 2, axis=0), np.array([np.nan, np.nan]), source.forces)
    assert len(given_conformers(twice, 6, PRUNED).positions) == 2


@pytest.mark.parametrize(("rows", "choice"), [(2, "keep"), (2, "both"), (6, "replace")])
def test_rung_given_is_passed_over(rows, choice):
    result = given_conformers(given(1, rows, [0.0]), 6, replace(BRIEF, given=choice))
    assert result.status is ConformerStatus.NONE
    assert (result.positions.shape, result.forces.shape) == ((0, 6, 3), (0, 6, 3))


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
    result = conformers(mol, 3, "key", ConformerConfig())
    assert result.status is ConformerStatus.NONE
    assert "ETKDG: " in result.detail


def test_no_conformers_asked_for():
    result = generate("CO", ConformerConfig(num_conformers=0))
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
            result = conformers(Chem.AddHs(mol), mol.GetNumAtoms(), "key", BRIEF)
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
        made = conformers(mol, mol.GetNumAtoms(), "key", ConformerConfig()).positions[0]
        for bond in mol.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            differences.append(np.linalg.norm(made[i] - made[j]) - np.linalg.norm(observed[i] - observed[j]))
    assert len(differences) > 200
    assert np.median(np.abs(differences)) < 0.03


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"force_field": "GAFF"}, "force_field=GAFF: expected one of MMFF94s, MMFF94, UFF, none"),
        ({"given": "yes"}, "given=yes: expected one of keep, replace, both"),
        ({"rmsd_threshold": -0.5}, "rmsd_threshold=-0.5: expected at least 0"),
        ({"rmsd_threshold": float("nan")}, "rmsd_threshold=nan: expected a finite number"),
        ({"num_conformers": -1}, "num_conformers=-1: expected at least 0"),
        ({"max_iterations": 0}, "max_iterations=0: expected at least 1"),
    ],
)
def test_configuration_errors_name_key_and_choices(changes, message):
    with pytest.raises(ConfigError, match=message):
        ConformerConfig(**changes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one", ConformerConfig()),
        ("none", ConformerConfig(num_conformers=0, given="replace")),
        ("ten", ConformerConfig(num_conformers=10, rmsd_threshold=0.5)),
    ],
)
def test_presets(name, expected):
    settings = ["input=a.csv", "output=b", f"conformers={name}"]
    assert compose("preprocess", PreprocessConfig, settings).featurize.conformers == expected

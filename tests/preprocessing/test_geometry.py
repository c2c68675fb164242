"""Geometry records: atoms find their place by elements and distances, energies and forces stay with their conformer."""

import json
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molstream.errors import MoleculeError
from molstream.preprocessing.config import ConformerConfig, FeaturizeConfig, StandardizeConfig
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import ConformerStatus, MoleculeSample, RawMolecule
from molstream.preprocessing.standardize import StandardizedMolecule
from tests.support.diverse import DIVERSE, same_bytes, standardized

ALL = FeaturizeConfig(hydrogens="all", conformers=ConformerConfig(num_conformers=0))
HEAVY = FeaturizeConfig(conformers=ConformerConfig(num_conformers=0))

WATER = {"numbers": [8, 1, 1], "positions": [[[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]]}


def geometry_record(record: dict) -> RawMolecule:
    """A geometry as an input record."""
    return RawMolecule(json.dumps(record), "geometry", "test.jsonl", 0)


def embedded(text: str, count: int = 1) -> Chem.Mol:
    """A molecule with all hydrogens and ``count`` conformers."""
    mol = Chem.AddHs(Chem.MolFromSmiles(text))
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = 1
    # Otherwise two molecules lie on each other; only random coordinates then place them at all.
    parameters.embedFragmentsSeparately = False
    parameters.useRandomCoords = "." in text
    assert len(rdDistGeom.EmbedMultipleConfs(mol, count, parameters)) == count
    return mol


def as_record(mol: Chem.Mol, order: Sequence[int] | None = None, **keys: object) -> dict:
    """The geometry record of a molecule with conformers, its atoms in another order."""
    order = list(range(mol.GetNumAtoms())) if order is None else list(order)
    numbers = [mol.GetAtomWithIdx(i).GetAtomicNum() for i in order]
    positions = [conformer.GetPositions()[order].tolist() for conformer in mol.GetConformers()]
    return {**keys, "numbers": numbers, "positions": positions}


def stored(record: dict, config: FeaturizeConfig = ALL) -> MoleculeSample:
    """The sample of a geometry record that must give one."""
    result = featurize(geometry_record(record), config)
    assert isinstance(result, MoleculeSample), result
    return result


def refused(text: str) -> MoleculeError:
    """Why a geometry record gives no molecule."""
    result = standardized(RawMolecule(text, "geometry", "test.jsonl", 0))
    assert isinstance(result, MoleculeError)
    assert result.stage == "parse"
    return result


def assert_same_geometry(sample: MoleculeSample, mol: Chem.Mol) -> None:
    """Every stored bond is as long as the bond of the source that lies at the same place."""
    for positions, conformer in zip(sample.positions, mol.GetConformers(), strict=True):
        source = conformer.GetPositions()
        source -= source.mean(axis=0)
        place = [int(np.linalg.norm(source - p, axis=1).argmin()) for p in positions]
        assert sorted(place) == list(range(len(source)))
        np.testing.assert_allclose(positions, source[place], atol=1e-4)
        numbers = [mol.GetAtomWithIdx(i).GetAtomicNum() for i in place]
        assert (sample.atom_features[:, 0] + 1).tolist() == numbers
        for i, j in sample.bond_index.T.tolist():
            assert mol.GetBondBetweenAtoms(place[i], place[j]) is not None


MOLECULES = {
    name: text
    for name, text in DIVERSE.items()
    if name not in ("aspirin sodium salt", "hexafluorophosphate", "methylmagnesium bromide", "glycine, zwitterion")
} | {
    "neopentane": "CC(C)(C)C",
    "three tert-butyl groups": "CC(C)(C)C(C(C)(C)C)C(C)(C)C",
    "bicyclopentane": "C1C2CC1C2",
    "adamantane": "C1C2CC3CC1CC(C2)C3",
    "pentaprismane": "C12C3C4C5C1C1C2C3C4C51",
    "two molecules": "CCO.CCN",
}


@pytest.mark.parametrize("text", MOLECULES.values(), ids=MOLECULES)
def test_atoms_find_their_place(text):
    """In any order of the atoms, under any spelling of the SMILES, and in the same bytes each time."""
    mol = embedded(text)
    config = FeaturizeConfig(
        hydrogens="all", standardize=StandardizeConfig(largest_fragment=False), conformers=ALL.conformers
    )
    expected = stored(as_record(mol, smiles=text), config)
    assert expected.conformer_status == ConformerStatus.GIVEN
    assert_same_geometry(expected, mol)
    rng = np.random.default_rng(0)
    for spelling in Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(text), 3, randomSeed=2):
        again = stored(as_record(mol, rng.permutation(mol.GetNumAtoms()).tolist(), smiles=spelling), config)
        assert same_bytes(again, expected)


@pytest.mark.parametrize(
    "text", ["CCO", "c1ccccc1", "CC#N", "C[N+](=O)[O-]", "C1C2CC1C2", "CC(=O)/C=C/C", "C[C@H](N)C(=O)O", "[H][H]"]
)
def test_bonds_are_perceived_without_a_smiles(text):
    mol = embedded(text)
    sample = stored(as_record(mol))
    assert sample.smiles == Chem.MolToSmiles(Chem.RemoveHs(mol))
    assert_same_geometry(sample, mol)


@pytest.mark.parametrize(("text", "charge"), [("C[NH3+]", 1), ("CC(=O)[O-]", -1)])
def test_the_charge_tells_the_bonds(text, charge):
    kept = FeaturizeConfig(hydrogens="all", standardize=StandardizeConfig(neutralise=False), conformers=ALL.conformers)
    assert stored(as_record(embedded(text), charge=charge), kept).smiles == text
    assert refused(json.dumps(as_record(embedded(text), charge=5))).reason == "no_bonds"


def test_stereochemistry_that_the_smiles_leaves_open_is_that_of_the_first_conformer():
    record = as_record(embedded("C[C@H](N)C(=O)O"), smiles="CC(N)C(=O)O")
    assert stored(record).smiles == "C[C@H](N)C(=O)O"


def test_a_zwitterion_that_is_neutralised_keeps_its_heavy_atoms():
    """The proton that moves has no place, so that the geometry cannot cover all hydrogens of the parent molecule."""
    record = as_record(embedded("[NH3+]CC(=O)[O-]"), smiles="[NH3+]CC(=O)[O-]")
    sample = stored(record, HEAVY)
    assert (sample.smiles, sample.conformer_status) == ("NCC(=O)O", ConformerStatus.GIVEN)
    assert stored(record, ALL).conformer_status == ConformerStatus.NONE
    unchanged = FeaturizeConfig(
        hydrogens="all", standardize=StandardizeConfig(neutralise=False), conformers=ALL.conformers
    )
    assert stored(record, unchanged).conformer_status == ConformerStatus.GIVEN


def test_the_largest_fragment_takes_its_geometry_along():
    sample = stored(as_record(embedded("CCCCO.O"), smiles="O.CCCCO"))
    assert (sample.smiles, sample.num_atoms, sample.conformer_status) == ("CCCCO", 15, ConformerStatus.GIVEN)


def test_energies_and_forces_stay_with_their_conformer():
    """As GEOM has several conformers, and MD17 forces."""
    mol = embedded("OCCCN", 4)
    rng = np.random.default_rng(0)
    energies, forces = [3.0, None, -2.0, 1.0], rng.normal(size=(4, mol.GetNumAtoms(), 3))
    order = rng.permutation(mol.GetNumAtoms()).tolist()
    record = as_record(mol, order, smiles="NCCCO") | {"energies": energies, "forces": forces[:, order].tolist()}
    sample = stored(record)
    np.testing.assert_array_equal(sample.conformer_energy, np.float32([-2, 1, 3, np.nan]))
    for k, index in enumerate([2, 3, 0, 1]):
        source = mol.GetConformer(index).GetPositions()
        source -= source.mean(axis=0)
        place = np.linalg.norm(sample.positions[k][:, None] - source, axis=-1).argmin(axis=1)
        np.testing.assert_allclose(sample.positions[k], source[place], atol=1e-4)
        np.testing.assert_allclose(sample.forces[k], forces[index][place], atol=1e-5)
    heavy = stored(record, HEAVY)
    assert heavy.positions.shape == heavy.forces.shape == (4, 5, 3)
    np.testing.assert_array_equal(heavy.forces, sample.forces[:, :5])


def test_md17_frames_round_trip(shared_data):
    """Energies and forces of a trajectory of ethanol, one record a frame, come back at their atoms."""
    with np.load(shared_data / "geom3d" / "md17" / "ethanol_2000.npz") as frames:
        numbers, positions = frames["z"], frames["R"][::400]
        energies, forces = frames["E"].reshape(-1)[::400], frames["F"][::400]
    for r, e, f in zip(positions, energies, forces, strict=True):
        record = {"smiles": "CCO", "numbers": numbers.tolist(), "positions": [r.tolist()], "energies": [float(e)]}
        for keys in (record, {k: v for k, v in record.items() if k != "smiles"}):
            sample = stored(keys | {"forces": [f.tolist()]})
            centred = r - r.mean(axis=0)
            place = np.linalg.norm(sample.positions[0][:, None] - centred, axis=-1).argmin(axis=1)
            np.testing.assert_allclose(sample.positions[0], centred[place], atol=1e-4)
            np.testing.assert_allclose(sample.forces[0], f[place], atol=1e-4)
            assert sample.conformer_energy[0] == pytest.approx(e, abs=0.01)
            assert sample.smiles == "CCO"


@pytest.mark.parametrize("choice", ["keep", "replace", "both"])
def test_given_geometry_is_kept_replaced_or_both(choice):
    mol = embedded("OCCN", 2)
    forces = np.ones((2, mol.GetNumAtoms(), 3)).tolist()
    record = as_record(mol, smiles="OCCN") | {"energies": [0.5, 0.25], "forces": forces}
    config = FeaturizeConfig(hydrogens="all", conformers=ConformerConfig(num_conformers=3, given=choice))
    sample, kept = stored(record, config), stored(record)
    status = ConformerStatus.ETKDG if choice == "replace" else ConformerStatus.GIVEN
    count = {"keep": 2, "replace": 3, "both": 5}[choice]
    assert (sample.conformer_status, len(sample.positions), len(sample.conformer_energy)) == (status, count, count)
    assert len(sample.forces) == (2 if choice == "keep" else 0)
    if choice != "replace":
        np.testing.assert_array_equal(sample.positions[:2], kept.positions)
        np.testing.assert_array_equal(sample.conformer_energy[:2], [0.25, 0.5])
    if choice == "both":
        alone = stored(
            record, FeaturizeConfig(hydrogens="all", conformers=ConformerConfig(num_conformers=3, given="replace"))
        )
        np.testing.assert_array_equal(sample.positions[2:], alone.positions)
        np.testing.assert_array_equal(sample.conformer_energy[2:], alone.conformer_energy)


MISMATCHED = {
    "another element": (WATER | {"smiles": "S"}, "S is H2S, the geometry H2O"),
    "a hydrogen too few": (WATER | {"smiles": "[OH3+]"}, "[OH3+] is H3O, the geometry H2O"),
    "another isomer": (as_record(embedded("CCO"), smiles="COC"), "the bonds of COC are not those"),
    "hydrogens left out": (as_record(Chem.RemoveHs(embedded("CCO")), smiles="CCO"), "the geometry C2O"),
    "torn apart": (
        {"smiles": "[H][H]", "numbers": [1, 1], "positions": [[[0, 0, 0], [0, 0, 1.5]]]},
        "the bonds of [H][H]",
    ),
}


@pytest.mark.parametrize(("record", "detail"), MISMATCHED.values(), ids=MISMATCHED)
def test_a_smiles_that_does_not_fit(record, detail):
    error = refused(json.dumps(record))
    assert error.reason == "geometry_mismatch"
    assert detail in error.detail


def test_symmetric_molecules_do_not_explode():
    """Whether or not there is a match: a search that tries them all would take hours."""
    bulky = "CC(C)(C)c1cc(C(C)(C)C)cc(C(C)(C)C)c1"
    start = time.process_time()
    stored(as_record(embedded(bulky), smiles=bulky))
    elongated = "CC(C)(C)c1cc(C(C)(C)C)cc(C(C)C)c1C"
    assert refused(json.dumps(as_record(embedded(bulky), smiles=elongated))).reason == "geometry_mismatch"
    assert time.process_time() - start < 20


REFUSED = {
    "no JSON": ("{", "unparsable", "JSONDecodeError"),
    "no object": ("[1, 2]", "unparsable", "no JSON object"),
    "no numbers": ('{"positions": [[[0, 0, 0]]]}', "unparsable", "numbers"),
    "no atomic number": (json.dumps(WATER | {"numbers": [0, 1, 1]}), "unparsable", "from 1 to 118"),
    "fractions": (json.dumps(WATER | {"numbers": [8.5, 1, 1]}), "unparsable", "atomic numbers"),
    "another number of atoms": (json.dumps(WATER | {"numbers": [8, 1]}), "unparsable", "(1, 3, 3); expected (1, 2, 3)"),
    "no conformer": (json.dumps(WATER | {"positions": []}), "unparsable", "positions"),
    "ragged": (json.dumps(WATER | {"positions": [[[0, 0], [1]]]}), "unparsable", "ValueError"),
    "energies": (json.dumps(WATER | {"energies": [1.0, 2.0]}), "unparsable", "energies"),
    "forces": (json.dumps(WATER | {"forces": [[[0, 0, 0]]]}), "unparsable", "forces"),
    "smiles": (json.dumps(WATER | {"smiles": 3}), "unparsable", "smiles"),
    "charge": (json.dumps(WATER | {"charge": "1"}), "unparsable", "charge"),
    "a huge charge": (json.dumps(WATER | {"charge": 10**40}), "unparsable", "charge"),
    "a huge number": (json.dumps(WATER).replace("0.12", "1" + "0" * 400), "unparsable", "OverflowError"),
    "an infinite energy": (json.dumps(WATER | {"energies": [float("inf")]}), "unparsable", "infinite"),
    "a force that is none": (json.dumps(WATER | {"forces": [[[None, 0, 0]] * 3]}), "unparsable", "not finite"),
    "far away": (json.dumps(WATER).replace("0.12", "1e300"), "bad_geometry", "conformer 0"),
    "not finite": (json.dumps(WATER).replace("0.12", "NaN"), "bad_geometry", "conformer 0"),
    "atoms collide": (json.dumps(WATER).replace("-0.76", "0.75"), "bad_geometry", "closer than 0.5"),
    "deep": ("[" * 100_000, "unparsable", "RecursionError"),
    "an impossible SMILES": (json.dumps(WATER | {"smiles": "C(C)(C)(C)(C)C"}), "unsanitizable", "valence"),
    "an empty SMILES": (json.dumps(WATER | {"smiles": ""}), "empty_input", "empty"),
    "no Unicode": (json.dumps(WATER | {"smiles": "O\ud800"}), "unparsable", "Unicode"),
    "a long SMILES": (json.dumps(WATER | {"smiles": "C" * 2001}), "too_long", "2001 characters"),
    "no valences": (json.dumps({"numbers": [6], "positions": [[[0, 0, 0]]]}), "no_bonds", ""),
}


@pytest.mark.parametrize(("text", "reason", "detail"), REFUSED.values(), ids=REFUSED)
def test_refusals(text, reason, detail):
    error = refused(text)
    assert error.reason == reason, error
    assert detail in error.detail


def test_a_large_geometry_is_refused_before_chemistry():
    positions = np.stack([np.arange(2001.0), np.zeros(2001), np.zeros(2001)], axis=1)
    record = {"numbers": [6] * 2001, "positions": [positions.tolist()]}
    assert refused(json.dumps(record)).reason == "too_many_atoms"


def test_keys_of_others_are_not_looked_at():
    result = standardized(geometry_record(WATER | {"smiles": "O", "homo": 0.3}))
    assert isinstance(result, StandardizedMolecule)


def test_bond_orders_are_not_searched_for_ever(monkeypatch):
    """Their number grows exponentially with the number of unsaturated atoms."""
    monkeypatch.setattr("molstream.preprocessing.geometry.MAX_BOND_ORDER_ITERATIONS", 1)
    error = refused(json.dumps(as_record(embedded("O=C1C=CC(=O)C=C1"))))
    assert error.reason == "no_bonds"
    assert "terations" in error.detail


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_damage_to_a_record_gives_a_molecule_or_a_rejection(data):
    text = json.dumps(WATER | {"smiles": "O", "energies": [1.5]})
    start, stop = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2)))
    text = text[:start] + data.draw(st.text(alphabet='0123 .,-e[]{}":nulsmiNa\\', max_size=8)) + text[stop:]
    result = standardized(RawMolecule(text, "geometry", "test.jsonl", 0))
    assert isinstance(result, StandardizedMolecule | MoleculeError)

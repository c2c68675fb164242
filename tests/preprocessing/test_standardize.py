"""Parent molecules: the same for every spelling, their own standardized form; coordinates stay with their atoms."""

import functools
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom
from rdkit.Chem.MolStandardize import rdMolStandardize

from molstream.errors import MoleculeError
from molstream.preprocessing.alignment import with_conformers
from molstream.preprocessing.config import StandardizeConfig
from molstream.preprocessing.fields import RawMolecule
from molstream.preprocessing.rdkit_errors import rdkit_errors
from molstream.preprocessing.standardize import StandardizedMolecule, _tools, standardize
from tests.support.diverse import DIVERSE, mol_blocks, pubchem_substances, smiles_record, standardized, zinc


def parent(text: str, format: Literal["smiles", "molblock"] = "smiles", **changes: bool) -> StandardizedMolecule:
    return standardize(text, format, StandardizeConfig(**changes), max_atoms=256, max_smiles_length=2000)


def random_spellings(text: str, count: int) -> list[str]:
    with rdBase.BlockLogs():
        return Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(text), count, randomSeed=7)


@pytest.mark.parametrize(
    ("text", "smiles"),
    [
        ("CC(=O)[O-].[Na+]", "CC(=O)O"),
        ("CC(=O)O[Na]", "CC(=O)O"),
        ("C[N+](C)(C)CC(=O)[O-]", "C[N+](C)(C)CC(=O)[O-]"),
        ("O=N(=O)c1ccccc1", "O=[N+]([O-])c1ccccc1"),
        ("F[P-](F)(F)(F)(F)F", "F[P-](F)(F)(F)(F)F"),
        ("[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1", "C1=CCC=C1"),
        ("[CH3:7][OH:2]", "CO"),
        ("[H]/N=C(/C)CC", "CCC(C)=N"),
        ("[2H]C([H])([H])O", "[2H]CO"),
        ("Cc1c([O-])on[n+]1Cc1ccccc1", "Cc1c([O-])on[n+]1Cc1ccccc1"),
    ],
)
def test_parent_molecule(text, smiles):
    assert parent(text).smiles == smiles


@pytest.mark.parametrize(
    ("bound", "free"),
    [
        (r"C/C=N(\NC)[V]", r"C/C=N\NC"),
        (r"C/C=N(/NC)[V]", r"C/C=N/NC"),
        (r"C/C(CC)=N(/O)->[Ni]", r"C/C(CC)=N/O"),
        (r"F/C=C(/Cl)[Zn]Br", r"F/C=[C]/Cl"),
        (r"CC/C=[N]1\N=C(C)[O][V]<-1", r"CC/C=N\N=C(C)[O-]"),
        (r"CCOc1cccc2/C=[N]3/N=C(O[V]3(=O)(=O)Oc12)c1ccco1", r"CCOc1cccc(/C=N/NC(=O)c2ccco2)c1O"),
        ("C/C=N/[V]", "CC=[N]"),
    ],
)
def test_double_bonds_keep_their_sides_when_a_metal_leaves(bound, free):
    """A metal is often the neighbour that tells E from Z, and the other neighbour tells it without the metal."""
    assert parent(bound).smiles == parent(free).smiles


def test_steps_can_be_switched_off():
    assert parent("CC(=O)O.CO", largest_fragment=False).smiles == "CC(=O)O.CO"
    assert parent("CC(=O)[O-].[Na+]", neutralise=False).smiles == "CC(=O)[O-]"
    assert "Na" in parent("CC(=O)O[Na]", disconnect_metals=False, largest_fragment=False).smiles
    assert parent("CS(C)=O", normalize=False).smiles == "CS(C)=O"


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("OCC", ()),
        ("C1=CC=CC=C1", ()),
        ("[2H]C([H])([H])O", ()),
        ("C[N+](C)(C)CC(=O)[O-]", ()),
        ("CC(=O)[O-].[Na+]", ("largest_fragment", "neutralise")),
        ("CC(=O)O.O", ("largest_fragment",)),
        ("CC(=O)O[Na]", ("disconnect_metals", "largest_fragment", "neutralise")),
        ("O=N(=O)c1ccccc1", ()),
        ("CS(C)=O", ("normalize",)),
        ("CC[S+2]([O-])([O-])C", ("normalize",)),
        ("OC(=O)c1ccc(S([O-])(=O)=O)cc1.[K+]", ("largest_fragment", "neutralise")),
        ("C[NH3+]", ("neutralise",)),
        ("F[P-](F)(F)(F)(F)F", ()),
    ],
)
def test_changes_name_the_steps_that_changed_something(text, changes):
    assert parent(text).changes == changes
    assert parent(parent(text).smiles).changes == ()


def test_moving_a_charge_to_the_strongest_acid_is_normalizing():
    result = parent("[O-]C(=O)c1ccc(S(=O)(=O)O)cc1", neutralise=False)
    assert (result.smiles, result.changes) == ("O=C(O)c1ccc(S(=O)(=O)[O-])cc1", ("normalize",))


def test_changes_are_those_of_the_tautomer_too():
    assert parent("OC1=CCCCC1").changes == ()
    assert parent("OC1=CCCCC1", canonical_tautomer=True).changes == ("canonical_tautomer",)
    assert parent("O=C1CCCCC1", canonical_tautomer=True).changes == ()
    assert parent("C[NH+]=C(O)C", canonical_tautomer=True).changes == ("neutralise", "canonical_tautomer")


@pytest.mark.parametrize(
    "tautomers",
    [
        ("OC1=CCCCC1", "O=C1CCCCC1"),
        ("Oc1ccccn1", "O=c1cccc[nH]1"),
        ("Cc1cnc[nH]1", "Cc1c[nH]cn1"),
        ("CC(=O)CC(C)=O", "CC(O)=CC(C)=O"),
        ("Nc1nc(O)c2nc[nH]c2n1", "Nc1nc2[nH]cnc2c(=O)[nH]1"),
    ],
)
def test_tautomers_are_one_molecule_on_demand(tautomers):
    results = [parent(text, canonical_tautomer=True) for text in tautomers]
    assert len({(result.smiles, result.key) for result in results}) == 1
    again = parent(results[0].smiles, canonical_tautomer=True)
    assert (again.smiles, again.changes) == (results[0].smiles, ())


def test_every_spelling_of_real_molecules_gives_the_same_tautomer(shared_data):
    config = StandardizeConfig(canonical_tautomer=True)
    for text in zinc(shared_data)[::2500] + pubchem_substances(shared_data)[::2000]:
        expected = standardized(smiles_record(text), config)
        if isinstance(expected, StandardizedMolecule):
            for spelling in [*random_spellings(text, 2), expected.smiles]:
                again = standardized(smiles_record(spelling), config)
                assert isinstance(again, StandardizedMolecule)
                assert (again.smiles, again.key) == (expected.smiles, expected.key), (text, spelling)
                assert again.changes == (() if spelling == expected.smiles else expected.changes), (text, spelling)


def test_heavy_atoms_keep_their_geometry_in_another_tautomer():
    """A proton that moves has no place any more, the other atoms have."""
    mol = Chem.AddHs(Chem.MolFromSmiles("OC1=CCCCC1"))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    kept = parent(Chem.MolToMolBlock(mol), "molblock").given
    moved = parent(Chem.MolToMolBlock(mol), "molblock", canonical_tautomer=True).given
    assert kept is not None
    assert moved is not None
    assert (kept.positions.shape, moved.positions.shape) == ((1, 17, 3), (1, 7, 3))


def test_key_is_the_inchikey_or_a_hash_of_the_smiles():
    assert parent("OCC").key == "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"
    without_inchi = parent("[Re]$[Re]")
    assert without_inchi.key.startswith("SMILES-")
    assert without_inchi.key == parent("[Re]$[Re]").key != parent("[Re]$[Re]$[Re]").key


def test_agrees_with_the_parent_of_rdkit(shared_data):
    """RDKit's own ChargeParent (cleanup, fragment, charge), where it does not stumble, gives the same molecule."""
    differing = []
    with rdBase.BlockLogs():
        for text in zinc(shared_data)[::1200]:
            expected = Chem.MolToSmiles(rdMolStandardize.ChargeParent(Chem.MolFromSmiles(text)))
            if Chem.CanonSmiles(expected) != parent(text).smiles:
                differing.append(text)
    assert len(differing) <= 2, differing


@pytest.mark.parametrize("text", DIVERSE.values(), ids=DIVERSE)
def test_every_spelling_gives_the_same_parent(text):
    expected = parent(text)
    for spelling in [*random_spellings(text, 10), expected.smiles]:
        again = parent(spelling)
        assert (again.smiles, again.key) == (expected.smiles, expected.key), spelling


def test_every_spelling_of_real_molecules_gives_the_same_parent(shared_data):
    checked = 0
    for text in zinc(shared_data)[::900] + pubchem_substances(shared_data)[::400]:
        expected = standardized(smiles_record(text))
        if isinstance(expected, MoleculeError):
            assert expected.reason in ("dummy_atom", "unsanitizable", "unparsable", "too_many_atoms")
            continue
        checked += 1
        for spelling in [*random_spellings(text, 2), expected.smiles]:
            again = standardized(smiles_record(spelling))
            assert isinstance(again, StandardizedMolecule), (text, spelling)
            assert (again.smiles, again.key) == (expected.smiles, expected.key), (text, spelling)
            assert again.changes == (() if spelling == expected.smiles else expected.changes), (text, spelling)
    assert checked > 450


def test_atoms_are_in_the_order_of_the_smiles():
    for text in DIVERSE.values():
        result = parent(text)
        reread = Chem.MolFromSmiles(result.smiles)
        assert [a.GetAtomicNum() for a in result.mol.GetAtoms()] == [a.GetAtomicNum() for a in reread.GetAtoms()]
        assert result.mol.GetNumConformers() == 0


def shuffled(block: str, rng: np.random.Generator) -> str:
    """A V2000 mol block with its atom and bond lines in another order."""
    lines = block.splitlines()
    num_atoms, num_bonds = int(lines[3][:3]), int(lines[3][3:6])
    order = rng.permutation(num_atoms)
    new = np.argsort(order) + 1
    atoms = [lines[4 + i] for i in order]
    bonds = [
        f"{new[int(line[:3]) - 1]:3d}{new[int(line[3:6]) - 1]:3d}{line[6:]}"
        for line in lines[4 + num_atoms : 4 + num_atoms + num_bonds]
    ]
    bonds = [bonds[i] for i in rng.permutation(num_bonds)]
    properties = []
    for line in lines[4 + num_atoms + num_bonds :]:
        if line[:6] in ("M  CHG", "M  RAD", "M  ISO"):
            fields = line.split()[2:]
            pairs = zip(fields[1::2], fields[2::2], strict=True)
            line = line[:9] + "".join(f"{new[int(atom) - 1]:4d}{int(value):4d}" for atom, value in pairs)
        properties.append(line)
    return "\n".join([*lines[:4], *atoms, *bonds, *properties]) + "\n"


def test_order_of_a_mol_block_does_not_matter(shared_data):
    """Atoms that are equal in the graph are told apart by their coordinates, so even those do not change places."""
    rng = np.random.default_rng(0)
    files = ["genentech_pubLigsNeutralGoodDensity.sdf.gz", "qm9/gdb1k.sdf.gz", "MMFF94_dative.sdf.gz"]
    for block in [b for name in files for b in mol_blocks(shared_data / "geom3d" / name)[::4]]:
        try:
            expected = parent(block, "molblock")
        except MoleculeError as error:
            assert error.reason == "unsanitizable"  # noqa: PT017
            continue
        again = parent(shuffled(block, rng), "molblock")
        assert (again.smiles, again.key) == (expected.smiles, expected.key)
        assert expected.given is not None
        assert again.given is not None
        assert np.array_equal(again.given.positions, expected.given.positions)


def test_given_coordinates_stay_with_their_atoms(shared_data):
    """Bonds have the lengths of bonds, to heavy atoms and to hydrogens, after standardizing and renumbering."""
    complete = 0
    for block in mol_blocks(shared_data / "geom3d" / "genentech_pubLigsNeutralGoodDensity.sdf.gz")[::20]:
        result = parent(block, "molblock")
        with_hydrogens = Chem.AddHs(result.mol)
        assert result.given is not None
        (positions,) = result.given.positions
        mol = with_hydrogens if len(positions) == with_hydrogens.GetNumAtoms() else result.mol
        complete += mol is with_hydrogens
        assert len(positions) == mol.GetNumAtoms()
        for bond in mol.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            longest = 1.25 if 1 in (mol.GetAtomWithIdx(i).GetAtomicNum(), mol.GetAtomWithIdx(j).GetAtomicNum()) else 2.3
            assert 0.8 < np.linalg.norm(positions[i] - positions[j]) < longest
    assert complete >= 20


def test_stereochemistry_is_read_from_the_geometry(shared_data):
    for block in mol_blocks(shared_data / "geom3d" / "genentech_pubLigsNeutralGoodDensity.sdf.gz")[::40]:
        lines = block.splitlines()
        num_atoms = int(lines[3][:3])
        mirrored = [f"{-float(line[:10]):10.4f}{line[10:]}" for line in lines[4 : 4 + num_atoms]]
        image = parent("\n".join([*lines[:4], *mirrored, *lines[4 + num_atoms :]]) + "\n", "molblock")
        original = parent(block, "molblock")
        opposite = original.smiles.replace("@@", "!").replace("@", "@@").replace("!", "@")
        assert image.smiles == parent(opposite).smiles


def test_positions_have_the_handedness_that_the_smiles_gives_their_atoms(shared_data):
    """Also where stereocentres depend on each other, so that another numbering would suit the SMILES as well."""
    centres = 0
    dependent = ["C[C@H]1C[C@@H](C)C1", "C[C@H]1C[C@H](C)C1", "CO[C@H]1CC[C@@H](C)CC1", "C/C=C/[C@H]1C[C@@H](C)C1"]
    blocks = [embedded(smiles, seed) for smiles in dependent for seed in range(4)]
    for block in [*blocks, *mol_blocks(shared_data / "geom3d" / "qm9" / "gdb1k.sdf.gz")]:
        try:
            result = parent(block, "molblock")
        except MoleculeError as error:
            assert error.reason == "unsanitizable"  # noqa: PT017
            continue
        assert result.given is not None
        mol = with_conformers(result.smiles, result.given.positions)
        shown = Chem.Mol(mol)
        Chem.AssignAtomChiralTagsFromStructure(shown, replaceExistingTags=True)
        specified = [atom for atom in mol.GetAtoms() if atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED]
        centres += len(specified)
        for atom in specified:
            assert shown.GetAtomWithIdx(atom.GetIdx()).GetChiralTag() == atom.GetChiralTag(), result.smiles
    assert centres > 400


def embedded(smiles: str, seed: int) -> str:
    """A mol block of all atoms, with a geometry by ETKDG."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    return Chem.MolToMolBlock(mol)


def test_cxsmiles_with_coordinates_is_a_geometry():
    result = parent("OC |(1.43,0,0.1;0,0,0)|")
    assert result.smiles == "CO"
    assert result.given is not None
    np.testing.assert_allclose(result.given.positions, [[[0, 0, 0], [1.43, 0, 0.1]]])


@pytest.mark.parametrize("second", ["0.1,0,0.1", "nan,0,0.1"], ids=["atoms collide", "not finite"])
def test_coordinates_that_are_no_geometry_are_refused(second):
    with pytest.raises(MoleculeError) as caught:
        parent(f"CC |(0,0,0.1;{second})|")
    assert (caught.value.stage, caught.value.reason) == ("parse", "bad_geometry")


def test_exceptions_of_rdkit_are_refusals():
    with pytest.raises(MoleculeError) as caught, rdkit_errors("features"), rdBase.BlockLogs():
        Chem.SanitizeMol(Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False))
    assert (caught.value.stage, caught.value.reason) == ("features", "rdkit_error")
    assert "valence" in caught.value.detail


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="CNOScn[]()=#+-@H1234%.*/\\~ |:\n\0é\ud800", max_size=30))
def test_any_text_gives_a_molecule_or_a_rejection(text):
    assert isinstance(standardized(smiles_record(text)), StandardizedMolecule | MoleculeError)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_damage_to_a_mol_block_gives_a_molecule_or_a_rejection(data):
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("C[C@H](N)C(=O)[O-]"))
    start, stop = sorted(data.draw(st.lists(st.integers(0, len(block)), min_size=2, max_size=2)))
    text = block[:start] + data.draw(st.text(alphabet="0 9CM-\nX", max_size=8)) + block[stop:]
    result = standardized(RawMolecule(text, "molblock", "test.sdf", 0))
    assert isinstance(result, StandardizedMolecule | MoleculeError)


def test_rules_that_chase_each_other_end(monkeypatch):
    """A standardizer without a fixed point, here one that toggles a charge, still gives one form for a whole circle."""
    forms = {"C[NH3+]": "CN", "CN": "C[NH3+]"}
    monkeypatch.setattr(
        "molstream.preprocessing.standardize._steps",
        lambda mol, config: [("neutralise", Chem.MolFromSmiles(forms[Chem.MolToSmiles(mol)]))],
    )
    results = {(parent(text).smiles, parent(text).changes) for text in forms}
    assert results == {("CN", ("neutralise",))}


def test_ordinary_molecules_are_not_changed_by_the_steps_they_skip(shared_data, monkeypatch):
    """What the query for unusual atoms does not find, the steps it guards leave alone: 1,400 real molecules."""
    texts = zinc(shared_data)[::250] + pubchem_substances(shared_data)[::250]
    expected = [standardized(smiles_record(text)) for text in texts]
    monkeypatch.setattr(
        "molstream.preprocessing.standardize._tools",
        functools.cache(lambda: replace(_tools(), unusual=Chem.MolFromSmarts("*"))),
    )
    for text, before in zip(texts, expected, strict=True):
        after = standardized(smiles_record(text))
        if isinstance(before, StandardizedMolecule):
            assert isinstance(after, StandardizedMolecule)
            assert (after.smiles, after.key, after.changes) == (before.smiles, before.key, before.changes), text

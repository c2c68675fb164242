"""Damaged SMILES, mol blocks and geometry records: a rejection with a reason, or the molecule that the text names.

What a text names is found without the code under test: by counting the elements in it, and by RDKit's InChIKey.
"""

import json
import re
from collections import Counter
from random import Random

import numpy as np
from rdkit import Chem, rdBase

from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule, Rejection
from tests.fuzz.cases import case, numbered
from tests.fuzz.damage import json_damaged, text_damaged
from tests.support.datasets import DRUGS
from tests.support.diverse import DIVERSE, FLAT, same_bytes

TEXTS = (*DIVERSE.values(), *DRUGS)
METALS = frozenset(
    ("Li", "Na", "K", "Mg", "Ca", "Al", "Fe", "Co", "Ni", "Cu", "Zn", "Ag", "Au", "Hg", "Pb", "Sn", "Pt")
)
ATOM = re.compile(r"\[(?P<bracket>[^\[\]]*)\]|(?P<plain>Cl|Br|[BCNOSPFI]|[bcnops])")
BRACKET = re.compile(r"^\d*(?P<symbol>[A-Z][a-z]?|[a-z]{1,2})")


def written_elements(smiles: str) -> Counter[str]:
    """Heavy elements of a SMILES by a count of its characters, which knows nothing of chemistry."""
    found: Counter[str] = Counter()
    for atom in ATOM.finditer(smiles):
        symbol = atom["plain"]
        if symbol is None:
            inside = BRACKET.match(atom["bracket"])
            symbol = _element(inside["symbol"]) if inside else "?"
        found[symbol.capitalize()] += 1
    del found["H"]
    return found


def _element(symbol: str) -> str:
    """The element at the beginning of a bracket's letters: two letters where that is one, as in [nH] it is not."""
    known = Chem.GetPeriodicTable()
    with rdBase.BlockLogs():
        for length in (2, 1):
            name = symbol[:length].capitalize()
            if len(name) == length and (symbol[0].isupper() or name in ("Se", "As", "Te", "Si", "C", *"BNOPS")):
                try:
                    if known.GetAtomicNumber(name) > 0:
                        return name
                except RuntimeError:
                    continue
    return "?"


def stored_elements(sample: MoleculeSample) -> Counter[str]:
    symbol = Chem.GetPeriodicTable().GetElementSymbol
    return Counter(symbol(int(number) + 1) for number in sample.atom_features[:, 0] if number)


def assert_itself(sample: MoleculeSample) -> None:
    """The record is that of its own SMILES, and its key is the InChIKey of that SMILES."""
    again = featurize(RawMolecule(sample.smiles, "smiles", sample.source, sample.row), FLAT)
    assert isinstance(again, MoleculeSample), (sample.smiles, again)
    assert again.smiles == sample.smiles
    if not len(sample.positions):
        assert same_bytes(again, sample), sample.smiles
    with rdBase.BlockLogs():
        key = Chem.MolToInchiKey(Chem.MolFromSmiles(sample.smiles))
    assert sample.key == (key or sample.key)


def assert_named(text: str, sample: MoleculeSample) -> None:
    """The record has the elements of the text, but for what standardization leaves out: other fragments, metals."""
    written, stored = written_elements(text.split()[0]), stored_elements(sample)
    assert not stored - written, (text, sample.smiles)
    if "." not in text and not METALS & written.keys():
        assert stored == written, (text, sample.smiles)


def assert_spelled_alike(text: str, sample: MoleculeSample, random: Random) -> None:
    """Another spelling of the text gives the same record."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text)
        if mol is None:
            return
        spelling = Chem.MolToRandomSmilesVect(mol, 1, randomSeed=random.randrange(1 << 30))[0]
    again = featurize(RawMolecule(spelling, "smiles", sample.source, sample.row), FLAT)
    assert isinstance(again, MoleculeSample), (text, spelling, again)
    assert again.smiles == sample.smiles, (text, spelling)


@numbered(500)
def test_a_damaged_smiles_is_rejected_or_the_molecule_that_it_names(numbers):
    for number in numbers:
        with case("SMILES", number) as random:
            text = text_damaged(random.choice(TEXTS), random)
            result = featurize(RawMolecule(text, "smiles", "fuzz.smi", number), FLAT)
            if isinstance(result, Rejection):
                assert result.reason
                assert result.detail
                assert result.text == text
            else:
                assert_itself(result)
                assert_named(text, result)
                assert_spelled_alike(text, result, random)


def mol_block(smiles: str, number: int) -> str:
    with rdBase.BlockLogs():
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    conformer = Chem.Conformer(mol.GetNumAtoms())
    # Positions that are no geometry of the molecule: what is stored must follow from the text alone.
    conformer.SetPositions(np.random.default_rng(number).normal(0, 4, (mol.GetNumAtoms(), 3)))
    conformer.Set3D(number % 2 == 1)
    mol.AddConformer(conformer)
    return Chem.MolToMolBlock(mol)


@numbered(100)
def test_a_damaged_mol_block_is_rejected_or_a_molecule_of_its_own_spelling(numbers):
    for number in numbers:
        with case("mol blocks", number) as random:
            lines = mol_block(random.choice(DRUGS), number).split("\n")
            place = random.randrange(len(lines))
            lines[place] = text_damaged(lines[place], random)
            result = featurize(RawMolecule("\n".join(lines), "molblock", "fuzz.sdf", number), FLAT)
            if isinstance(result, Rejection):
                assert result.reason
                assert result.detail
            else:
                assert_itself(result)


def geometry(smiles: str) -> bytes:
    from rdkit.Chem import rdDistGeom

    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, 2, randomSeed=1)
    positions = [conformer.GetPositions().round(4).tolist() for conformer in mol.GetConformers()]
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    record = {"smiles": smiles, "charge": 0, "numbers": numbers, "positions": positions, "energies": [0.0, 1.0]}
    return json.dumps(record).encode()


@numbered(100)
def test_a_damaged_geometry_is_rejected_or_the_molecule_with_its_bonds(numbers):
    for number in numbers:
        with case("geometry", number) as random:
            smiles = random.choice(DRUGS)
            text = json_damaged(geometry(smiles), random).decode()
            result = featurize(RawMolecule(text, "geometry", "fuzz.jsonl", number), FLAT)
            if isinstance(result, Rejection):
                assert result.reason
                assert result.detail
                continue
            assert_itself(result)
            assert np.isfinite(result.positions).all()
            for i, j in result.bond_index.T.astype(int):
                lengths = np.linalg.norm(result.positions[:, i] - result.positions[:, j], axis=1)
                assert (lengths < 2.5).all(), (text, result.smiles)

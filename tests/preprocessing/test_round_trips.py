"""Geometry of real data, through featurize and back: every stored atom lies where its atom of the source lies.

The order of the atoms is proven by the bonds: each stored bond is one of the source, between the same elements, and as
long. The sets are those of the fixture ``shared_data``; the slow tests take all of their molecules, the others a few
hundred. Run with ``-rP`` to see how many molecules of each set keep their geometry, and why the others do not.
"""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from molstream.preprocessing.config import ConformerConfig, FeaturizeConfig
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import ConformerStatus, MoleculeSample, RawMolecule, Rejection
from tests.support.diverse import mol_blocks

TOLERANCE = 1e-4
"""Angstrom; float32 positions and the four decimals of a mol block leave less."""


@dataclass(frozen=True)
class Source:
    """One molecule of a set, read without molstream."""

    record: RawMolecule
    mol: Chem.Mol | None
    """As the set has it; None where RDKit cannot read it."""


def pcqm4mv2(shared_data: Path, stride: int) -> Iterator[Source]:
    """DFT geometries as CXSMILES; one molecule in ten has an implicit hydrogen, without a position."""
    with gzip.open(shared_data / "geom3d" / "pcqm4mv2" / "pcqm4mv2-2k.csv.gz", "rt") as file:
        texts = [line["smiles"] for line in csv.DictReader(file)]
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    for row in range(0, len(texts), stride):
        mol = Chem.MolFromSmiles(texts[row], parameters)
        yield Source(RawMolecule(texts[row], "smiles", "pcqm4mv2", row), mol)


def ccd(shared_data: Path, stride: int) -> Iterator[Source]:
    """Model coordinates of the PDB's chemical components: metals, charges, odd ones."""
    blocks = mol_blocks(shared_data / "geom3d" / "ccd" / "ccd_model_dev.sdf.gz")
    for row in range(0, len(blocks), stride):
        mol = Chem.MolFromMolBlock(blocks[row], removeHs=False)
        yield Source(RawMolecule(blocks[row], "molblock", "ccd", row), mol)


def qm9(shared_data: Path, stride: int) -> Iterator[Source]:
    """DFT geometries as elements and positions; the bonds are found here by RDKit's own rule of distances."""
    with np.load(shared_data / "dev" / "qm9_dev_60k.npz") as arrays:
        counts, all_numbers, all_positions = arrays["n_atoms"], arrays["Z"], arrays["pos"].astype(np.float64)
        texts = str(arrays["smiles"]).split("\n")
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).tolist()
    for row in range(0, len(texts), stride):
        atoms = slice(starts[row], starts[row + 1])
        numbers, positions = all_numbers[atoms].tolist(), all_positions[atoms]
        mol = Chem.RWMol()
        for number in numbers:
            mol.AddAtom(Chem.Atom(number))
        conformer = Chem.Conformer(len(numbers))
        conformer.SetPositions(positions)
        mol.AddConformer(conformer)
        rdDetermineBonds.DetermineConnectivity(mol)
        record = {"smiles": texts[row], "numbers": numbers, "positions": [positions.tolist()]}
        yield Source(RawMolecule(json.dumps(record), "geometry", "qm9", row), mol)


SETS = {"pcqm4mv2": pcqm4mv2, "qm9": qm9, "ccd": ccd}
STRIDE = {"pcqm4mv2": 8, "qm9": 200, "ccd": 47}
"""Every so many molecules in the quick tests: 250 to 300 of each set."""

LEAST = dict.fromkeys(((name, hydrogens) for name in SETS for hydrogens in ("heavy", "all")), 0.95) | {
    ("pcqm4mv2", "all"): 0.88
}
"""The least share of a set whose geometry is kept."""


def outcome(source: Source, hydrogens: str) -> str:
    """``kept``, or why the geometry of a source molecule is not stored; asserts that what is stored is right."""
    config = FeaturizeConfig(hydrogens=hydrogens, conformers=ConformerConfig(num_conformers=0))
    sample = featurize(source.record, config)
    if isinstance(sample, Rejection):
        return f"rejected: {sample.reason}"
    mol = source.mol
    assert mol is not None, sample.smiles
    if sample.conformer_status == ConformerStatus.GIVEN:
        assert_same_geometry(sample, mol)
        return "kept"
    (conformer,) = mol.GetConformers()
    positions = conformer.GetPositions()
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    if not conformer.Is3D() or distances[np.triu_indices(len(positions), 1)].min(initial=9) < 0.5:
        return "no 3D geometry: flat, or atoms collide"
    assert hydrogens == "all", f"heavy atoms without a place in {source.record.text}"
    expected = Chem.AddHs(Chem.MolFromSmiles(sample.smiles))
    missing = sum(atom.GetAtomicNum() == 1 for atom in expected.GetAtoms()) - int((numbers == 1).sum())
    return "the source lacks hydrogens of the parent" if missing > 0 else "a hydrogen moved or went"


def assert_same_geometry(sample: MoleculeSample, mol: Chem.Mol) -> None:
    """The one stored conformer is that of the source up to a shift, atom by atom and bond by bond."""
    (stored,), source = sample.positions.astype(np.float64), mol.GetConformer().GetPositions()
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    place = places(stored, sample.atom_features[:, 0] + 1, source, numbers)
    assert len(set(place)) == sample.num_atoms
    assert np.abs(stored.mean(axis=0)).max() < TOLERANCE
    kept = source[place] - source[place].mean(axis=0)
    assert np.abs(stored - kept).max() < TOLERANCE
    for i, j in sample.bond_index.T.tolist():
        assert mol.GetBondBetweenAtoms(place[i], place[j]) is not None, (i, j, sample.smiles)
        here, there = np.linalg.norm(stored[i] - stored[j]), np.linalg.norm(source[place[i]] - source[place[j]])
        assert abs(here - there) < TOLERANCE


def places(stored: np.ndarray, stored_numbers: np.ndarray, source: np.ndarray, source_numbers: np.ndarray) -> list[int]:
    """Which atom of the source each stored atom is, found by trying every shift of the first one onto an atom."""
    other_element = stored_numbers[:, None] != source_numbers
    for shift in source - stored[0]:
        distances = np.linalg.norm((stored + shift)[:, None] - source[None], axis=-1) + other_element
        if distances.min(axis=1).max() < 2 * TOLERANCE:
            return distances.argmin(axis=1).tolist()
    raise AssertionError("the stored conformer is not that of the source")


def outcomes(shared_data: Path, name: str, hydrogens: str, stride: int) -> Counter[str]:
    """How often each :func:`outcome` occurs among every ``stride``-th molecule of a set."""
    counts: Counter[str] = Counter()
    with rdBase.BlockLogs():
        for source in SETS[name](shared_data, stride):
            counts[outcome(source, hydrogens)] += 1
    print(f"{name}, hydrogens={hydrogens}: {counts.total()} molecules, {dict(counts.most_common())}")
    return counts


@pytest.mark.parametrize("hydrogens", ["heavy", "all"])
@pytest.mark.parametrize("name", SETS)
def test_given_geometry_round_trips(shared_data, name, hydrogens):
    counts = outcomes(shared_data, name, hydrogens, STRIDE[name])
    assert counts.total() >= 250
    assert counts["kept"] >= LEAST[name, hydrogens] * counts.total()


@pytest.mark.slow
@pytest.mark.parametrize("hydrogens", ["heavy", "all"])
@pytest.mark.parametrize("name", SETS)
def test_given_geometry_of_the_whole_set_round_trips(shared_data, name, hydrogens):
    counts = outcomes(shared_data, name, hydrogens, 1)
    assert counts["kept"] >= LEAST[name, hydrogens] * counts.total()

"""Diverse molecules and records for tests of preprocessing."""

import csv
import gzip
import lzma
from dataclasses import fields
from pathlib import Path

import numpy as np
from rdkit import rdBase

from molstream.errors import MoleculeError
from molstream.preprocessing.config import ConformerConfig, FeaturizeConfig, StandardizeConfig
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule
from molstream.preprocessing.standardize import StandardizedMolecule, standardize

FLAT = FeaturizeConfig(conformers=ConformerConfig(num_conformers=0))
"""Configuration that featurizes graphs without conformers."""

FAST = FeaturizeConfig(conformers=ConformerConfig(max_iterations=2, random_coordinates_max_iterations=0))

DIVERSE = {
    "ethanol": "OCC",
    "methane": "C",
    "water with deuterium": "[2H]O[2H]",
    "hydrogen": "[H][H]",
    "benzene, Kekule form": "C1=CC=CC=C1",
    "aspirin sodium salt": "CC(=O)Oc1ccccc1C(=O)[O-].[Na+]",
    "ibuprofen, one enantiomer": "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O",
    "glucose": "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O",
    "penicillin G": "CC1(C)S[C@@H]2[C@H](NC(=O)Cc3ccccc3)C(=O)N2[C@H]1C(=O)O",
    "caffeine": "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "betaine": "C[N+](C)(C)CC(=O)[O-]",
    "glycine, zwitterion": "[NH3+]CC(=O)[O-]",
    "nitrobenzene, pentavalent": "O=N(=O)c1ccccc1",
    "sulfoxide": "C[S@](=O)CC",
    "E and Z": "F/C=C/C(=O)/C=C\\Cl",
    "allene": "CC=C=CC",
    "mesoionic": "Cc1c([O-])on[n+]1Cc1ccccc1",
    "hexafluorophosphate": "F[P-](F)(F)(F)(F)F",
    "boronic acid": "OB(O)c1ccccc1",
    "silane": "C[Si](C)(C)C#C",
    "radical": "CC(C)(C)N([O])C(C)(C)C",
    "methylmagnesium bromide": "C[Mg]Br",
    "cubane": "C12C3C4C1C5C2C3C45",
    "biaryl, 14C": "[14CH3]c1ccccc1-c1ccccn1",
}
"""SMILES by name: charges, salts, stereochemistry, isotopes, metals, radicals, small and polycyclic molecules."""

IMPOSSIBLE_STEREO = "F[C@@]12CC[C@](F)(C1)C2"
"""A bicycle whose bridgeheads cannot both have the specified stereochemistry: it has no conformer."""

TRILAURIN = "CCCCCCCCCCCC(=O)OCC(COC(=O)CCCCCCCCCCC)OC(=O)CCCCCCCCCCC"
"""A molecule so flexible that ETKDG fails; embedding from random coordinates works."""


def smiles_record(text: str) -> RawMolecule:
    """Create an input record of a SMILES."""
    return RawMolecule(text, "smiles", "test.smi", 0)


def sample(text: str, config: FeaturizeConfig) -> MoleculeSample:
    """Featurize a SMILES, which must succeed."""
    result = featurize(smiles_record(text), config)
    assert isinstance(result, MoleculeSample), result
    return result


def standardized(raw: RawMolecule, config: StandardizeConfig | None = None) -> StandardizedMolecule | MoleculeError:
    """Standardize a record with the default limits; returns the molecule or the error."""
    try:
        with rdBase.BlockLogs():
            return standardize(
                raw.text, raw.format, config or StandardizeConfig(), max_atoms=256, max_smiles_length=2000
            )
    except MoleculeError as error:
        return error


def same_bytes(left: MoleculeSample, right: MoleculeSample) -> bool:
    """Whether two records are equal in every field, arrays bit for bit."""
    for field in fields(MoleculeSample):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if isinstance(a, np.ndarray):
            if (a.dtype, a.shape, a.tobytes()) != (b.dtype, b.shape, b.tobytes()):
                return False
        elif a != b:
            return False
    return True


def zinc(shared_data: Path) -> list[str]:
    """Read the SMILES of ZINC250k: a third charged, most with stereochemistry."""
    with lzma.open(shared_data / "pretrain_smiles" / "zinc250k.smiles.xz", "rt") as file:
        return file.read().split()


def pubchem_substances(shared_data: Path) -> list[str]:
    """Read SMILES of raw PubChem substances: metals, mixtures, dummy atoms."""
    name = "pubchem_substances_100k_standardize_sm.csv.gz"
    with gzip.open(shared_data / "pretrain_smiles" / name, "rt") as file:
        return [line.split("\t")[0].strip() for line in file]


def mol_blocks(path: Path) -> list[str]:
    """Read the mol blocks of a gzipped SD file, without their data fields."""
    with gzip.open(path, "rt") as file:
        records = file.read().split("$$$$\n")
    return [record.split("M  END")[0] + "M  END\n" for record in records if record.strip()]


def natural_products(shared_data: Path) -> list[str]:
    """Read SMILES of ZINC's natural products: rings, stereocentres, E and Z."""
    with gzip.open(shared_data / "pretrain_smiles" / "zinc_natural_products_znp50k.smi.gz", "rt") as file:
        return [line.split()[0] for line in file if line.strip()]


def heteroaromatics(shared_data: Path) -> list[str]:
    """Read SMILES of VEHICLe: aromatic ring systems of all kinds."""
    with gzip.open(shared_data / "pretrain_smiles" / "vehicle_heteroaromatics.csv.gz", "rt") as file:
        return [row["Smiles"] for row in csv.DictReader(file) if row["Smiles"]]


def screened(shared_data: Path) -> list[str]:
    """Read SMILES of MoleculeNet's HIV set: dyes, metals, salts, odd charges."""
    with gzip.open(shared_data / "moleculenet" / "kano" / "hiv.csv.gz", "rt") as file:
        return [row["smiles"] for row in csv.DictReader(file)]

"""featurize(raw, config) -> MoleculeSample | Rejection: the function that cluster, embedder and fine-tuning all call.

A pure function of the molecule: every spelling of it gives the same bytes, in any process.
"""

import time
from dataclasses import dataclass, field

import numpy as np
from rdkit import Chem, rdBase

from preprocessing.conformers import ConformerConfig, conformers
from preprocessing.errors import ConfigError
from preprocessing.fields import ConformerStatus, MoleculeSample, RawMolecule, Rejection
from preprocessing.graph import atom_features, bonds
from preprocessing.standardize import (
    MoleculeError,
    StandardizeConfig,
    StandardizedMolecule,
    rdkit_errors,
    standardize,
)

HYDROGENS = ("heavy", "all")

MAX_SMILES_LENGTH = 5000
"""Highest ``max_smiles_length``: RDKit's canonicalization has crashed on a chain of 20000 atoms."""


@dataclass(frozen=True)
class FeaturizeConfig:
    """Everything that a stored molecule depends on besides its input."""

    hydrogens: str = "heavy"
    """Which atoms are stored: heavy (as in the papers; hydrogens still take part in embedding) or all."""
    max_atoms: int = 256
    """Most heavy atoms of a molecule, after standardizing."""
    max_smiles_length: int = 2000
    """Most characters of an input SMILES, most atoms of an input mol block; checked before any chemistry."""
    standardize: StandardizeConfig = field(default_factory=StandardizeConfig)
    """Parent molecule."""
    conformers: ConformerConfig = field(default_factory=ConformerConfig)
    """Positions."""

    def __post_init__(self) -> None:
        if self.hydrogens not in HYDROGENS:
            raise ConfigError(f"hydrogens is '{self.hydrogens}'; expected one of: {', '.join(HYDROGENS)}")
        if not 1 <= self.max_smiles_length <= MAX_SMILES_LENGTH:
            raise ConfigError(f"max_smiles_length is {self.max_smiles_length}; expected 1 to {MAX_SMILES_LENGTH}")
        if not 1 <= self.max_atoms <= self.max_smiles_length:
            raise ConfigError(
                f"max_atoms is {self.max_atoms}; expected 1 to max_smiles_length, which is {self.max_smiles_length}"
            )


def standardized(raw: RawMolecule, config: FeaturizeConfig) -> StandardizedMolecule | Rejection:
    """The cheap first stage of :func:`featurize`: parent molecule and key, enough to find duplicates."""
    start = time.process_time()
    try:
        return _standardized(raw, config)
    except MoleculeError as error:
        return _rejection(raw, error, start)


def featurize(raw: RawMolecule, config: FeaturizeConfig) -> MoleculeSample | Rejection:
    """The stored record of one molecule, or why there is none."""
    start = time.process_time()
    try:
        return _sample(raw, _standardized(raw, config), config)
    except MoleculeError as error:
        return _rejection(raw, error, start)


def _standardized(raw: RawMolecule, config: FeaturizeConfig) -> StandardizedMolecule:
    with rdBase.BlockLogs():
        return standardize(raw.text, raw.format, config.standardize, config.max_atoms, config.max_smiles_length)


def _sample(raw: RawMolecule, molecule: StandardizedMolecule, config: FeaturizeConfig) -> MoleculeSample:
    with rdBase.BlockLogs():
        with rdkit_errors("features"):
            with_hydrogens = Chem.AddHs(molecule.mol)
            stored = with_hydrogens if config.hydrogens == "all" else molecule.mol
            features = atom_features(stored)
            bond_index, bond_features = bonds(stored)
        result = conformers(with_hydrogens, len(features), molecule.key, molecule.given, config.conformers)
    if config.conformers.require_conformer and result.status is ConformerStatus.NONE:
        raise MoleculeError("conformer", "no_conformer", result.detail)
    return MoleculeSample(
        key=molecule.key,
        smiles=molecule.smiles,
        source=raw.source,
        row=raw.row,
        atom_features=features,
        bond_index=bond_index,
        bond_features=bond_features,
        positions=result.positions,
        conformer_energy=result.energies,
        conformer_status=int(result.status),
        targets=np.array(raw.targets, dtype=np.float32),
    )


def _rejection(raw: RawMolecule, error: MoleculeError, start: float) -> Rejection:
    return Rejection(
        source=raw.source,
        row=raw.row,
        text=raw.text,
        stage=error.stage,
        reason=error.reason,
        detail=error.detail,
        seconds=time.process_time() - start,
    )

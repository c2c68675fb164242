"""featurize(raw, config) -> MoleculeSample | Rejection: the function that cluster, embedder and fine-tuning all call.

A pure function of the molecule: every spelling of it gives the same bytes, in any process. It has two halves, since a
cluster looks for duplicates between them: :func:`describe` is cheap, :func:`add_conformers` is not.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors

from molstream.errors import MoleculeError
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.conformers import Conformers, conformers, given_conformers
from molstream.preprocessing.descriptors import descriptors
from molstream.preprocessing.fields import ConformerStatus, MoleculeSample, RawMolecule, Rejection
from molstream.preprocessing.graph import atom_features, bonds
from molstream.preprocessing.hydrogens import read_with_hydrogens
from molstream.preprocessing.rdkit_errors import rdkit_errors
from molstream.preprocessing.standardize import StandardizedMolecule, standardize


@dataclass(frozen=True)
class Description:
    """All that is known of a molecule before new conformers are made: the cheap stage of :func:`featurize`."""

    sample: MoleculeSample
    """The record, with the input's own positions if they are kept, otherwise with none yet."""
    changes: tuple[str, ...]
    """The steps of standardization that changed the input, by their names in ``StandardizeConfig``."""
    left_out: tuple[str, ...]
    """Why a conformer of the input is not in the record, for each that is not: ``bad_geometry`` (a broken or formed
    bond) or ``stereo_mismatch`` (another stereoisomer); see ``agreement.py``."""
    num_rings: int
    """Rings of the smallest set of smallest rings."""
    num_rotatable_bonds: int
    """Rotatable bonds by RDKit's strict definition."""


DEFAULT_CONFIG = FeaturizeConfig()


def featurize(
    raw: str | RawMolecule, config: FeaturizeConfig = DEFAULT_CONFIG, *, with_key: bool = True
) -> MoleculeSample | Rejection:
    """The record of one molecule, as a dataset stores it, or why there is none.

    Args:
        raw: a SMILES string, or a record with its format, origin and targets.
        config: everything that the record depends on besides the molecule. To feed a pretrained encoder, use its own:
            ``load_pretrained(...).featurize``.
        with_key: False leaves the key empty where no new conformers depend on it, which saves the time of InChI.

    Returns:
        A ``MoleculeSample``, with conformers if ``config`` asks for them and they can be made, and with RDKit's
        descriptors, 3 ms of work, unless ``config.descriptors`` is ``none``. A molecule that cannot
        be featurized raises no exception: it gives a ``Rejection``, which names stage, reason and detail. Conformers of
        the input that are not of its molecule are left out; :func:`describe` says why.

    Raises:
        TypeError: ``raw`` is something else.
        ConfigError: the installed RDKit lacks descriptors that ``config`` asks for.

    ::

        sample = featurize("CCO")
        if isinstance(sample, Rejection):
            print(sample.stage, sample.reason, sample.detail)
    """
    raw = RawMolecule(raw, "smiles", "", 0) if isinstance(raw, str) else raw
    if not isinstance(raw, RawMolecule):
        raise TypeError(f"featurize: got {type(raw).__name__}: expected a SMILES string or a RawMolecule.")
    start = time.process_time()
    try:
        with rdBase.BlockLogs():
            return _with_conformers(_sample(raw, _standardized(raw, config), config, with_key), config)
    except MoleculeError as error:
        return _rejection((raw.source, raw.row, raw.text), error, start)


def describe(raw: RawMolecule, config: FeaturizeConfig) -> Description | Rejection:
    """Parent molecule, key, graph and given geometry of one input: enough to find duplicates."""
    start = time.process_time()
    try:
        with rdBase.BlockLogs():
            return _description(raw, config)
    except MoleculeError as error:
        return _rejection((raw.source, raw.row, raw.text), error, start)


def add_conformers(sample: MoleculeSample, config: FeaturizeConfig, text: str) -> MoleculeSample | Rejection:
    """The described molecule with its final conformers.

    The conformers depend on its key and SMILES alone, so that it does not matter when and where they are made.

    Args:
        sample: from :func:`describe` with the same ``config``.
        text: the input as read, for the rejection.
    """
    start = time.process_time()
    try:
        with rdBase.BlockLogs():
            return _with_conformers(sample, config)
    except MoleculeError as error:
        return _rejection((sample.source, sample.row, text), error, start)


def atom_origins(raw: RawMolecule, config: FeaturizeConfig) -> tuple[int, ...] | Rejection:
    """Find which atom of the input's text each stored atom is, -1 for hydrogens that are added.

    Equivalent atoms may be exchanged, and those that differ in the drawing alone, as the oxygens of a carboxylate.

    Args:
        raw: a record that :func:`featurize` takes; its atoms are numbered as its text has them, hydrogens included.
        config: that of :func:`featurize`.
    """
    start = time.process_time()
    try:
        with rdBase.BlockLogs():
            molecule = _standardized(raw, config, numbered=True)
            if molecule.origins is None:
                raise MoleculeError("standardize", "untraceable", "RDKit's rules lose track of the atoms")
            added = Chem.AddHs(molecule.mol).GetNumAtoms() - len(molecule.origins) if config.hydrogens == "all" else 0
            return (*molecule.origins, *[-1] * added)
    except MoleculeError as error:
        return _rejection((raw.source, raw.row, raw.text), error, start)


def needs_embedding(status: ConformerStatus, config: FeaturizeConfig) -> bool:
    """Whether :func:`add_conformers` has something to compute for a described molecule of this status."""
    wanted = config.conformers.given == "both" or status is not ConformerStatus.GIVEN
    return wanted and config.conformers.num_conformers > 0


def _standardized(raw: RawMolecule, config: FeaturizeConfig, numbered: bool = False) -> StandardizedMolecule:
    limits = config.max_atoms, config.max_smiles_length
    return standardize(raw.text, raw.format, config.standardize, *limits, numbered)


def _description(raw: RawMolecule, config: FeaturizeConfig) -> Description:
    molecule = _standardized(raw, config)
    sample = _sample(raw, molecule, config, with_key=True)
    left_out = molecule.left_out if sample.conformer_status == ConformerStatus.GIVEN else ()
    with rdkit_errors("features"):
        num_rings = rdMolDescriptors.CalcNumRings(molecule.mol)
        num_rotatable_bonds = rdMolDescriptors.CalcNumRotatableBonds(molecule.mol)
    return Description(sample, molecule.changes, left_out, num_rings, num_rotatable_bonds)


def _sample(
    raw: RawMolecule, molecule: StandardizedMolecule, config: FeaturizeConfig, with_key: bool
) -> MoleculeSample:
    """The record without new conformers; its key is empty if neither they nor the caller need it."""
    with rdkit_errors("features"):
        stored = Chem.AddHs(molecule.mol) if config.hydrogens == "all" else molecule.mol
        features = atom_features(stored)
        bond_index, bond_features = bonds(stored)
    positions = given_conformers(molecule.given, len(features), config.conformers)
    return MoleculeSample(
        key=molecule.key if with_key or needs_embedding(positions.status, config) else "",
        smiles=molecule.smiles,
        source=raw.source,
        row=raw.row,
        atom_features=features,
        bond_index=bond_index,
        bond_features=bond_features,
        positions=positions.positions,
        conformer_energy=positions.energies,
        forces=positions.forces,
        conformer_status=int(positions.status),
        targets=np.array(raw.targets, dtype=np.float32),
        # The atoms are in the order of the SMILES, so that every spelling gives the same bits.
        descriptors=descriptors(molecule.mol) if config.descriptors == "rdkit2d" else np.zeros(0, np.float32),
    )


def _with_conformers(sample: MoleculeSample, config: FeaturizeConfig) -> MoleculeSample:
    detail = "num_conformers is 0 and the input has no geometry that is kept"
    if needs_embedding(ConformerStatus(sample.conformer_status), config):
        with rdkit_errors("conformer"):
            # The SMILES of a standardized molecule is its own standardized form, in the order of its stored atoms.
            mol = read_with_hydrogens(sample.smiles)
        new = conformers(mol, sample.num_atoms, sample.key, config.conformers)
        sample, detail = _joined(sample, new), new.detail
    if config.conformers.require_conformer and sample.conformer_status == ConformerStatus.NONE:
        raise MoleculeError("conformer", "no_conformer", detail)
    return sample


def _joined(sample: MoleculeSample, new: Conformers) -> MoleculeSample:
    """The sample with new conformers behind the given ones, if it has such; forces go, since the new ones have none."""
    if new.status is ConformerStatus.NONE:
        return sample
    return replace(
        sample,
        positions=np.concatenate([sample.positions, new.positions]),
        conformer_energy=np.concatenate([sample.conformer_energy, new.energies]),
        forces=new.forces,
        conformer_status=sample.conformer_status or int(new.status),
    )


def _rejection(place: tuple[str, int, str], error: MoleculeError, start: float) -> Rejection:
    return Rejection(*place, error.stage, error.reason, error.detail, time.process_time() - start)

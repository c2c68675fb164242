"""Conformers of a molecule: a ladder of given geometry, ETKDG, ETKDG from random coordinates, none.

The bounded numbers of attempts keep the time of hopeless molecules in check and are deterministic, unlike the wall
clock: with RDKit's defaults 0.1 % of the molecules, all failures, would take 8 to 20 % of the time.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from preprocessing.errors import ConfigError
from preprocessing.fields import ConformerStatus

FORCE_FIELDS = ("MMFF94s", "none")


@dataclass(frozen=True)
class ConformerConfig:
    """How the positions of a molecule are made."""

    num_conformers: int = 1
    """Conformers that are made per molecule; 0 = none."""
    keep_given: bool = True
    """Store the input's own 3D coordinates, as they are, where they cover every stored atom."""
    max_iterations: int = 30
    """Attempts of ETKDG per conformer, from distance geometry."""
    random_coordinates_max_iterations: int = 10
    """Attempts per conformer of a second pass from random coordinates, where the first gave none; 0 = no such pass."""
    timeout_s: int = 60
    """Wall-clock limit of a pass in seconds, 0 = none. A backstop only: what it cuts off is not reproducible."""
    force_field: str = "MMFF94s"
    """Relaxation of embedded conformers: MMFF94s or none."""
    force_field_iterations: int = 1000
    """Most steps of the relaxation (at 200, more than half of the drug-like molecules are not converged)."""
    require_conformer: bool = False
    """Reject a molecule that cannot be embedded, instead of storing it without positions."""

    def __post_init__(self) -> None:
        counts = ("num_conformers", "random_coordinates_max_iterations", "timeout_s")
        for name, least in [*((name, 0) for name in counts), ("max_iterations", 1), ("force_field_iterations", 1)]:
            if getattr(self, name) < least:
                raise ConfigError(f"conformers.{name} is {getattr(self, name)}; expected {least} or more")
        if self.force_field not in FORCE_FIELDS:
            choices = ", ".join(FORCE_FIELDS)
            raise ConfigError(f"conformers.force_field is '{self.force_field}'; expected one of: {choices}")


@dataclass(frozen=True)
class Conformers:
    """The stored conformers of one molecule, lowest energy first."""

    positions: np.ndarray
    """float32 [c, n, 3], angstrom, centred on the unweighted centroid of the stored atoms."""
    energies: np.ndarray
    """float32 [c], kcal/mol; NaN where no force field was applied."""
    status: ConformerStatus
    """The rung that gave them."""
    detail: str
    """Why there are none, for a person; empty where there are."""


def given_conformers(given: np.ndarray | None, num_atoms: int, config: ConformerConfig) -> Conformers:
    """The input's own geometry, [at least num_atoms, 3], where it is to be kept and covers every stored atom."""
    if config.keep_given and given is not None and len(given) >= num_atoms:
        return _stored(given[None, :num_atoms], np.array([np.nan]), ConformerStatus.GIVEN)
    return _none(num_atoms, "")


def conformers(mol: Chem.Mol, num_atoms: int, key: str, config: ConformerConfig) -> Conformers:
    """New conformers of the first ``num_atoms`` atoms of ``mol``, which has all its hydrogens as atoms.

    ``key`` is the only source of randomness. Exceptions of RDKit, most of them on metal complexes, count as failed
    attempts.
    """
    if config.num_conformers == 0:
        return _none(num_atoms, "num_conformers is 0")
    mol = Chem.Mol(mol)
    failures: list[str] = []
    for status, iterations in (
        (ConformerStatus.ETKDG, config.max_iterations),
        (ConformerStatus.RANDOM_COORDINATES, config.random_coordinates_max_iterations),
    ):
        if iterations == 0:
            continue
        try:
            _embed(mol, key, config, iterations, random_coordinates=status is ConformerStatus.RANDOM_COORDINATES)
            energies = _relax(mol, config)
        except (RuntimeError, ValueError) as error:
            failures.append(f"{status.name}: {' '.join(str(error).split())}")
            continue
        # Not the ids that EmbedMultipleConfs returns: they are [-1] after a timeout.
        positions = [conformer.GetPositions()[:num_atoms] for conformer in mol.GetConformers()]
        finite = [index for index, p in enumerate(positions) if np.isfinite(p).all()]
        if finite:
            return _stored(np.stack([positions[i] for i in finite]), energies[finite], status)
        failures.append(f"{status.name}: no conformer in {iterations} attempts")
    return _none(num_atoms, "; ".join(failures))


def seed(key: str) -> int:
    """The 31-bit seed that belongs to a molecule's key, whatever the process or machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


def _embed(mol: Chem.Mol, key: str, config: ConformerConfig, max_iterations: int, random_coordinates: bool) -> None:
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed(key)
    parameters.numThreads = 1
    parameters.maxIterations = max_iterations
    parameters.timeout = config.timeout_s
    parameters.useRandomCoords = random_coordinates
    # Otherwise the fragments of a salt, where they are kept, would all be placed on top of each other.
    parameters.embedFragmentsSeparately = False
    rdDistGeom.EmbedMultipleConfs(mol, config.num_conformers, parameters)


def _relax(mol: Chem.Mol, config: ConformerConfig) -> np.ndarray:
    """Minimizes the energy of every conformer in place; their energies in kcal/mol, float64 [c], NaN where unknown."""
    num_conformers = mol.GetNumConformers()
    if num_conformers == 0 or config.force_field == "none" or not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        return np.full(num_conformers, np.nan)
    results = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(
        mol,
        numThreads=1,
        maxIters=config.force_field_iterations,
        mmffVariant=config.force_field,
        ignoreInterfragInteractions=False,
    )
    return np.array([energy if outcome >= 0 else np.nan for outcome, energy in results], dtype=np.float64)


def _stored(positions: np.ndarray, energies: np.ndarray, status: ConformerStatus) -> Conformers:
    order = np.argsort(energies, kind="stable")
    centred = positions - positions.mean(axis=1, keepdims=True)
    return Conformers(centred[order].astype(np.float32), energies[order].astype(np.float32), status, "")


def _none(num_atoms: int, detail: str) -> Conformers:
    return Conformers(
        np.zeros((0, num_atoms, 3), dtype=np.float32), np.zeros(0, dtype=np.float32), ConformerStatus.NONE, detail
    )

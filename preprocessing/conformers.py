"""Conformers of a molecule: a ladder of given geometry, ETKDG, ETKDG from random coordinates, none.

The bounded numbers of attempts keep the time of hopeless molecules in check and are deterministic, unlike the wall
clock: with RDKit's defaults 0.1 % of the molecules, all failures, would take 8 to 20 % of the time.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolAlign

from molstream.preprocessing.config import ConformerConfig
from molstream.preprocessing.fields import ConformerStatus
from molstream.preprocessing.force_field import relax
from molstream.preprocessing.geometry import GivenConformers

MAX_SYMMETRIES = 1000
"""Most equivalent atom orders that are tried to align two conformers, at about 1 us each. Where a molecule has more
(three tert-butyl groups on benzene: 1296) an RMSD may come out too large, so that a conformer too many is kept."""


@dataclass(frozen=True)
class Conformers:
    """The stored conformers of one molecule, lowest energy first, unknown energies last."""

    positions: np.ndarray
    """float32 [c, n, 3], angstrom, centred on the unweighted centroid of the stored atoms."""
    energies: np.ndarray
    """float32 [c], kcal/mol; NaN where unknown."""
    forces: np.ndarray
    """float32 [c, n, 3], kcal/mol/angstrom; [0, n, 3] where unknown."""
    status: ConformerStatus
    """The rung of the ladder that gave them."""
    detail: str
    """Message why there are none; empty if there are some."""


def given_conformers(given: GivenConformers | None, num_atoms: int, config: ConformerConfig) -> Conformers:
    """The input's own conformers of the first ``num_atoms`` atoms; none if they are not kept or do not cover these."""
    if config.given == "replace" or given is None or given.positions.shape[1] < num_atoms:
        return _none(num_atoms, "")
    first = given.of_atoms(np.arange(num_atoms))
    return _stored(first.positions, first.energies, first.forces, ConformerStatus.GIVEN)


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
            energies = relax(mol, config.force_field, config.force_field_iterations)
            kept = _distinct(mol, energies, config.rmsd_threshold)
        except (RuntimeError, ValueError) as error:
            failures.append(f"{status.name}: {' '.join(str(error).split())}")
            continue
        if kept:
            # The ids that EmbedMultipleConfs returns are of no use: they are [-1] after a timeout.
            positions = np.stack([c.GetPositions()[:num_atoms] for c in mol.GetConformers()])[kept]
            return _stored(positions, energies[kept], np.zeros((0, num_atoms, 3)), status)
        failures.append(f"{status.name}: no conformer in {iterations} attempts")
    return _none(num_atoms, "; ".join(failures))


def seed(key: str) -> int:
    """The 31-bit seed of a molecule's key, the same in any process and on any machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


def _embed(mol: Chem.Mol, key: str, config: ConformerConfig, max_iterations: int, random_coordinates: bool) -> None:
    """Add conformers to ``mol`` by one pass of ETKDG, in place."""
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed(key)
    parameters.numThreads = 1
    parameters.maxIterations = max_iterations
    parameters.timeout = config.timeout_s
    parameters.useRandomCoords = random_coordinates
    # Otherwise the fragments of a salt, where they are kept, would all be placed on top of each other.
    parameters.embedFragmentsSeparately = False
    rdDistGeom.EmbedMultipleConfs(mol, config.num_conformers, parameters)


def _distinct(mol: Chem.Mol, energies: np.ndarray, threshold: float) -> list[int]:
    """Indices of the conformers that are kept: finite, and not within ``threshold`` of a kept one of lower energy.

    Equivalent atoms are exchanged, since otherwise every rotation of a phenyl or tert-butyl group would be new. The
    equivalent orders are searched once per molecule (GetBestRMS would do it for each pair) and bounded in number;
    hydrogens, which would multiply them, are left out.
    """
    is_finite = [bool(np.isfinite(conformer.GetPositions()).all()) for conformer in mol.GetConformers()]
    finite = [index for index in np.argsort(energies, kind="stable").tolist() if is_finite[index]]
    if threshold == 0 or len(finite) < 2:
        return finite
    heavy = Chem.RemoveHs(mol)
    for conformer_id in [conformer.GetId() for conformer, ok in zip(heavy.GetConformers(), is_finite) if not ok]:
        heavy.RemoveConformer(conformer_id)
    distances = np.zeros((len(finite), len(finite)))
    lower = np.tril_indices(len(finite), -1)
    distances[lower] = rdMolAlign.GetAllConformerBestRMS(heavy, numThreads=1, maxMatches=MAX_SYMMETRIES)
    distances += distances.T
    # The conformers of ``heavy`` are in the order of embedding, ``finite`` in that of energy.
    place = {index: k for k, index in enumerate(sorted(finite))}
    kept: list[int] = []
    for index in finite:
        if all(distances[place[index], place[other]] >= threshold for other in kept):
            kept.append(index)
    return kept


def _stored(positions: np.ndarray, energies: np.ndarray, forces: np.ndarray, status: ConformerStatus) -> Conformers:
    """Conformers as they are stored: sorted by energy, centred, in float32."""
    order = np.argsort(energies, kind="stable")
    centred = positions - positions.mean(axis=1, keepdims=True)
    return Conformers(
        centred[order].astype(np.float32),
        energies[order].astype(np.float32),
        forces[order[: len(forces)]].astype(np.float32),
        status,
        "",
    )


def _none(num_atoms: int, detail: str) -> Conformers:
    """No conformers of ``num_atoms`` atoms, and the reason."""
    nowhere = np.zeros((0, num_atoms, 3), dtype=np.float32)
    return Conformers(nowhere, np.zeros(0, dtype=np.float32), nowhere, ConformerStatus.NONE, detail)

"""Rows of stored atoms in the order of the molecule that a user handed over."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.featurize import atom_origins
from molstream.preprocessing.fields import ConformerStatus, MoleculeSample, RawMolecule, Rejection
from molstream.preprocessing.hydrogens import smiles_order
from molstream.training.inference.encoding import Encoding
from molstream.training.inference.inputs import Record

ROW = "_molstream_row"
"""Property of an atom with its number before hydrogens are removed."""


@dataclass(frozen=True)
class Numbering:
    """The atoms of an input as its user numbers them."""

    elements: np.ndarray
    """int64 [m]: atomic numbers."""
    of_text: np.ndarray
    """int64: number of every atom that the text of its record has; -1 for those that the user does not see."""

    def rows(self, found: np.ndarray, origins: Sequence[int], sample: MoleculeSample) -> np.ndarray | None:
        """The rows of an input's m atoms, float32 [m, d]; NaN for those that are not stored.

        Args:
            found: float32 [n, d], of the stored atoms.
            origins: by :func:`atom_origins`.
            sample: the stored molecule.

        Returns:
            None if an atom were to have the row of another element, so that the atoms were not found again.
        """
        if len(origins) != len(found):
            return None
        stored = np.flatnonzero(np.array(origins) >= 0)
        place = self.of_text[np.array(origins)[stored]]
        stored, place = stored[place >= 0], place[place >= 0]
        if (self.elements[place] != sample.atom_features[stored, 0].astype(np.int64) + 1).any():
            return None
        rows = np.full((len(self.elements), found.shape[1]), np.nan, np.float32)
        rows[place] = found[stored]
        return rows


def numbering(item: Any, record: RawMolecule) -> Numbering:
    """The atoms of an input: those of an RDKit molecule, of ``Chem.MolFromSmiles``, of a mol block or of a geometry.

    Args:
        item: the input.
        record: made of it, which the featurizer has taken.
    """
    if isinstance(item, Chem.Mol):
        elements = _elements(item)
        if record.format == "smiles":
            Chem.MolToSmiles(item)
            return Numbering(elements, np.array(smiles_order(item)))
        return Numbering(elements, np.arange(len(elements)))
    if record.format == "geometry":
        elements = np.array(json.loads(record.text)["numbers"])
        return Numbering(elements, np.arange(len(elements)))
    return _of_molblock(record.text) if record.format == "molblock" else _of_smiles(record.text)


def _of_molblock(text: str) -> Numbering:
    mol = Chem.MolFromMolBlock(text, sanitize=False, removeHs=False)
    return Numbering(_elements(mol), np.arange(mol.GetNumAtoms()))


def _of_smiles(text: str) -> Numbering:
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    whole = Chem.MolFromSmiles(text.strip(), parameters)
    for atom in whole.GetAtoms():
        atom.SetIntProp(ROW, atom.GetIdx())
    mol = Chem.RemoveHs(whole)
    of_text = np.full(whole.GetNumAtoms(), -1)
    of_text[[atom.GetIntProp(ROW) for atom in mol.GetAtoms()]] = np.arange(mol.GetNumAtoms())
    return Numbering(_elements(mol), of_text)


def _elements(mol: Chem.Mol) -> np.ndarray:
    return np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], np.int64)


@dataclass(frozen=True)
class Atoms:
    """The atoms of one record, or why there are none."""

    rows: np.ndarray
    """float32 [m, d], in the input's order; NaN where an atom is not stored. No row, [0, d], if the record failed."""
    smiles: str | None
    """Canonical SMILES of the standardized molecule; None if it failed."""
    failure: str | None
    """Stage, reason and detail; None if there was no failure."""


def atoms_of(
    inputs: Sequence[tuple[Any, Record]],
    results: Sequence[MoleculeSample | Rejection],
    encoding: Encoding,
    config: FeaturizeConfig,
) -> Iterator[Atoms]:
    """Encode the atoms of records that are one batch.

    Args:
        inputs: what the user handed over, and the records that were made of it.
        results: what the featurizer made of the records.
        encoding: how they are encoded.
        config: of the featurizer.
    """
    samples = [result for result in results if isinstance(result, MoleculeSample)]
    ends = list(accumulate(sample.num_atoms for sample in samples))
    graph_width = encoding.atom_widths.get("2d", 0)
    encoded = iter(np.split(encoding.rows(samples, of_atoms=True), ends[:-1]) if samples else [])
    for (item, record), result in zip(inputs, results, strict=True):
        if not isinstance(result, MoleculeSample):
            yield _failed(encoding, result)
            continue
        assert isinstance(record, RawMolecule), "a sample is made of a record"
        with rdBase.BlockLogs():
            rows = _in_order(item, record, next(encoded), result, config, graph_width)
        yield _failed(encoding, rows) if isinstance(rows, Rejection) else Atoms(rows, result.smiles, None)


def _in_order(
    item: Any,
    record: RawMolecule,
    found: np.ndarray,
    sample: MoleculeSample,
    config: FeaturizeConfig,
    graph_width: int,
) -> np.ndarray | Rejection:
    origins = atom_origins(record, config)
    if isinstance(origins, Rejection):
        return origins
    rows = numbering(item, record).rows(_settled(found, sample, graph_width), origins, sample)
    if rows is not None:
        return rows
    detail = "the atoms of the input are not found again in the standardized molecule"
    return Rejection(record.source, record.row, record.text, "standardize", "untraceable", detail, 0.0)


def _settled(found: np.ndarray, sample: MoleculeSample, graph_width: int) -> np.ndarray:
    """Rows of stored atoms, those of equivalent atoms replaced by their mean.

    Equivalent atoms differ in what depends on their order in the canonical SMILES: in their chirality tag, and in the
    positions of a conformer that is made for them. Positions that are given tell them apart.
    """
    ranks = np.array(Chem.CanonicalRankAtoms(Chem.MolFromSmiles(sample.smiles), breakTies=False))
    # Hydrogens that are stored as atoms come last, and have no row in the end.
    columns = graph_width if sample.conformer_status == ConformerStatus.GIVEN else found.shape[1]
    heavy = found[: len(ranks), :columns].astype(np.float64)
    sums, counts = np.zeros_like(heavy), np.bincount(ranks, minlength=len(ranks))
    np.add.at(sums, ranks, heavy)
    settled = found.copy()
    settled[: len(ranks), :columns] = sums[ranks] / counts[ranks][:, None]
    return settled


def _failed(encoding: Encoding, why: Rejection) -> Atoms:
    nothing = np.zeros((0, sum(encoding.atom_widths.values())), np.float32)
    return Atoms(nothing, None, f"{why.stage}: {why.reason}: {why.detail}")

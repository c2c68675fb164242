"""``molstream generate conformers|bonds``: generates conformers or bonds for a file of molecules, and writes an SDF."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import Chem

from molstream.errors import MoleculeError
from molstream.io.files import written_whole
from molstream.io.locks import claimed
from molstream.pipeline.readers.prepare import open_sources
from molstream.pipeline.readers.split import InputSplit, cut, read_split
from molstream.pipeline.sandbox.pool import SandboxPool
from molstream.preprocessing.assemble import assemble
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.fields import MoleculeSample, RawMolecule, Rejection
from molstream.training.inference.config import GenerateConfig
from molstream.training.inference.generator import MoleculeGenerator, Watch
from molstream.training.metrics.console import progress

ROWS_PER_GROUP = 1024
"""Number of records that are read and processed at a time, which bounds the memory."""


class Failure(NamedTuple):
    """A record, or one of its samples, that is not in the output, and the reason."""

    source: str
    """Input file of the record."""
    row: int
    """Row of the record in the file."""
    text: str
    """Text of the record, such as its SMILES."""
    repeat: int | None
    """Number of the sample, from 0; None if the record itself cannot be used."""
    failure: str
    """Stage, reason and detail of the failure."""


FAILURES = pa.schema(
    [
        ("source", pa.string()),
        ("row", pa.int64()),
        ("text", pa.string()),
        ("repeat", pa.int64()),
        ("failure", pa.string()),
    ]
)

Made = Iterator[Chem.Mol | Failure]


def with_conformers(sample: MoleculeSample, positions: np.ndarray) -> Chem.Mol:
    """Build the molecule of a sample with conformers ``positions``, float32 [c, n, 3], angstrom, numbered from 0."""
    mol = Chem.MolFromSmiles(sample.smiles)
    # The atoms of the text come first in the record, in the same order; stored hydrogens follow.
    mol = mol if mol.GetNumAtoms() == sample.num_atoms else Chem.AddHs(mol)
    for one in positions:
        conformer = Chem.Conformer(sample.num_atoms)
        conformer.SetPositions(one.astype(np.float64))
        mol.AddConformer(conformer, assignId=True)
    return mol


def conformer_molecules(
    generator: MoleculeGenerator, samples: list[MoleculeSample], targets: Sequence[str], repeats: int, watch: Watch
) -> Made:
    """Yield each molecule ``repeats`` times, with generated positions."""
    for sample, found in zip(samples, generator.conformers(samples, repeats, watch), strict=True):
        for repeat, positions in enumerate(found):
            yield _named(with_conformers(sample, positions[None]), sample, targets, repeat)


def bond_molecules(
    generator: MoleculeGenerator, samples: list[MoleculeSample], targets: Sequence[str], repeats: int, watch: Watch
) -> Made:
    """Yield each molecule ``repeats`` times, with generated bonds and charges; failures where these are not valid."""
    has_hydrogens = generator.trained.featurize.hydrogens == "all"
    for sample, found in zip(samples, generator.bonds(samples, repeats, watch), strict=True):
        for repeat, bonds in enumerate(found):
            positions = sample.positions[repeat % len(sample.positions)]
            try:
                mol = assemble(
                    sample.atom_features[:, 0],
                    bonds.formal_charge,
                    bonds.bond_index,
                    bonds.bond_type,
                    positions,
                    has_hydrogens,
                )
            except MoleculeError as error:
                yield Failure(sample.source, sample.row, sample.smiles, repeat, str(error))
            else:
                yield _named(mol, sample, targets, repeat)


def conformer_inputs(config: FeaturizeConfig) -> FeaturizeConfig:
    """Return the run's featurizer with conformers disabled."""
    return replace(config, conformers=replace(config.conformers, num_conformers=0, given="replace"))


def bond_inputs(config: FeaturizeConfig) -> FeaturizeConfig:
    """Return the run's featurizer with at least one conformer per molecule."""
    most = max(1, config.conformers.num_conformers)
    return replace(config, conformers=replace(config.conformers, num_conformers=most, require_conformer=True))


class Kind(NamedTuple):
    """A kind of generation: its featurizer and its generating function."""

    inputs: Callable[[FeaturizeConfig], FeaturizeConfig]
    """Adapts the run's featurizer to the inputs."""
    molecules: Callable[[MoleculeGenerator, list[MoleculeSample], Sequence[str], int, Watch], Made]
    """Generates molecules from samples, with the names of their targets, a number of times each."""


KINDS = {"conformers": Kind(conformer_inputs, conformer_molecules), "bonds": Kind(bond_inputs, bond_molecules)}


def generate_file(kind: Kind, config: GenerateConfig) -> tuple[int, int]:
    """Generate molecules for each record of a file; the output file appears once it is complete.

    Returns:
        The number of molecules written, and the number of failures.

    Raises:
        ConfigError: the run's objective does not generate this kind.
        CheckpointError: the run has no intact checkpoint, or none of ``step``.
        DataError: the input cannot be used, or another process writes the output.
    """
    generator = MoleculeGenerator.load(
        config.run_dir, config.sampler, config.step, config.device, config.seed, config.batch_size
    )
    output = Path(config.output)
    failure_file = output.with_suffix(".failures.parquet")
    with (
        claimed(output),
        claimed(failure_file),
        # In place after the molecules, since it says which of them are missing.
        written_whole(failure_file) as table,
        written_whole(output) as temporary,
    ):
        with temporary.open("w", encoding="utf-8") as file:
            written, failures = _write_molecules(generator, kind, config, file)
        if failures:
            pq.write_table(pa.Table.from_pylist([failure._asdict() for failure in failures], FAILURES), table)
    if not failures:
        # That of an earlier output.
        failure_file.unlink(missing_ok=True)
    return written, len(failures)


def _write_molecules(
    generator: MoleculeGenerator, kind: Kind, config: GenerateConfig, file: TextIO
) -> tuple[int, list[Failure]]:
    """Generate and write molecules; returns their number, and the failures."""
    failures: list[Failure] = []
    written = 0
    with (
        tempfile.TemporaryDirectory() as work,
        SandboxPool(config.sandbox, kind.inputs(generator.trained.featurize), config.num_cpus) as pool,
    ):
        splits = cut(open_sources(config.input, Path(work), config), ROWS_PER_GROUP, config.limit)
        with progress("samples", config.repeats * sum(split.rows for split in splits)) as tell:
            for before, split in _with_rows_before(splits):
                samples, rejected = _featurized(split, pool)
                failures += rejected
                begun = config.repeats * (before + len(rejected))
                found = kind.molecules(
                    generator,
                    samples,
                    split.layout.targets,
                    config.repeats,
                    lambda done: tell(begun + done),  # noqa: B023
                )
                for made in found:
                    if isinstance(made, Failure):
                        failures.append(made)
                    else:
                        # Through a Python file, which raises on a full disk; RDKit's own files ignore it.
                        file.write(Chem.SDWriter.GetText(made, molid=written))
                        written += 1
    return written, failures


def _with_rows_before(splits: Sequence[InputSplit]) -> Iterator[tuple[int, InputSplit]]:
    before = 0
    for split in splits:
        yield before, split
        before += split.rows


def _featurized(split: InputSplit, pool: SandboxPool) -> tuple[list[MoleculeSample], list[Failure]]:
    records = list(read_split(split))
    featurized = pool.featurize(record for record in records if isinstance(record, RawMolecule))
    results = (record if isinstance(record, Rejection) else next(featurized) for record in records)
    samples: list[MoleculeSample] = []
    failures: list[Failure] = []
    for result in results:
        if isinstance(result, Rejection):
            reason = f"{result.stage}: {result.reason}: {result.detail}"
            failures.append(Failure(result.source, result.row, result.text, None, reason))
        else:
            samples.append(result)
    return samples, failures


def _named(mol: Chem.Mol, sample: MoleculeSample, targets: Sequence[str], repeat: int) -> Chem.Mol:
    """Add the targets that are known, source, row and number of the sample to a molecule's properties."""
    mol.SetProp("_Name", sample.smiles)
    own = {"source": sample.source, "row": sample.row, "key": sample.key, "repeat": repeat}
    for name, value in own.items():
        mol.SetProp(name, str(value))
    for name, value in zip(targets, sample.targets, strict=True):
        if not np.isnan(value):
            mol.SetProp(f"input_{name}" if name in own else name, str(value))
    return mol

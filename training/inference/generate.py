"""``molstream.generate``: generates conformers of SMILES with a pretraining run or an export."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rdkit import Chem

from molstream.errors import ConfigError
from molstream.preprocessing.fields import RawMolecule, Rejection
from molstream.training.diffusion.config import SamplerConfig
from molstream.training.inference.featurizing import check_jobs, featurizing
from molstream.training.inference.generate_files import conformer_inputs, with_conformers
from molstream.training.inference.generator import MoleculeGenerator
from molstream.training.inference.inputs import records


@dataclass(frozen=True)
class GeneratedConformers:
    """Result of :func:`generate` for one input: a molecule with conformers, or the reason for a failure."""

    text: str
    """The input text, unchanged."""
    mol: Chem.Mol | None
    """The standardized molecule with its conformers, numbered from 0, positions in angstrom; None if it failed. It has
    explicit hydrogens if the run was trained on them."""
    failure: str | None
    """Stage, reason and detail of the failure; None if there was none."""


def generate(
    run_dir: str | Path,
    molecules: Any,
    *,
    num_conformers: int = 1,
    sampler: SamplerConfig | None = None,
    seed: int = 0,
    step: int | None = None,
    device: str = "auto",
    batch_size: int = 64,
    n_jobs: int | None = None,
    deadline_s: float = 60.0,
    memory_mib: int = 4096,
) -> list[GeneratedConformers]:
    """Generate conformers of molecules with a pretraining run or an export.

    Conformer k of a molecule is a function of the molecule, k and ``seed``, independent of the other molecules.

    Args:
        run_dir: a pretraining run; or an export that has its heads (``include=[heads]``), a folder, at a hub or URL.
        molecules: SMILES, molecules of RDKit or records of files, in a list, tuple, iterator, one-dimensional array,
            Series, or frame of one column; or a single one. Their positions are not used.
        num_conformers: conformers per molecule, at least 1.
        sampler: sampling method and number of steps; by default those of ``SamplerConfig``.
        seed: random seed, not negative.
        step: step of the checkpoint; by default the newest intact one.
        device: a torch device, or ``auto`` for a GPU if there is one.
        batch_size: number of conformers that are generated at a time.
        n_jobs: number of child processes that featurize, -1 for one per core. There a molecule that hangs RDKit,
            exhausts the memory or crashes it fails alone. By default this process featurizes, without any bound.
        deadline_s: CPU seconds that a molecule may take in a child process.
        memory_mib: address space of a child process, at least 1024.

    Returns:
        One result per input, in the same order.

    Raises:
        TypeError: ``molecules`` is something else, or holds it.
        ConfigError: ``run_dir`` is neither a run nor an export, its objective does not generate conformers, or an
            argument is out of range.
        CheckpointError: the run has no intact checkpoint, or none of ``step``; the export has no heads, or is damaged.
        RemoteError: a hub does not answer.
    """
    for name, value, least in (("num_conformers", num_conformers, 1), ("seed", seed, 0), ("batch_size", batch_size, 1)):
        if value < least:
            raise ConfigError(f"generate: {name}={value}: expected at least {least}.")
    check_jobs(n_jobs)
    raws = records(molecules)
    generator = MoleculeGenerator.load(run_dir, sampler, step, device, seed, batch_size)
    config = conformer_inputs(generator.trained.featurize)
    with featurizing(config, n_jobs, deadline_s, memory_mib) as featurize_all:
        featurized = featurize_all(replace(raw, targets=()) for raw in raws if isinstance(raw, RawMolecule))
        results = [raw if isinstance(raw, Rejection) else next(featurized) for raw in raws]
    samples = [result for result in results if not isinstance(result, Rejection)]
    positions = iter(generator.conformers(samples, num_conformers))
    found = []
    for raw, result in zip(raws, results, strict=True):
        if isinstance(result, Rejection):
            reason = f"{result.stage}: {result.reason}: {result.detail}"
            found.append(GeneratedConformers(raw.text, None, reason))
        else:
            found.append(GeneratedConformers(raw.text, with_conformers(result, next(positions)), None))
    return found

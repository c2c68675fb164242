"""``molstream.generate``: SMILES in, molecules with conformers that a run generates out."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from rdkit import Chem

from molstream.errors import ConfigError
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import RawMolecule, Rejection
from molstream.training.diffusion.config import SamplerConfig
from molstream.training.inference.generate_files import conformer_inputs, with_conformers
from molstream.training.inference.generator import MoleculeGenerator


@dataclass(frozen=True)
class GeneratedConformers:
    """What was generated for one input of :func:`generate`: a molecule, or the reason why there is none."""

    text: str
    """The input as it was given."""
    mol: Chem.Mol | None
    """The standardized molecule with its conformers, numbered from 0, positions in angstrom; None where it failed. It
    has explicit hydrogens if the run was trained on them."""
    failure: str | None
    """Stage, reason and detail of what went wrong; None where nothing did."""


def generate(
    run_dir: str | Path,
    molecules: Iterable[str | RawMolecule],
    *,
    num_conformers: int = 1,
    sampler: SamplerConfig | None = None,
    seed: int = 0,
    step: int | None = None,
    device: str = "auto",
    batch_size: int = 64,
) -> list[GeneratedConformers]:
    """Conformers of molecules, drawn from what a pretraining run has learned.

    Conformer k of a molecule is a function of the molecule, k and ``seed``, whatever else is in the list.

    Args:
        run_dir: a pretraining run; an export has no generative model.
        molecules: SMILES, or records of a file, whose own positions are not used.
        num_conformers: conformers per molecule, at least 1.
        sampler: how they are drawn; the defaults of ``SamplerConfig`` if it is not given.
        seed: random seed, not negative.
        step: which checkpoint of the run; the newest whole one by default.
        device: a torch device, or ``auto`` for a GPU where there is one.
        batch_size: conformers that are drawn at a time.

    Returns:
        One result per input, in their order.

    Raises:
        ConfigError: there is no run at ``run_dir``, its objective does not generate conformers, or an argument has an
            impossible value.
        CheckpointError: the run has no whole checkpoint, or not the one of ``step``.
    """
    for name, value, least in (("num_conformers", num_conformers, 1), ("seed", seed, 0), ("batch_size", batch_size, 1)):
        if value < least:
            raise ConfigError(f"generate: {name}={value}: expected at least {least}.")
    items = [molecules] if isinstance(molecules, str | RawMolecule) else molecules
    raws = [
        item if isinstance(item, RawMolecule) else RawMolecule(item, "smiles", "", k) for k, item in enumerate(items)
    ]
    generator = MoleculeGenerator.from_run(run_dir, sampler, step, device, seed, batch_size)
    config = conformer_inputs(generator.trained.featurize)
    results = [featurize(replace(raw, targets=()), config) for raw in raws]
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

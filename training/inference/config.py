"""The configuration of exporting, embedding and generating."""

from typing import Literal

from pydantic import NonNegativeInt

from molstream.config import PositiveInt, configuration
from molstream.training.diffusion.config import SamplerConfig

Representation = Literal["2d", "3d", "both"]


@configuration
class ExportConfig:
    """Write a checkpoint as a folder that can be published: weights, configuration and a model card."""

    run_dir: str
    """The pretraining run."""
    output: str | None = None
    """Folder to write; `export` inside the run directory by default."""
    step: NonNegativeInt | None = None
    """Step of the checkpoint; the newest intact one by default."""
    purpose: str = "pretrained"
    """Free word for the card: `pretrained`, or `test` for exports that must not be used in earnest."""


@configuration
class EmbedConfig:
    """Compute one vector per record of a file of molecules."""

    export: str
    """Export folder."""
    input: str
    """csv, tsv, smi or sdf file, plain or compressed."""
    output: str
    """Parquet file: source, row, smiles, embedding (null where it failed), failure (null where it did not)."""
    smiles_column: str | None = None
    """Column of the SMILES in tables; guessed by name by default."""
    representation: Representation = "both"
    """Encoder that gives the vector; both: one after the other."""
    device: str = "auto"
    """A torch device, or auto for a GPU where there is one."""
    batch_size: PositiveInt = 256
    """Molecules that are encoded at a time."""


@configuration
class GenerateConfig:
    """Generate conformers of bond graphs, or bonds of conformers, as an SDF."""

    run_dir: str
    """The pretraining run."""
    input: str
    """csv, tsv, smi or sdf file, plain or compressed; for bonds, one with positions, else ETKDG makes them."""
    output: str
    """SDF file. Failures are listed in NAME.failures.parquet beside it."""
    repeats: PositiveInt = 1
    """Samples per record; bonds are generated for as many of its conformers in turn."""
    step: NonNegativeInt | None = None
    """Step of the checkpoint; the newest intact one by default."""
    smiles_column: str | None = None
    """Column of the SMILES in tables; guessed by name by default."""
    limit: PositiveInt | None = None
    """Only the first so many records of the input."""
    sampler: SamplerConfig = SamplerConfig()
    """How samples are drawn."""
    seed: NonNegativeInt = 0
    """Random seed of the samples."""
    device: str = "auto"
    """A torch device, or auto for a GPU where there is one."""
    batch_size: PositiveInt = 64
    """Samples that are drawn at a time."""

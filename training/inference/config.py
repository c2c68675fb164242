"""The configuration of exporting, embedding and generating."""

from dataclasses import field
from typing import Any, Literal

from pydantic import NonNegativeInt

from molstream.config import PositiveInt, configuration
from molstream.errors import ConfigError
from molstream.io.remote import is_url
from molstream.pipeline.config import ReadConfig, SandboxConfig
from molstream.training.diffusion.config import SamplerConfig
from molstream.training.models.config import Readout
from molstream.training.shipped import MINI

VECTOR_FILES = (".parquet", ".csv", ".npy")
"""Suffixes of the files that vectors are written to."""
Representation = Literal["2d", "3d", "both", "image"]


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
    sources: str | None = None
    """Markdown file for the card, about the molecules' sources and their licences. Between two lines of `---` at its
    beginning it can have `license`, `license_name`, `license_link` and `datasets`, metadata of Hugging Face. An
    evaluation of the same weights, `eval.json` in the run, is put there unasked."""
    include: list[Literal["heads", "onnx", "torch_export"]] = field(default_factory=list)
    """Optional files: `heads`, with which `generate` works from the export as from the run; `onnx` and `torch_export`,
    programs of the 2D encoder with its readout, encoder_2d.onnx and encoder_2d.pt2."""
    push: str | None = None
    """Where the export is brought to: `hf://org/name` (`hf://org/name@BRANCH`), `mlflow://NAME`, or a URL, as
    s3://bucket/prefix. What is there already is not sent again."""
    push_private: bool = True
    """Whether a repository of Hugging Face is private: a new one is made so, and one that is public is refused."""
    push_tag: str | None = None
    """Tag of Hugging Face or alias of MLflow for what is pushed."""

    def __post_init__(self) -> None:
        if self.push is None and (self.push_tag is not None or not self.push_private):
            raise ConfigError("push_tag and push_private belong to push=URL: give that, or leave them out.")
        if self.push is not None and not is_url(self.push):
            raise ConfigError(
                f"push={self.push}: expected a URL, hf://org/name, mlflow://NAME or s3://bucket/prefix. A folder is "
                "given as output=FOLDER."
            )


@configuration
class EmbedConfig(ReadConfig):
    """Compute one vector per record of molecule files."""

    input: Any
    """File, glob, folder or URL; `{path: ..., format: ..., ...}` for options of its own; a list of these; or `-`, which
    is stdin, with its `format`."""
    output: str
    """File for the vectors, `.parquet`, `.csv` or `.npy`, or `-`: CSV to stdout. The first two, and stdout, have the
    columns of the input, then source, row, canonical_smiles, inchikey, failure (empty where there is none) and the
    vector (empty where it failed); an input's column that has such a name is called input_NAME. The last has the
    vectors alone, NaN where it failed; failures are then listed in NAME.failures.parquet."""
    export: str = MINI
    """Export: a folder, `org/name` of Hugging Face, `mlflow://NAME` or a URL, as s3://bucket/prefix; by default the
    encoder that travels in molstream."""
    revision: str | None = None
    """Branch, tag or commit of Hugging Face, version or alias of MLflow; by default the newest one."""
    target_columns: list[str] = field(default_factory=list)
    """Columns (SDF data items, JSON keys) of the input that are written as numbers; others are as they were read."""
    representation: Representation | None = None
    """Encoder that gives the vector; both: 2d and 3d one after the other; by default all that the export has."""
    readout: Readout | None = None
    """How atoms are pooled to a molecule; by default as the encoder was trained."""
    num_layers: PositiveInt | None = None
    """Layers of the encoders that are used, the first ones; by default all."""
    device: str = "auto"
    """A torch device, or auto for a GPU where there is one."""
    batch_size: PositiveInt = 256
    """Molecules that are encoded at a time."""
    num_cpus: PositiveInt | None = None
    """Child processes that read and featurize molecules; one per core by default."""
    sandbox: SandboxConfig = SandboxConfig()
    """Limits on a molecule, beyond which it fails alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output != "-" and not self.output.endswith(VECTOR_FILES):
            expected = ", ".join(VECTOR_FILES)
            raise ConfigError(f"output={self.output}: expected a name that ends in {expected}; or -, CSV to stdout.")


@configuration
class GenerateConfig(ReadConfig):
    """Generate conformers of bond graphs, or bonds of conformers, as an SDF."""

    run_dir: str
    """The pretraining run; or an export that has its heads: a folder, `org/name` of Hugging Face, `mlflow://NAME` or a
    URL, as s3://bucket/prefix."""
    input: Any
    """File, glob, folder or URL; `{path: ..., format: ..., ...}` for options of its own; or a list of these. For bonds,
    with positions, else ETKDG makes them."""
    output: str
    """SDF file. Failures are listed in NAME.failures.parquet beside it."""
    target_columns: list[str] = field(default_factory=list)
    """Columns (SDF data items, JSON keys) of numbers that become data items of the output."""
    repeats: PositiveInt = 1
    """Samples per record; bonds are generated for as many of its conformers in turn."""
    step: NonNegativeInt | None = None
    """Step of the checkpoint; the newest intact one by default."""
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
    num_cpus: PositiveInt | None = None
    """Child processes that read and featurize molecules; one per core by default."""
    sandbox: SandboxConfig = SandboxConfig()
    """Limits on a molecule, beyond which it fails alone."""

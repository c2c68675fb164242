"""The configuration of preparing a dataset: how inputs are read, what is left out, where the work is done."""

from dataclasses import field, fields
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat

from molstream.config import Fraction, PositiveInt, configuration
from molstream.errors import ConfigError
from molstream.preprocessing.config import FeaturizeConfig

DELIMITERS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
"""Names of delimiters that are awkward to write on a command line."""
CACHE_FOLDER, CACHE_GIB = "~/.cache/molstream", 100.0
"""Where copies of remote shards are kept, and how many GiB of them."""
MAX_BENCHMARK_SETS = 64
"""One bit of a mask for each."""


@configuration
class InputConfig:
    """How molecules are read from files: the keys of every command that does so."""

    format: str = "auto"
    """`auto` tells it by the name of each file; else a file format, or the name of a published data set."""
    smiles_column: str | None = None
    """Column of the SMILES in tables, by name (by number from 0 with `header=false`); guessed by name by default."""
    delimiter: str | None = None
    """Between columns of text tables: tab, comma, semicolon, pipe, space or a character; by default the format's."""
    header: bool = True
    """Whether the first record of a text table names its columns; else they are numbered from 0."""
    max_conformers: PositiveInt = 10
    """Conformers of a molecule that are read from a source with several: those of lowest energy."""

    def __post_init__(self) -> None:
        if self.delimiter is not None and len(DELIMITERS.get(self.delimiter, self.delimiter)) != 1:
            raise ConfigError(f"delimiter={self.delimiter}: expected a character or one of {', '.join(DELIMITERS)}.")

    def with_targets(self, names: list[str]) -> "ReadConfig":
        """The configuration that reads the columns ``names`` too."""
        return ReadConfig(**{each.name: getattr(self, each.name) for each in fields(InputConfig)}, target_columns=names)


@configuration
class ReadConfig(InputConfig):
    """How the input is read."""

    target_columns: list[str] = field(default_factory=list)
    """Columns (SDF data items, JSON keys) that are stored as targets; a published data set has its own by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.target_columns)) < len(self.target_columns):
            raise ConfigError(f"target_columns=[{','.join(self.target_columns)}]: a column is named twice.")


@configuration
class SandboxConfig:
    """Limits on a single molecule."""

    deadline_s: PositiveFloat = 60.0
    """CPU seconds that a molecule may take in one stage."""
    memory_mib: Annotated[int, Field(ge=1024)] = 4096
    """Address space of the child process that does the chemistry, in MiB; RDKit itself needs 1024."""


@configuration
class RayConfig:
    """Where the work is done."""

    address: str = "local"
    """`local` starts Ray on this machine; `auto` or an address joins a running cluster."""
    num_cpus: PositiveInt | None = None
    """Cores of a local Ray; all of them by default."""


@configuration
class PreprocessConfig(ReadConfig):
    """Raw molecule files to a dataset."""

    input: Any
    """File, glob, folder or URL; `{path: ..., format: ..., ...}` for options of its own; or a list of these."""
    output: str
    """Folder of the dataset; on a cluster, one that all nodes share."""
    limit: PositiveInt | None = None
    """Only the first so many records of the whole input."""
    container: Literal["webdataset", "arrow"] = "webdataset"
    """Shard files: webdataset (tar) or arrow (Arrow IPC)."""
    rows_per_shard: PositiveInt = 2048
    """Input rows per shard. The work is cut finer: all cores share even one shard."""
    block_rows: PositiveInt = 512
    """Molecules per block, the unit of reading and shuffling."""
    duplicates: Literal["key", "connectivity", "smiles", "none"] = "key"
    """What makes two molecules duplicates, of which the first is kept: the InChIKey, its first block (connectivity),
    the canonical SMILES, or nothing."""
    decontaminate: Annotated[list[str | dict[str, Any]], Field(max_length=MAX_BENCHMARK_SETS)] = field(
        default_factory=list
    )
    """Benchmark sets whose molecules are left out: molecule files, each also as `{path: ..., smiles_column: ..., ...}`
    with reading options of its own, or names of MoleculeNet tasks."""
    decontaminate_by: Literal["key", "connectivity", "scaffold"] = "key"
    """Leave out what is in a benchmark set: the same InChIKey, the same first block, which ignores stereochemistry,
    isotopes and charges (connectivity), or the same scaffold."""
    benchmark_folder: str | None = None
    """Where the files of named MoleculeNet tasks are."""
    max_rejected_fraction: Fraction = 0.05
    """More rejected rows than this fraction fail the job, after everything was written down."""
    log_interval_s: PositiveFloat = 30.0
    """Seconds between progress lines where there is no terminal."""
    featurize: FeaturizeConfig = FeaturizeConfig()
    """Chemistry."""
    sandbox: SandboxConfig = SandboxConfig()
    """Limits on a single molecule."""
    ray: RayConfig = RayConfig()
    """Where the work is done."""


@configuration
class DryRunConfig(PreprocessConfig):
    """What preprocessing would cost, from a sample of the input."""

    sample: PositiveInt = 200
    """Records that are tried, spread evenly over the input."""


@configuration
class AppendConfig:
    """More molecule files for a finished dataset, with the settings that it was made with."""

    input: Any
    """File, glob, folder or URL; `{path: ..., format: ..., ...}` for options of its own; or a list of these."""
    output: str
    """Folder of the dataset."""
    max_rejected_fraction: Fraction = 0.05
    """More rejected rows of the new files than this fraction fail the job, after everything was written down."""
    log_interval_s: PositiveFloat = 30.0
    """Seconds between progress lines where there is no terminal."""
    ray: RayConfig = RayConfig()
    """Where the work is done."""

"""The configuration of evaluating, diagnosing and estimating costs."""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat

from molstream.config import PositiveInt, configuration
from molstream.errors import ConfigError
from molstream.pipeline.config import InputConfig, SandboxConfig
from molstream.training.diffusion.config import SamplerConfig
from molstream.training.engine.config import Precision
from molstream.training.extended import ModelConfig, ObjectiveConfig
from molstream.training.inference.config import Representation
from molstream.training.models.config import Readout
from molstream.training.shipped import MINI


def listed(value: Any) -> Any:
    """A text as a list of one."""
    return [value] if isinstance(value, str) else value


Targets = Literal["auto", "regression", "classification"]


@configuration
class TaskConfig(InputConfig):
    """A file of molecules, and what is predicted for them: an item of `tasks`."""

    name: str | None = None
    """Name in the results; the name of the file by default."""
    input: Any
    """File, glob, folder or URL; `{path: ..., format: ..., ...}` for options of its own; or a list of these."""
    target: Annotated[list[str], BeforeValidator(listed)]
    """Columns (SDF data items, JSON keys) with the targets; empty where they are unknown."""
    kind: Targets = "auto"
    """What the targets are; auto: classification if every known value is 0 or 1."""


@configuration
class EvaluateVectorsConfig(InputConfig):
    """Compare frozen vectors with what costs nothing, by 5 x 5 cross-validation: the encoder, the same encoder
    untrained, ECFP4 counts, RDKit's descriptors, and the encoder's vectors joined to them."""

    export: str = MINI
    """Export: a folder, `org/name` of Hugging Face, `mlflow://NAME` or a URL; or a run, whose newest checkpoint is
    taken; by default the encoder that travels in molstream."""
    revision: str | None = None
    """Branch, tag or commit of Hugging Face, version or alias of MLflow; by default the newest one."""
    tasks: list[str | dict[str, Any]] = field(default_factory=list)
    """Names of built-in sets (freesolv, esol, lipo, bbbp, bace, tox21, sider, clintox, qm7, hiv), whose files are in
    data_dir; or files of your own, `{input: ..., target: ..., kind: ..., name: ..., ...}`, with reading options."""
    data_dir: str | None = None
    """Folder of the built-in sets, MoleculeNet's files: NAME.csv or NAME.csv.gz."""
    input: Any = None
    """One file of your own, in place of `tasks`: file, glob, folder or URL; `{path: ..., format: ..., ...}` for options
    of its own; or a list of these."""
    target: list[str] = field(default_factory=list)
    """Columns (SDF data items, JSON keys) of `input` with the targets; empty where they are unknown."""
    kind: Targets = "auto"
    """What the targets of `input` are; auto: classification if every known value is 0 or 1."""
    representation: Representation = "2d"
    """Encoder that gives the vector; both: one after the other."""
    readout: Readout | None = None
    """How atoms are pooled to a molecule; by default as the encoder was trained."""
    num_layers: PositiveInt | None = None
    """Layers of the encoders that are used, the first ones; by default all."""
    head: Literal["linear", "forest"] = "linear"
    """What predicts from the vectors: ridge or logistic regression, whose penalties the training part chooses; or a
    random forest."""
    folds: Literal["random", "scaffold", "both"] = "both"
    """Random folds, folds that no scaffold is in two of, or one after the other."""
    untrained_seeds: Annotated[int, Field(ge=1, le=100)] = 3
    """Untrained encoders, each of other initial weights, whose mean score is compared."""
    vectors: Any = None
    """Vectors of other encoders for the same table: `.npy` or `.parquet` with a row for each record of the one task's
    file; or `{NAME: FILE, ...}`; of several tasks `{NAME: FOLDER, ...}` with TASK.npy or TASK.parquet in it."""
    output: str | None = None
    """JSON file for the results; by default `eval.json` in the run, or in the export's parent folder; in this folder
    for the encoder that travels in molstream and for those of hubs."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Random seed of folds, forests and untrained weights."""
    num_cpus: PositiveInt | None = None
    """Processes; one per core by default."""
    sandbox: SandboxConfig = SandboxConfig()
    """Limits on a molecule, beyond which it fails alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.tasks) == (self.input is not None):
            raise ConfigError(
                "give either tasks=[...], names of built-in sets or files of your own, or input=FILE target=COLUMN."
            )
        if self.input is not None and not self.target:
            raise ConfigError("target is missing: give target=COLUMN, or target=[COLUMN,...].")
        if self.tasks and (self.target or self.kind != "auto"):
            raise ConfigError("target and kind belong to input; give those of an item of tasks inside of it.")


@configuration
class EvaluateGeneratedConfig:
    """Compare what a run, or an export with its heads, generates with the molecules of a dataset."""

    run_dir: str
    """The pretraining run; or an export that has its heads: a folder, `org/name` of Hugging Face, `mlflow://NAME` or a
    URL, as s3://bucket/prefix."""
    dataset: str
    """Folder whose conformers are the reference, or the input of bonds; one that was not trained on."""
    molecules: NonNegativeInt = 200
    """Molecules with conformers that are drawn from it; 0 for all."""
    per_reference: PositiveInt = 2
    """Conformers that are generated for every reference conformer, as usual for GEOM and QM9."""
    threshold: PositiveFloat = 0.5
    """RMSD in angstrom up to which a conformer is covered: 0.5 is usual for QM9, 1.25 or 0.75 for GEOM-Drugs."""
    posebusters_molecules: NonNegativeInt = 100
    """Molecules that PoseBusters judges, the first with conformers of every method; seconds for each; 0 for none."""
    step: NonNegativeInt | None = None
    """Step of the checkpoint; the newest intact one by default."""
    output: str | None = None
    """JSON file; `conformers.json` or `bonds.json` by default, in the run, or in the export's parent folder; in this
    folder for an export of a hub."""
    sampler: SamplerConfig = SamplerConfig()
    """How samples are drawn."""
    seed: NonNegativeInt = 0
    """Random seed of the choice of molecules and of the samples."""
    device: str = "auto"
    """A torch device, or auto for a GPU where there is one."""
    batch_size: PositiveInt = 64
    """Samples that are drawn at a time."""


@configuration
class DiagnoseConfig:
    """Measure what a run has learned beyond its loss, on molecules that it was trained on, or not."""

    run_dir: str
    """The pretraining run."""
    dataset: str | None = None
    """Folder of molecules; the dataset that the run was trained on by default."""
    batches: PositiveInt = 16
    """Most batches to look at, in the order of the run's seed."""
    batch_size: Annotated[int, Field(ge=2)] | None = None
    """Molecules in a batch; as in the run's micro-batches by default."""
    step: NonNegativeInt | None = None
    """Step of the checkpoint; the newest intact one by default."""
    device: str = "auto"
    """A torch device, or auto for a GPU where there is one."""


@configuration
class CostConfig:
    """Print versions, devices and storage; with a model, its parameters, GPU memory by ZeRO stage and FLOPs."""

    model: ModelConfig = ModelConfig()
    """Encoders and score networks."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What is learned."""
    gpus: PositiveInt = 8
    """Processes that share the optimizer's state."""
    precision: Precision = "bf16"
    """As in deepspeed.precision."""
    dataset: str | None = None
    """Dataset whose first molecules FLOPs are counted on, and whose labels are what heads predict; by default eight
    drugs with all descriptors and no targets."""

"""The configuration of evaluating, diagnosing and estimating costs."""

from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveFloat

from molstream.config import PositiveInt, configuration
from molstream.pipeline.config import InputConfig
from molstream.training.diffusion.config import SamplerConfig
from molstream.training.engine.config import Precision
from molstream.training.extended import ModelConfig, ObjectiveConfig
from molstream.training.inference.config import Representation


@configuration
class EvaluateConfig(InputConfig):
    """Fit ridge regression to frozen vectors on a scaffold split, beside an untrained encoder and ECFP4."""

    export: str
    """Export folder."""
    input: Any
    """File, glob, folder or URL; `{path: ..., format: ..., ...}` for options of its own; or a list of these."""
    target: str
    """Column (SDF data item, JSON key) with the target; empty where it is unknown."""
    output: str | None = None
    """JSON file for the results; `eval.json` in the export's parent folder by default."""
    representation: Representation = "both"
    """Encoder that gives the vector; both: one after the other."""
    seed: NonNegativeInt = 0
    """Random seed of the untrained encoder's weights."""


@configuration
class EvaluateGeneratedConfig:
    """Compare what a run generates with the molecules of a dataset."""

    run_dir: str
    """The pretraining run."""
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
    """JSON file; `conformers.json` or `bonds.json` in the run directory by default."""
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
    """Dataset whose first molecules FLOPs are counted on; eight drugs by default."""

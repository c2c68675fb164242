"""The configuration of a pretraining run, and what of it may differ when the run is continued."""

from pydantic import NonNegativeInt

from molstream.config import PositiveInt, configuration, flatten, free, free_keys, tree_of
from molstream.training.data.config import DataConfig
from molstream.training.engine.config import EngineConfig
from molstream.training.extended import ModelConfig, ObjectiveConfig
from molstream.training.metrics.config import LogConfig
from molstream.training.optim.config import OptimConfig


@configuration
class PretrainConfig:
    """Pretrain molecular encoders on a dataset, or continue a run."""

    run_dir: str = free()
    """Folder of the run; an existing run in it is continued."""
    data: DataConfig = DataConfig()
    """Dataset and order."""
    model: ModelConfig = ModelConfig()
    """Encoders and score networks."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What is learned."""
    deepspeed: EngineConfig = EngineConfig()
    """ZeRO stage and precision."""
    optim: OptimConfig = OptimConfig()
    """Optimizer and schedule."""
    log: LogConfig = LogConfig()
    """Where the numbers go."""
    compile: bool = False
    """Whether torch.compile makes kernels for the transformer blocks, which round differently from torch's own; needs
    a C++ compiler."""
    steps: PositiveInt = 1000
    """Length of the run in optimizer steps. It can be raised when a run is continued, if the steps that are done have
    the same learning rates then: always with optim.schedule=constant, until the decay begins with wsd."""
    extend: bool = free(default=False)
    """Allow `steps` to grow although the schedule has gone by the old length: the steps to come follow the longer
    schedule, and the run differs from one that had this length from the start."""
    stop_at: PositiveInt | None = free(default=None)
    """Stop, with a checkpoint, when this many steps are done; the schedule still spans `steps`."""
    seed: NonNegativeInt = 0
    """Random seed of weights, order, noise and masks."""
    init_from: str | None = None
    """Export or checkpoint (its folder, or its URL) whose weights start a new run, weights only, step 0; `org/name` or
    `hf://org/name@REVISION` of Hugging Face, `mlflow://NAME/REVISION`; molstream-mini is the encoder that travels in
    molstream."""
    log_every: PositiveInt = free(default=10)
    """Steps between log lines."""
    save_every: PositiveInt = free(default=200)
    """Steps between checkpoints; one more is written at the end."""
    validate_every: PositiveInt = free(default=200)
    """Steps between validations, if `data.validation` is given; one more is done at the end."""
    checkpoint_url: str | None = None
    """Where checkpoints are kept if not in `run_dir`: a URL of fsspec, as s3://bucket/runs/mine."""
    keep_last: PositiveInt = free(default=3)
    """Number of newest checkpoints to keep; further ones by the two keys below."""
    keep_every: NonNegativeInt = free(default=0)
    """Keep checkpoints of steps that are a multiple of this as well; 0 for none."""
    keep_best: NonNegativeInt = free(default=0)
    """Number of lowest-validation-loss checkpoints to keep as well."""


def differences(old: PretrainConfig, new: PretrainConfig) -> list[str]:
    """The keys that differ between two configurations and may not, each with both values; `steps` has its own rule."""
    before, after = dict(flatten(tree_of(old))), dict(flatten(tree_of(new)))
    may_differ = free_keys(PretrainConfig) | {"steps"}
    changed = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    return [f"{k}: {before.get(k)!r} -> {after.get(k)!r}" for k in changed if k not in may_differ]

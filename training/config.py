"""The configuration of a pretraining run: one dataclass per component, composed from ``configs/pretrain.yaml``."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import MISSING

from molstream.errors import ConfigError
from molstream.training.data.config import DataConfig
from molstream.training.engine.engine import EngineConfig
from molstream.training.metrics.loggers.config import LogConfig
from molstream.training.models.encoders import ModelConfig
from molstream.training.objectives.table import ObjectiveConfig
from molstream.training.optim.optimizer import OptimConfig


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that determines a pretraining run."""

    run_dir: str = MISSING
    """Folder of the run; an existing run in it is continued."""
    data: DataConfig = field(default_factory=DataConfig)
    """Dataset and order."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Encoders and score networks; a preset of configs/model."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What is learned."""
    deepspeed: EngineConfig = field(default_factory=EngineConfig)
    """ZeRO stage and precision."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""
    log: LogConfig = field(default_factory=LogConfig)
    """Where the numbers go."""
    compile: bool = False
    """Whether torch.compile makes kernels for the transformer blocks; they round otherwise than torch's own."""
    steps: int = 1000
    """Length of the run in optimizer steps."""
    stop_at: int | None = None
    """Stop, with a checkpoint, when this many steps are done; the schedule still spans `steps`."""
    seed: int = 0
    """Seed of weights, order, noise and masks."""
    init_from: str | None = None
    """Export or checkpoint (its folder, or its URL) whose weights start a new run: weights only, step 0."""
    log_every: int = 10
    """Steps between log lines."""
    save_every: int = 200
    """Steps between checkpoints; one more is written at the end."""
    validate_every: int = 200
    """Steps between validations, if `data.validation` is given; one more is done at the end."""
    checkpoint_url: str | None = None
    """Where checkpoints are kept if not in `run_dir`: a URL of fsspec, as s3://bucket/runs/mine."""
    keep_last: int = 3
    """The newest checkpoints that are kept; further ones by the two keys below."""
    keep_every: int = 0
    """Checkpoints of steps that are a multiple of this are kept as well; 0 for none."""
    keep_best: int = 0
    """So many checkpoints with the lowest validation loss are kept as well."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "save_every", "validate_every", "keep_last"):
            if isinstance(value := getattr(self, name), int) and value < 1:
                raise ConfigError(f"{name}={value}: expected at least 1.")


FREE_KEYS = frozenset(
    {
        "run_dir",
        "data.path",  # the fingerprint of the datasets and their weights is compared instead
        "data.mix",
        "data.validation",
        "data.cache_dir",
        "data.cache_gib",
        "data.prefetch",
        "deepspeed.zero_stage",
        "deepspeed.bucket_size",
        "deepspeed.timeout_s",
        "stop_at",
        "log.loggers",
        "log.project",
        "log_every",
        "save_every",
        "keep_last",
        "keep_every",
        "validate_every",
        "keep_best",
        "deepspeed.offload",
        "optim.max_skipped",
    }
)
"""What may differ when a run is continued, because it does not change what is computed."""


def differences(old: PretrainConfig, new: PretrainConfig) -> list[str]:
    """The keys that differ between two configurations and may not, each with both values."""
    before, after = dict(flatten(asdict(old))), dict(flatten(asdict(new)))
    changed = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    return [f"{k}: {before.get(k)!r} -> {after.get(k)!r}" for k in changed if k not in FREE_KEYS]


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested configuration by dotted key."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value

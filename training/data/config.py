"""The configuration of what is streamed."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from molstream.errors import ConfigError
from molstream.pipeline.shards.cache import DEFAULT_FOLDER, DEFAULT_GIB


@dataclass(frozen=True)
class MixConfig:
    """One of several datasets."""

    path: str = MISSING
    """Folder or URL."""
    weight: float = 1.0
    """Share of the molecules of every step, relative to the other weights; above 0."""


@dataclass(frozen=True)
class DataConfig:
    """Which datasets are streamed, and in what order."""

    path: str | None = None
    """Folder of a dataset written by `molstream preprocess`, or its URL (s3://..., whatever fsspec opens)."""
    mix: list[MixConfig] = field(default_factory=list)
    """Instead of `path`, several datasets, each with a weight."""
    validation: str | None = None
    """Folder or URL of a dataset that is not trained on."""
    cache_dir: str = DEFAULT_FOLDER
    """Folder of this machine for copies of remote shards; its processes share it."""
    cache_gib: float = DEFAULT_GIB
    """GiB above which the copies that were used longest ago are removed; those that are being read stay."""
    lanes: int = 8
    """Lanes L: the global batch is lanes x micro_batch molecules on any number of processes that divides L."""
    micro_batch: int = 32
    """Molecules that a lane gives to a step; each lane's loss sees its own micro-batch only."""
    window_blocks: int = 4
    """Blocks (of 512 molecules by default) that are shuffled together; memory per lane grows with it."""
    length_buckets: bool = False
    """Whether a micro-batch holds molecules of similar size: those of a window are dealt to it by size."""
    prefetch: int = 2
    """Steps that a background thread prepares ahead; 0 prepares them in the training thread."""

    def __post_init__(self) -> None:
        if isinstance(self.cache_gib, float) and self.cache_gib <= 0:
            raise ConfigError(f"data.cache_gib={self.cache_gib}: expected a number above 0.")

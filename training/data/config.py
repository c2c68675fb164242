"""The configuration of what is streamed."""

from pydantic import NonNegativeInt, PositiveFloat

from molstream.config import PositiveInt, configuration, free
from molstream.pipeline.config import CACHE_FOLDER, CACHE_GIB


@configuration
class MixConfig:
    """One of several datasets."""

    path: str
    """Folder or URL."""
    weight: PositiveFloat = 1.0
    """Share of the molecules of every step, relative to the other weights."""


@configuration
class DataConfig:
    """Which datasets are streamed, and in what order."""

    # The fingerprint of the datasets and their weights is compared when a run is continued, not where they lie.
    path: str | None = free(default=None)
    """Folder of a dataset written by `molstream preprocess`, or its URL (s3://..., whatever fsspec opens)."""
    mix: list[MixConfig] = free(default_factory=list)
    """Instead of `path`, several datasets, each with a weight: [{path: a, weight: 3}, {path: b, weight: 1}]."""
    validation: str | None = free(default=None)
    """Folder or URL of a dataset that is not trained on."""
    cache_dir: str = free(default=CACHE_FOLDER)
    """Folder of this machine for copies of remote shards; its processes share it. Best on a local disk."""
    cache_gib: PositiveFloat = free(default=CACHE_GIB)
    """GiB above which the copies that were used longest ago are removed; those that are being read stay."""
    lanes: PositiveInt = 8
    """Lanes L: the global batch is lanes x micro_batch molecules on any number of processes that divides L."""
    micro_batch: PositiveInt = 32
    """Molecules that a lane gives to a step; each lane's loss sees its own micro-batch only."""
    window_blocks: PositiveInt = 4
    """Blocks (of 512 molecules by default) that are shuffled together; memory per lane grows with it."""
    length_buckets: bool = False
    """Whether a micro-batch holds molecules of similar size: those of a window are dealt to it by size."""
    prefetch: NonNegativeInt = free(default=2)
    """Steps that a background thread prepares ahead; 0 prepares them in the training thread."""
    image_workers: NonNegativeInt = free(default=2)
    """Child processes of every training process that draw molecules, if the model has an image encoder; 0 draws in the
    training process."""

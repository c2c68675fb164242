"""Opens the datasets that a configuration names, and checks that they have what an objective needs."""

from collections.abc import Collection

from molstream.errors import ConfigError
from molstream.io.remote import is_url
from molstream.pipeline.order.mixture import Mixture
from molstream.pipeline.shards.cache import ShardCache
from molstream.pipeline.shards.reader import ShardDataset
from molstream.training.data.config import DataConfig


def open_data(config: DataConfig) -> Mixture:
    """Open the training data.

    Raises:
        ConfigError: neither or both of ``path`` and ``mix`` are given, or the datasets do not agree.
        DataError: a path has no committed dataset.
    """
    if (config.path is None) == (not config.mix):
        raise ConfigError(
            f"data.path={config.path} and {len(config.mix)} datasets in data.mix: give either data.path=FOLDER (or a "
            "URL), a dataset written by `molstream preprocess`, or data.mix=[{path: ..., weight: ...}, ...]."
        )
    cache = _cache(config)
    if config.path is not None:
        return Mixture([ShardDataset(config.path, cache)])
    return Mixture([ShardDataset(part.path, cache) for part in config.mix], [part.weight for part in config.mix])


def open_validation(config: DataConfig, data: Mixture) -> ShardDataset | None:
    """Open the validation dataset; None if none is configured.

    Raises:
        ConfigError: it does not match the training data.
        DataError: ``validation`` has no committed dataset.
    """
    if config.validation is None:
        return None
    dataset = ShardDataset(config.validation, _cache(config))
    data.require_same(dataset)
    return dataset


def require_fields(fields: Collection[str], dataset: Mixture) -> None:
    """Check that the dataset has the fields that the objective needs.

    Raises:
        ConfigError: the objective needs positions and no molecule has a conformer, or targets or descriptors and there
            are none.
    """
    available = {
        "positions": dataset.num_with_conformer > 0,
        "conformer_energy": dataset.num_with_conformer > 0,
        "targets": bool(dataset.target_names),
        "descriptors": bool(dataset.descriptor_names),
    }
    if missing := sorted(name for name in fields if not available.get(name, True)):
        raise ConfigError(
            f"the objective needs {', '.join(missing)}, which the {dataset.num_rows} molecules of {dataset.path} do "
            "not have. Preprocess with featurize.conformers.num_conformers=1 (positions), target_columns=[...] or "
            "featurize.descriptors=rdkit2d."
        )


def _cache(config: DataConfig) -> ShardCache | None:
    """Create the cache of shards; None if all datasets are local."""
    paths = [config.path, config.validation, *(part.path for part in config.mix)]
    if not any(path and is_url(path) for path in paths):
        return None
    return ShardCache(config.cache_dir, int(config.cache_gib * 2**30))

"""The data of a training run: one dataset, or several with weights."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from molstream.errors import ConfigError
from molstream.pipeline.order.lanes import LaneOrder
from molstream.pipeline.order.steps import Shares, StepOrder
from molstream.pipeline.shards.columns import Columns
from molstream.pipeline.shards.distributions import Distribution, merged
from molstream.pipeline.shards.manifest import Account, Manifest
from molstream.pipeline.shards.reader import ShardDataset
from molstream.randomness import keyed_rng


class Mixture:
    """Datasets and the share of each in every step; a single dataset is a mixture of one.

    A molecule's position counts over all datasets, one after the other.

    Args:
        datasets: at least one.
        weights: relative weight of each dataset, above 0.

    Raises:
        ConfigError: targets, descriptors or atoms of the datasets differ, or a weight is no positive number.
    """

    def __init__(self, datasets: Sequence[ShardDataset], weights: Sequence[float] = (1.0,)):
        self.datasets, self.weights = list(datasets), list(weights)
        self._exact = Shares(weights).weights
        self.first = np.cumsum([0, *(dataset.num_rows for dataset in datasets)]).tolist()[:-1]
        """Position of the first molecule of every dataset."""
        for dataset in self.datasets[1:]:
            self.require_same(dataset)

    def require_same(self, dataset: ShardDataset) -> None:
        """Check that molecules of another dataset can be batched together with these.

        Raises:
            ConfigError: it has other targets or descriptors, or stores other atoms.
        """
        ours, other = self.datasets[0].manifest, dataset.manifest
        for name, expected, got in (
            ("targets", list(ours.target_names), list(other.target_names)),
            ("hydrogens", ours.hydrogens, other.hydrogens),
        ):
            if got != expected:
                raise ConfigError(
                    f"{dataset.path} has {name} {got}, {self.datasets[0].path} has {expected}: what is trained on and "
                    "validated with must agree. Preprocess one of them with the target_columns and "
                    "featurize.hydrogens of the other."
                )
        if ours.descriptor_names != other.descriptor_names:
            counts = [len(manifest.descriptor_names) for manifest in (other, ours)]
            which = f"{counts[0]} descriptors, {self.datasets[0].path} has {counts[1]}"
            which = which if counts[0] != counts[1] else f"other descriptors than {self.datasets[0].path}"
            raise ConfigError(
                f"{dataset.path} has {which}: what is trained on and validated with must agree. Preprocess one of "
                "them with the featurize.descriptors of the other, by the same molstream."
            )

    @property
    def path(self) -> str:
        """Folders or URLs of the datasets, for messages."""
        return ", ".join(dataset.path for dataset in self.datasets)

    @property
    def num_rows(self) -> int:
        """Molecules in all datasets."""
        return sum(dataset.num_rows for dataset in self.datasets)

    @property
    def num_with_conformer(self) -> int:
        """Molecules that have at least one conformer."""
        return sum(dataset.manifest.num_with_conformer for dataset in self.datasets)

    @property
    def hydrogens(self) -> str:
        """Which atoms are stored: heavy or all."""
        return self.datasets[0].manifest.hydrogens

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the targets, the same in all datasets."""
        return self.datasets[0].manifest.target_names

    @property
    def descriptor_names(self) -> tuple[str, ...]:
        """Names of the descriptors, the same in all datasets; empty if there are none."""
        return self.datasets[0].manifest.descriptor_names

    @cached_property
    def descriptor_statistics(self) -> dict[str, Distribution]:
        """How each descriptor is distributed over all molecules, by name; see :func:`merged` for several datasets."""
        return self._merged([dataset.manifest.descriptor_statistics for dataset in self.datasets])

    @cached_property
    def target_statistics(self) -> dict[str, Distribution]:
        """The same of each target; empty if there are none, or if a dataset is from before they were counted."""
        return self._merged([dataset.manifest.target_statistics for dataset in self.datasets])

    def _merged(self, found: Sequence[dict[str, Distribution]]) -> dict[str, Distribution]:
        if len(found) == 1:
            return found[0]
        molecules = [dataset.manifest.num_rows for dataset in self.datasets]
        names = list(found[0]) if all(found) else []
        return {name: merged([each[name] for each in found], molecules) for name in names}

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the one dataset; of several, the sha256 of their fingerprints and weights."""
        prints = [dataset.manifest.fingerprint for dataset in self.datasets]
        if len(prints) == 1:
            return prints[0]
        text = json.dumps([[name, str(weight)] for name, weight in zip(prints, self._exact, strict=True)])
        return hashlib.sha256(text.encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """The entry of the data in a run, report or model card: a manifest without what it says of files and splits.

        Of several datasets, counts and histograms are sums, ``config`` is the first one's, and ``mix`` lists them.
        """
        manifests = [dataset.manifest for dataset in self.datasets]
        record = manifests[0].to_dict()
        del record["shards"], record["splits"], record["dropped"]
        if len(manifests) == 1:
            return record
        return {
            **record,
            "counts": Account.total([manifest.counts for manifest in manifests]).to_dict(),
            **{
                name: _sum([getattr(manifest, name) for manifest in manifests])
                for name in ("conformer_status", "changes", "left_out", "benchmarks")
            },
            "histograms": _sum_histograms(manifests),
            "descriptor_statistics": {name: each.to_dict() for name, each in self.descriptor_statistics.items()},
            "target_statistics": {name: each.to_dict() for name, each in self.target_statistics.items()},
            "mix": [
                {"path": dataset.path, "weight": weight, "fingerprint": dataset.manifest.fingerprint}
                for dataset, weight in zip(self.datasets, self.weights, strict=True)
            ],
            "fingerprint": self.fingerprint,
        }

    def order(
        self, seed: int, lanes: int, micro_batch: int, window_blocks: int, length_buckets: bool = False
    ) -> StepOrder:
        """The order of a training run; the first dataset has the seed itself, each other one a seed by its place too.

        Raises:
            ConfigError: a number is out of range, or a dataset has too few molecules for a global batch.
        """
        # The epoch of a single dataset ends with a step; with several datasets, epochs end within steps.
        multiple = micro_batch if len(self.datasets) == 1 else 1
        orders = [
            LaneOrder(dataset.block_rows, _seed(seed, place), lanes, multiple, window_blocks)
            for place, dataset in enumerate(self.datasets)
        ]
        return StepOrder(orders, self.weights, micro_batch, length_buckets)

    def read_rows(self, index: np.ndarray, names: Sequence[str]) -> Columns:
        """The named fields of the molecules at these positions.

        Raises:
            DataError: a shard is gone or damaged.
        """
        index = np.asarray(index, np.int64)
        owner = np.searchsorted(self.first, index, side="right") - 1
        places = [np.flatnonzero(owner == k) for k in range(len(self.datasets))]
        parts = [
            dataset.read_rows(index[place] - first, names)
            for dataset, first, place in zip(self.datasets, self.first, places, strict=True)
            if len(place)
        ]
        return Columns.concat(parts).take(np.argsort(np.concatenate(places), kind="stable"))


def _seed(seed: int, place: int) -> int:
    if place == 0:
        return seed
    return int(keyed_rng(seed, place).random_raw() >> 1)


def _sum(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for count in counts for name in count)
    return {name: sum(count.get(name, 0) for count in counts) for name in names}


def _sum_histograms(manifests: Sequence[Manifest]) -> dict[str, dict[str, int]]:
    names = dict.fromkeys(name for manifest in manifests for name in manifest.histograms)
    return {name: _sum([manifest.histograms.get(name, {}) for manifest in manifests]) for name in names}

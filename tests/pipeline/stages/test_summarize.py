"""The distributions of a dataset: of all molecules of a small one, of evenly spread blocks of a large one."""

import numpy as np
import pytest

from molstream.errors import DataError
from molstream.pipeline.shards.containers import Block, Blocks
from molstream.pipeline.shards.distributions import Distribution
from molstream.pipeline.shards.manifest import Shard, read_manifest
from molstream.pipeline.shards.reader import ShardDataset
from molstream.pipeline.stages import summarize as module
from molstream.pipeline.stages.summarize import MAX_BLOCKS, sampled_blocks, summarize
from tests.support.samples import random_samples, write_dataset


def shards_of(*blocks: int) -> list[Shard]:
    """Shards with so many blocks of one molecule."""
    empty = [Blocks.of([Block(0, 0, 1)] * count) for count in blocks]
    return [Shard(f"{k}", len(each), 0, 0, "", each) for k, each in enumerate(empty)]


@pytest.mark.parametrize("container", ["webdataset", "arrow"])
def test_a_small_dataset_is_counted_whole(tmp_path, container):
    parts = [random_samples(seed, count, 2, 3) for seed, count in ((0, 50), (1, 7), (2, 20))]
    folder = write_dataset(tmp_path / "dataset", parts, container)
    manifest = read_manifest(folder)
    for field, names, found in (
        ("descriptors", ("d0", "d1", "d2"), manifest.descriptor_statistics),
        ("targets", ("a", "b"), manifest.target_statistics),
    ):
        table = np.array([getattr(sample, field) for part in parts for sample in part])
        assert found == {name: Distribution.of(column) for name, column in zip(names, table.T, strict=True)}


def test_of_a_large_dataset_evenly_spread_blocks_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BLOCKS", 5)
    parts = [random_samples(seed, 64, 2, 1) for seed in range(3)]
    folder = write_dataset(tmp_path / "dataset", parts)
    read = []
    inner = module._values
    monkeypatch.setattr(module, "_values", lambda *where: read.append((where[2].name, where[3])) or inner(*where))
    manifest = read_manifest(folder)
    found = summarize(folder, manifest.container, manifest.shards, "descriptors", manifest.descriptor_names)
    names = [shard.name for shard in manifest.shards]
    # The blocks 0, 4, 9, 14 and 19 of 24, in shards of 8.
    assert read == [(names[0], 0), (names[0], 4), (names[1], 1), (names[1], 6), (names[2], 3)]
    assert found == manifest.descriptor_statistics
    rows = np.concatenate([np.arange(8 * k, 8 * k + 8) for k in (0, 4, 9, 14, 19)])
    stored = ShardDataset(folder).read_rows(rows, ["descriptors"]).values["descriptors"]
    assert found == {"d0": Distribution.of(stored)}


def test_the_blocks_are_spread_over_all_shards():
    chosen = sampled_blocks(shards_of(*[3000] * 256))
    assert len(chosen) == MAX_BLOCKS
    assert [shard for shard, _ in chosen] == list(range(256))
    few = sampled_blocks(shards_of(2, 0, 3))
    assert few == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    assert len(sampled_blocks(shards_of(200, 56))) == len(set(sampled_blocks(shards_of(200, 56)))) == MAX_BLOCKS
    assert len(set(sampled_blocks(shards_of(200, 57)))) == MAX_BLOCKS


def test_a_damaged_block_is_named(tmp_path):
    folder = write_dataset(tmp_path / "dataset", [random_samples(0, 20, 2, 3)])
    manifest = read_manifest(folder)
    file = folder / manifest.shards[0].name
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(DataError, match=r"shard-00000\.tar, block 0, cannot be read: .*molstream verify"):
        summarize(folder, manifest.container, manifest.shards, "targets", manifest.target_names)

"""The stream of a dataset on a real object store: byte for byte the local one, whatever the cache and the network."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from molstream.io.remote import Retries
from molstream.pipeline.order.mixture import Mixture
from molstream.pipeline.shards.cache import ShardCache
from molstream.pipeline.shards.reader import ShardDataset
from molstream.training.data.stream import LaneStream
from tests.support.object_store import Store, endpoint, failing_network, serving
from tests.support.samples import random_samples, write_dataset

LANES, MICRO_BATCH, STEPS = 4, 5, 30


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with serving(tmp_path_factory.mktemp("moto")) as store:
        yield store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of twelve shards of three blocks."""
    folder = tmp_path_factory.mktemp("stream") / "dataset"
    return write_dataset(folder, [random_samples(k, 20, 2) for k in range(12)])


@pytest.fixture(scope="module")
def url(store, folder) -> str:
    return store.put_folder("stream", folder)


def batches(dataset: ShardDataset, lanes=range(LANES), start: int = 0, prefetch: int = 2) -> list:
    """Everything that a stream gives."""
    data = Mixture([dataset])
    order = data.order(5, LANES, MICRO_BATCH, window_blocks=2)
    steps = LaneStream(data, order, lanes).steps(start, STEPS, prefetch)
    return [[{name: value.numpy().tobytes() for name, value in b.tensors().items()} for b in step] for step in steps]


def fetched(store: Store, folder: Path) -> dict[str, int]:
    return {file.name: store.fetched(f"stream/{file.name}") for file in folder.glob("shard-*")}


@pytest.fixture(scope="module")
def expected(folder) -> list:
    return batches(ShardDataset(folder), prefetch=0)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("room", [1, 4, 100])
def test_a_cache_of_any_size_gives_the_local_stream(folder, url, expected, tmp_path, room, prefetch):
    size = max(file.stat().st_size for file in folder.glob("shard-*"))
    remote = ShardDataset(url, ShardCache(tmp_path, max_bytes=room * size))
    assert batches(remote, prefetch=prefetch) == expected
    kept = sum(file.stat().st_size for file in tmp_path.iterdir())
    # What lanes read stays although there is room for one shard only, and what comes next if it is there.
    assert kept <= max(room, 2 * LANES) * size


@pytest.mark.slow
def test_downloads_that_fail_at_random_give_the_local_stream(store, url, expected, tmp_path):
    with failing_network(store.port, 1, 0.7) as (port, cuts), endpoint(port), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        retries = Retries(attempts=20, first_wait_s=0.01, longest_wait_s=0.05)
        remote = ShardDataset(url, ShardCache(tmp_path, max_bytes=1, retries=retries))
        assert batches(remote) == expected
        assert sum(cut < 6000 for cut in cuts) > 12


def test_a_rank_touches_its_lanes_shards_only_and_a_run_that_goes_on_none_of_those_behind_it(
    store, folder, url, expected, tmp_path
):
    touched = []
    steps = 11  # Within the first epoch, of twelve steps, in which a lane has three shards.
    for lane in range(LANES):
        before = fetched(store, folder)
        data = Mixture([ShardDataset(url, ShardCache(tmp_path / str(lane)))])
        stream = LaneStream(data, data.order(5, LANES, MICRO_BATCH, window_blocks=2), [lane])
        assert len(list(stream.steps(0, steps, 0))) == steps
        after = fetched(store, folder)
        touched.append({name for name in after if after[name] > before[name]})
    # Three of the lane, and, where it has begun already, the first of its next epoch.
    assert all(3 <= len(names) <= 4 for names in touched)
    before = fetched(store, folder)
    assert batches(ShardDataset(url, ShardCache(tmp_path / "on")), [1], start=9)[:2] == [
        [step[1]] for step in expected[9:11]
    ]


def test_a_shard_that_cannot_be_had_stops_the_stream_with_its_url(store, folder, url, tmp_path):
    bad = store.put_folder("gone", folder)
    data = Mixture([ShardDataset(bad, ShardCache(tmp_path, retries=Retries(2, 0.01)))])
    name = next(folder.glob("shard-*")).name
    store.put(f"gone/{name}", b"something else")
    order = data.order(5, LANES, MICRO_BATCH, window_blocks=2)
    with pytest.raises(Exception, match=rf"given up after 2 attempts.*{bad}/{name}.*14 bytes, expected"):
        list(LaneStream(data, order, range(LANES)).steps(0, STEPS, 2))

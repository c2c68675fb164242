"""The cache of remote shards: one download by whoever asks first, a bound, no copy that is not what it should be."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from molstream.errors import DataError, RemoteError
from molstream.io.remote import Retries
from molstream.pipeline.shards.cache import ShardCache
from molstream.pipeline.shards.reader import ShardDataset
from molstream.preprocessing.fields import FIELDS
from tests.support.datasets import REPOSITORY
from tests.support.object_store import Store, endpoint, failing_network, serving
from tests.support.samples import per_row, random_samples, write_dataset

NAMES = [field.name for field in FIELDS]
FAST = Retries(attempts=40, first_wait_s=0.01, longest_wait_s=0.05)
SHARDS = 5


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with serving(tmp_path_factory.mktemp("moto")) as store:
        yield store


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    folder = tmp_path_factory.mktemp("cached") / "dataset"
    return ShardDataset(write_dataset(folder, [random_samples(k, 20, 2) for k in range(SHARDS)]))


@pytest.fixture(scope="module")
def url(store, local) -> str:
    return store.put_folder("cached", Path(local.path))


def counts(store: Store, local: ShardDataset) -> list[int]:
    """How often every shard was asked for."""
    return [store.fetched(f"cached/{shard.name}") for shard in local.manifest.shards]


def total(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def assert_equal(found: ShardDataset, expected: ShardDataset, rows) -> None:
    rows = np.array(list(rows))
    assert per_row(found.read_rows(rows, NAMES), NAMES) == per_row(expected.read_rows(rows, NAMES), NAMES)


def test_a_remote_dataset_reads_as_the_local_one_and_every_shard_is_fetched_once(store, local, url, tmp_path):
    before = counts(store, local)
    cache = ShardCache(tmp_path / "cache")
    assert_equal(ShardDataset(url, cache), local, [99, 3, 50, 21, 3])
    assert_equal(ShardDataset(f"{url}/", cache), local, range(100))
    assert_equal(ShardDataset(url, ShardCache(tmp_path / "cache")), local, range(100))
    assert [after - b for after, b in zip(counts(store, local), before)] == [1] * SHARDS
    assert {file.name for file in (tmp_path / "cache").iterdir()} == {s.sha256 for s in local.manifest.shards}


def test_the_bound_holds_the_oldest_go_and_what_is_read_stays(store, local, url, tmp_path, capfd):
    sizes = [shard.bytes for shard in local.manifest.shards]
    cache = ShardCache(tmp_path, max_bytes=sizes[0] + sizes[1] + max(sizes))
    remote = ShardDataset(url, cache)
    stays = remote.open_shard(0)
    for k in (1, 2, 1, 3, 4):
        with remote.open_shard(k):
            pass
        assert total(tmp_path) <= cache.max_bytes
        time.sleep(0.02)  # The time of last use is the file's.
    kept = {file.name for file in tmp_path.iterdir()}
    shards = local.manifest.shards
    assert shards[0].sha256 in kept, "it is being read"
    assert shards[4].sha256 in kept
    assert shards[2].sha256 not in kept
    before = counts(store, local)
    assert_equal(remote, local, range(20))
    assert counts(store, local) == before
    stays.close()
    for k in (1, 2, 3):
        with remote.open_shard(k):
            pass
    assert shards[0].sha256 not in {file.name for file in tmp_path.iterdir()}
    assert "Raise data.cache_gib" not in capfd.readouterr().err


def test_with_less_room_than_is_read_at_once_shards_are_read_but_not_ahead(local, url, tmp_path, capfd):
    remote = ShardDataset(url, ShardCache(tmp_path, max_bytes=1))
    first = remote.open_shard(0)
    assert remote.open_shard(1, required=False) is None
    second = remote.open_shard(1)
    assert first.read_block(0, ["row"]).num_rows == second.read_block(0, ["row"]).num_rows == 8
    assert len(list(tmp_path.iterdir())) == 2
    assert "Raise data.cache_gib" in capfd.readouterr().err
    first.close()
    second.close()
    assert_equal(remote, local, range(100))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_copy_that_was_damaged_is_fetched_again(store, local, url, tmp_path, capfd):
    assert_equal(ShardDataset(url, ShardCache(tmp_path)), local, range(100))
    for shard, content in zip(local.manifest.shards, (b"", b"x" * local.manifest.shards[1].bytes)):
        (tmp_path / shard.sha256).write_bytes(content)
    before = counts(store, local)
    assert_equal(ShardDataset(url, ShardCache(tmp_path)), local, range(100))
    assert [after - b for after, b in zip(counts(store, local), before)] == [1, 1, 0, 0, 0]
    assert capfd.readouterr().err.count("Fetching it again") == 2


def test_an_object_that_is_not_what_the_manifest_says_is_an_error_after_all_attempts(store, local, tmp_path, capfd):
    bad = store.put_folder("bad", Path(local.path))
    name = local.manifest.shards[2].name
    content = bytearray((Path(local.path) / name).read_bytes())
    content[700] ^= 1
    store.put(f"bad/{name}", bytes(content))
    remote = ShardDataset(bad, ShardCache(tmp_path, retries=Retries(3, 0.01)))
    with pytest.raises(RemoteError, match=rf"given up after 3 attempts.*{bad}/{name}.*sha256"):
        remote.open_shard(2)
    assert capfd.readouterr().err.count(f"{bad}/{name}") == 2
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match=r"s3://data/none/manifest.json does not exist"):
        ShardDataset("s3://data/none", ShardCache(tmp_path))


@pytest.mark.slow
def test_a_failing_network_changes_nothing_but_the_time(store, local, url, tmp_path, capfd):
    with failing_network(store.port, 0, 0.95) as (port, _), endpoint(port), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_MAX_ATTEMPTS", "1")  # Not botocore's own.
        remote = ShardDataset(url, ShardCache(tmp_path, max_bytes=1, retries=FAST))
        assert_equal(remote, local, range(100))
    assert "attempt 1 of 40" in capfd.readouterr().err
    assert_equal(ShardDataset(url, ShardCache(tmp_path)), local, range(100))


READER = """
import sys
import numpy as np
from molstream.pipeline.shards.cache import ShardCache
from molstream.pipeline.shards.reader import ShardDataset
dataset = ShardDataset(sys.argv[1], ShardCache(sys.argv[2], int(sys.argv[3])))
print("ready", flush=True)
sys.stdin.readline()
for seed in range(int(sys.argv[4])):
    for row in np.random.default_rng(seed).permutation(dataset.num_rows)[:20]:
        assert dataset.read_rows(np.array([row]), ["row"]).values["row"].tolist() == [row % 20]
print("done", flush=True)
"""


def readers(count: int, url: str, folder: Path, max_bytes: int, rounds: int) -> list[subprocess.Popen]:
    """Processes that read all over the dataset, and begin together."""
    command = [sys.executable, "-c", READER, url, str(folder), str(max_bytes), str(rounds)]
    found = [
        subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for process in found:
        assert process.stdout.readline() == "ready\n"
    for process in found:
        process.stdin.write("\n")
        process.stdin.flush()
    return found


def test_processes_share_the_folder_and_no_shard_is_fetched_twice(store, local, url, tmp_path):
    before = counts(store, local)
    for process in readers(3, url, tmp_path, 2**30, rounds=2):
        assert process.communicate(timeout=120)[0] == "done\n"
    assert [after - b for after, b in zip(counts(store, local), before)] == [1] * SHARDS


def test_processes_that_evict_each_others_shards_and_one_that_is_killed_do_no_harm(local, url, tmp_path):
    processes = readers(3, url, tmp_path, max(shard.bytes for shard in local.manifest.shards), rounds=4)
    time.sleep(0.5)
    os.kill(processes[0].pid, signal.SIGKILL)
    for process in processes[1:]:
        assert process.communicate(timeout=300)[0] == "done\n"
    processes[0].communicate(timeout=20)
    # What the dead one may have left is no obstacle, and counts as evictable.
    remote = ShardDataset(url, ShardCache(tmp_path, max_bytes=1))
    with remote.open_shard(3):
        assert [file.name for file in tmp_path.iterdir()] == [local.manifest.shards[3].sha256]


def test_a_download_that_was_cut_off_by_a_crash_is_begun_anew(local, url, tmp_path):
    shard = local.manifest.shards[0]
    (tmp_path / f"{shard.sha256}.{shard.bytes}.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("not ours")
    assert_equal(ShardDataset(url, ShardCache(tmp_path, max_bytes=1)), local, range(20))
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([shard.sha256, "notes.txt"])


def test_threads_that_want_the_same_shard_wait_for_one_download(store, local, url, tmp_path):
    remote, before, found = ShardDataset(url, ShardCache(tmp_path)), counts(store, local), []
    threads = [threading.Thread(target=lambda: found.append(remote.open_shard(4))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [file.read_block(0, ["row"]).num_rows for file in found] == [8] * 6
    assert counts(store, local)[4] - before[4] == 1
    for file in found:
        file.close()

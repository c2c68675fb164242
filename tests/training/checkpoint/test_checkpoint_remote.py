"""Checkpoints on a real object store: as in a folder, whatever happens to the network or to who writes them."""

from collections.abc import Iterator
from dataclasses import replace

import fsspec
import pytest
import torch

from molstream.cli.inspect import main
from molstream.errors import CheckpointError
from molstream.io.remote import Retries
from molstream.training.checkpoint.format import MARKER, load_checkpoint, name_of
from molstream.training.checkpoint.load import initial_weights
from molstream.training.checkpoint.store import RemoteStore, local_folder
from molstream.training.checkpoint.writer import Retention
from tests.support.object_store import Store, endpoint, failing_network, serving
from tests.training.checkpoint.test_checkpoint import STATE, save, tensors, writer

FAST = Retries(attempts=30, first_wait_s=0.01, longest_wait_s=0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with serving(tmp_path_factory.mktemp("moto")) as store:
        store.put("made", b"")
        yield store


@pytest.fixture
def remote(server, tmp_path) -> RemoteStore:
    return RemoteStore(f"s3://data/{tmp_path.name}/checkpoints", tmp_path / "scratch", "one", FAST)


def test_what_is_saved_is_loaded_and_old_ones_go(remote, tmp_path):
    save(remote, 1, 2, 3, retention=Retention(last=2))
    assert remote.steps() == [2, 3]
    assert remote.latest(pytest.fail) == 3
    read = load_checkpoint(remote.fetch(3))
    assert read.state == replace(STATE, step=3)
    for kind, expected in tensors(3).items():
        found = getattr(read, kind)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    # Of this machine's disk nothing is used but for what was read last.
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == [name_of(3)]
    best = RemoteStore(f"{remote.where}-best", tmp_path / "other", "one", FAST)
    saving = writer(best, Retention(last=1, best=1))
    for step, loss in ((1, 0.5), (2, 0.1), (3, 0.7)):
        saving.begin(tensors(step), replace(STATE, step=step, validation_loss=loss), "")
    saving.finish()
    assert best.steps() == [2, 3]


def test_what_is_not_committed_is_none_and_is_cleaned_up(remote):
    save(remote, 1)
    remote.staging(2).joinpath("weights-00000-of-00001.safetensors").write_bytes(b"half")
    remote.publish(2)
    assert remote.steps() == [1]
    save(remote, 3)
    system = fsspec.filesystem("s3")
    system.invalidate_cache()
    names = {path.split("/")[-2] for path in system.find(remote.where.removeprefix("s3://"))}
    assert names == {name_of(1), name_of(3)}


def test_a_damaged_object_is_named_and_passed_over(remote):
    save(remote, 1, 2)
    system = fsspec.filesystem("s3")
    name = f"{remote.where}/{name_of(2)}/weights-00000-of-00001.safetensors"
    system.pipe_file(name, system.cat_file(name)[:-1] + b"?")
    said: list[str] = []
    assert remote.latest(said.append) == 1
    assert "step_00000002 is damaged (weights-00000-of-00001.safetensors differs from its checksum)" in said[0]
    system.rm(f"{remote.where}/{name_of(1)}/{MARKER}")
    system.invalidate_cache()
    assert remote.steps() == [2]


def test_a_network_that_fails_again_and_again_costs_time_alone(server, remote):
    with failing_network(server.port, seed=3, share=0.4) as (port, cuts), endpoint(port):
        save(remote, 1, 2, 3)
        assert remote.latest(pytest.fail) == 3
        assert torch.equal(load_checkpoint(remote.fetch(3)).weights["a"], torch.full((50, 3), 3.0))
    assert sum(cut < 6000 for cut in cuts) > 5


@pytest.mark.slow
def test_a_server_that_is_gone_is_told_and_training_goes_on(remote, tmp_path):
    said: list[str] = []
    patient = Retries(attempts=2, first_wait_s=0.01)
    saving = writer(RemoteStore(remote.where, tmp_path / "gone", "one", patient), Retention(), said.append)
    with endpoint(1):
        saving.begin(tensors(1), replace(STATE, step=1), "")
        saving.wait()
    assert "step_00000001 could not be written: given up after 2 attempts" in said[-1]
    saving.begin(tensors(2), replace(STATE, step=2), "")
    saving.finish()
    assert remote.steps() == [2]


def test_a_user_names_a_checkpoint_by_its_url(remote, capsys):
    save(remote, 1, 2, retention=Retention(last=2))
    url = f"{remote.where}/{name_of(1)}"
    first, told = initial_weights(tensors(1)["weights"], url)
    assert all(torch.equal(first[name], tensor) for name, tensor in tensors(1)["weights"].items())
    assert "of a checkpoint" in told
    assert main([url]) == 0
    assert "step 1 " in capsys.readouterr().out
    # Written anew, as by a run that was done again: what this machine has of it is not taken for it.
    remote.drop(1)
    saving = writer(remote, Retention(last=2))
    saving.begin(tensors(7), replace(STATE, step=1), "")
    saving.finish()
    again, _ = initial_weights(tensors(7)["weights"], url)
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors(7)["weights"].items())
    with pytest.raises(CheckpointError, match=rf"step_00000009 is not a checkpoint; .* has .*{name_of(2)}"):
        local_folder(f"{remote.where}/{name_of(9)}")

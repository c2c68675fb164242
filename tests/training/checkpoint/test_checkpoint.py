"""Checkpoints: whole or not there, damage is found and passed over, old ones go."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from molstream.errors import CheckpointError
from molstream.training.checkpoint.format import (
    MARKER,
    RunState,
    checkpoints,
    checksums,
    damage,
    load_checkpoint,
    name_of,
    part_name,
)
from molstream.training.checkpoint.store import CheckpointStore, FolderStore, RemoteStore
from molstream.training.checkpoint.writer import CheckpointWriter, Retention
from molstream.training.distributed.context import DistributedContext
from tests.support.processes import ENVIRONMENT, REPOSITORY

STATE = RunState(
    step=3, optimizer_steps=3, seed=0, lanes=4, micro_batch=2, world_size=1, zero_stage=1, dataset_fingerprint="f"
)


def tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "weights": {"a": torch.full((50, 3), float(step)), "count": torch.tensor(step)},
        "moments": {"exp_avg.a": torch.full((50, 3), step + 0.5)},
        "average": {},
    }


def writer(where: Path | CheckpointStore, retention: Retention, say=lambda text: None) -> CheckpointWriter:
    store = FolderStore(where) if isinstance(where, Path) else where
    done = store.latest(lambda text: None) or 0
    return CheckpointWriter(store, DistributedContext(0, 1, torch.device("cpu")), retention, say, done)


def save(where: Path | CheckpointStore, *steps: int, retention: Retention = Retention(), **state) -> None:  # noqa: B008
    """One process's checkpoints."""
    saving = writer(where, retention)
    for step in steps:
        saving.begin(tensors(step), replace(STATE, step=step, **state), "seed: 0\n")
    saving.finish()


def test_what_is_saved_is_loaded(tmp_path):
    save(tmp_path, 3, loss_scale=8.0)
    read = load_checkpoint(tmp_path / name_of(3))
    assert read.state == replace(STATE, loss_scale=8.0)
    assert torch.equal(read.weights["a"], torch.full((50, 3), 3.0))
    assert torch.equal(read.weights["count"], torch.tensor(3))
    assert torch.equal(read.moments["exp_avg.a"], torch.full((50, 3), 3.5))
    assert read.average == {}
    assert (tmp_path / name_of(3) / "config.yaml").read_text() == "seed: 0\n"


def test_who_may_read_new_files_may_read_a_checkpoint(tmp_path):
    before = os.umask(0o027)
    try:
        save(tmp_path, 3)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / name_of(3)).iterdir()}
    assert set(modes.values()) == {0o640}, modes


def kept(folder: Path) -> list[int]:
    return [int(path.name[-8:]) for path in checkpoints(folder)]


def test_the_last_the_milestones_and_the_best_are_kept(tmp_path):
    save(tmp_path / "last", 1, 2, 3, 4, retention=Retention(last=2))
    assert kept(tmp_path / "last") == [3, 4]
    save(tmp_path / "every", 1, 2, 3, 4, 5, retention=Retention(last=1, every=2))
    assert kept(tmp_path / "every") == [2, 4, 5]
    saving = writer(tmp_path / "best", Retention(last=1, best=2))
    for step, loss in enumerate([0.9, 0.3, None, 0.5, 0.4, 0.8], start=1):
        saving.begin(tensors(step), replace(STATE, step=step, validation_loss=loss), "")
    saving.finish()
    assert kept(tmp_path / "best") == [2, 5, 6]


def test_writing_does_not_hold_up_training(tmp_path):
    """A checkpoint is there after the step in which all processes have written it, and not before."""
    saving = writer(tmp_path, Retention())
    saving.begin(tensors(1), replace(STATE, step=1), "")
    saving.settle(any_busy=True)
    assert kept(tmp_path) == []
    while saving.busy:
        time.sleep(0.01)
    assert kept(tmp_path) == []
    saving.settle(any_busy=False)
    assert kept(tmp_path) == [1]


def test_a_checkpoint_that_cannot_be_written_is_told_and_training_goes_on(tmp_path):
    said: list[str] = []
    saving = writer(tmp_path, Retention(), said.append)
    saving.begin(tensors(1), replace(STATE, step=1), "")
    saving.wait()
    blocked = tmp_path / f".writing-{name_of(2)}"
    blocked.write_text("in the way of the folder")
    saving.begin(tensors(2), replace(STATE, step=2), "")
    saving.wait()
    assert kept(tmp_path) == [1]
    assert f"checkpoint {tmp_path / name_of(2)} could not be written" in said[-1]
    with pytest.raises(CheckpointError, match=r"step_00000002 could not be written: .*File exists"):
        saving.finish()
    blocked.unlink()
    save(tmp_path, 3)
    assert kept(tmp_path) == [1, 3]


@pytest.mark.parametrize(
    "name", ["weights-00000-of-00001.safetensors", "moments-00000-of-00001.safetensors", "state.json", MARKER]
)
@pytest.mark.parametrize("how", ["cut", "flipped", "removed"])
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, name, how):
    save(tmp_path, 1, 2)
    file = tmp_path / "step_00000002" / name
    content = file.read_bytes()
    if how == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    else:
        file.unlink()
    messages: list[str] = []
    assert FolderStore(tmp_path).latest(messages.append) == 1
    assert len(messages) == 1
    assert "step_00000002 is damaged" in messages[0]
    with pytest.raises(CheckpointError, match="step_00000002 cannot be used"):
        load_checkpoint(tmp_path / "step_00000002")


def forge(folder: Path, change) -> None:
    """Change state.json and the marker, which fits it then."""
    state, marker = folder / "state.json", folder / MARKER
    files, content = json.loads(marker.read_text()), json.loads(state.read_text())
    change(files, content)
    state.write_text(json.dumps(content))
    if "state.json" in files:
        files |= checksums([state])
    marker.write_text(json.dumps(files))


MARKERS = {
    "nothing": b"{}",
    "a list": b"[]",
    "no JSON": b"x",
    "thousands of digits": b'{"state.json": ' + b"9" * 5000 + b"}",
    "a deep list": b'{"state.json": ' + b"[" * 5000,
    "a long name": b'{"' + b"x" * 5000 + b'": {"bytes": 1, "sha256": ""}}',
    "a path": b'{"../../x": {"bytes": 1, "sha256": ""}}',
    "a zero byte": b'{"a\\u0000": {"bytes": 1, "sha256": ""}}',
}


@pytest.mark.parametrize("marker", MARKERS.values(), ids=MARKERS)
def test_whatever_a_marker_holds_the_checkpoint_before_it_is_used(tmp_path, marker):
    save(tmp_path, 1, 2)
    for folder in (tmp_path, RemoteStore(f"file://{tmp_path}", tmp_path / "scratch", "me")):
        store = FolderStore(folder) if isinstance(folder, Path) else folder
        (tmp_path / name_of(2) / MARKER).write_bytes(marker)
        messages: list[str] = []
        assert store.latest(messages.append) == 1
        assert "step_00000002 is damaged (no readable COMPLETE marker" in messages[0]


@pytest.mark.parametrize("kind", ["weights", "moments", "average"])
def test_a_marker_that_lacks_the_part_of_a_process_is_none(tmp_path, kind):
    average = {"average": {"a": torch.ones(2)}}
    names = [part_name(kind, rank, 2) for rank in range(2)]
    save(tmp_path, 1)
    saving = writer(tmp_path, Retention())
    saving.begin({**tensors(2), **average}, replace(STATE, step=2), "")
    saving.finish()
    folder = tmp_path / name_of(2)
    for each in ("weights", "moments", "average"):
        for rank in range(2):
            shutil.copy(folder / part_name(each, 0, 1), folder / part_name(each, rank, 2))
        (folder / part_name(each, 0, 1)).unlink()
    json_of = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**json_of, "world_size": 2}))
    files = [path for path in folder.iterdir() if path.suffix != ".json" or path.name == "state.json"]
    whole = checksums(path for path in files if path.name != MARKER)
    (folder / MARKER).write_text(json.dumps(whole))
    assert damage(folder) is None
    for name in names:
        (folder / MARKER).write_text(json.dumps({k: v for k, v in whole.items() if k != name}))
        assert damage(folder) == f"the COMPLETE marker does not name the {kind} of each of 2 processes"
        assert FolderStore(tmp_path).latest(lambda text: None) == 1


WRONG = ["5", -1, math.nan, True, None, [3]]


@pytest.mark.parametrize(
    ("key", "value"),
    [("loss_scale", value) for value in (*WRONG, math.inf, 0)]
    + [(key, value) for key in ("step", "seed", "world_size", "finite_steps") for value in (*WRONG, 5.0, 10**30)],
)
def test_a_state_of_other_types_is_refused(tmp_path, key, value):
    save(tmp_path, 1, 2)
    forge(tmp_path / name_of(2), lambda files, state: state.update({key: value}))
    with pytest.raises(CheckpointError, match=rf"state\.json, cannot be used: {key}: expected a .*, got "):
        load_checkpoint(tmp_path / name_of(2))
    assert FolderStore(tmp_path).latest(lambda text: None) == 1


def test_a_checkpoint_under_the_name_of_another_is_damaged(tmp_path):
    save(tmp_path, 1)
    (tmp_path / name_of(1)).rename(tmp_path / name_of(7))
    assert damage(tmp_path / name_of(7)) == "state.json is of step 1"


def test_a_damaged_state_of_an_old_checkpoint_does_not_end_training(tmp_path):
    said: list[str] = []
    saving = writer(tmp_path, Retention(last=1, best=1), said.append)
    saving.begin(tensors(1), replace(STATE, step=1, validation_loss=0.5), "")
    saving.wait()
    (tmp_path / name_of(1) / "state.json").write_text("{")
    saving.begin(tensors(2), replace(STATE, step=2), "")
    saving.finish()
    assert kept(tmp_path) == [2]


def test_another_format_version_is_refused(tmp_path):
    save(tmp_path, 1, format_version=99)
    with pytest.raises(CheckpointError, match=r"^checkpoint .*step_00000001: format version 99, expected 2 or 3. Use"):
        load_checkpoint(tmp_path / name_of(1))


SAVER = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.training.checkpoint.test_checkpoint import STATE, tensors, writer
from molstream.training.checkpoint.store import FolderStore
from molstream.training.checkpoint.writer import Retention
store = FolderStore(Path(sys.argv[1]))
saving = writer(store, Retention(last=3))
print("ready", flush=True)
for step in range(max(store.steps(), default=0) + 1, 100000):
    saving.begin(tensors(step), replace(STATE, step=step), "")
    saving.wait()
"""


@pytest.mark.parametrize("rounds", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_sigkill_while_saving_never_costs_more_than_the_one_being_written(tmp_path, rounds):
    rng = torch.Generator().manual_seed(rounds)
    newest = 0
    for _ in range(rounds):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path)], cwd=REPOSITORY, env=ENVIRONMENT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02 + 0.2 * float(torch.rand(1, generator=rng)))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        found = checkpoints(tmp_path)
        assert [damage(path) for path in found] == [None] * len(found)
        assert FolderStore(tmp_path).latest(print) == max(kept(tmp_path), default=None)
        newest = max([newest, *kept(tmp_path)])
    assert newest > 3

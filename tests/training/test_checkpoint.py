"""Checkpoints: whole or not there, damage is found and passed over, old ones go."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from preprocessing.errors import CheckpointError
from tests.training.processes import ENVIRONMENT, REPOSITORY
from training.checkpoint import (
    MARKER,
    Checkpoint,
    RunState,
    checkpoints,
    damage,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)

STATE = RunState(step=3, seed=0, lanes=4, micro_batch=2, world_size=2, zero_stage=1, dataset_fingerprint="f")


def make(step: int) -> Checkpoint:
    weights = {"a": torch.full((50, 3), float(step)), "count": torch.tensor(step)}
    return Checkpoint(weights, {"exp_avg.a": torch.randn(50, 3)}, replace(STATE, step=step))


def test_what_is_saved_is_loaded(tmp_path):
    written = make(3)
    path = save_checkpoint(tmp_path, written, "seed: 0\n", keep_last=2)
    read = load_checkpoint(path)
    assert read.state == written.state
    assert torch.equal(read.weights["a"], written.weights["a"])
    assert torch.equal(read.weights["count"], torch.tensor(3))
    assert torch.equal(read.moments["exp_avg.a"], written.moments["exp_avg.a"])


def test_only_the_last_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, make(step), "", keep_last=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["step_00000003", "step_00000004"]


@pytest.mark.parametrize("name", ["weights.safetensors", "moments.safetensors", "state.json", MARKER])
@pytest.mark.parametrize("how", ["cut", "flipped", "removed"])
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, name, how):
    for step in (1, 2):
        save_checkpoint(tmp_path, make(step), "", keep_last=5)
    file = tmp_path / "step_00000002" / name
    content = file.read_bytes()
    if how == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    else:
        file.unlink()
    messages: list[str] = []
    assert latest_checkpoint(tmp_path, messages.append) == tmp_path / "step_00000001"
    assert len(messages) == 1
    assert "step_00000002 is damaged" in messages[0]
    with pytest.raises(CheckpointError, match="step_00000002 cannot be used"):
        load_checkpoint(tmp_path / "step_00000002")


def test_another_format_version_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, replace(make(1), state=replace(STATE, format_version=99)), "", keep_last=1)
    with pytest.raises(CheckpointError, match="format version 99, this molstream reads 1"):
        load_checkpoint(path)


SAVER = """
import sys, torch
from pathlib import Path
from tests.training.test_checkpoint import make
from training.checkpoint import save_checkpoint
step = 0
print("ready", flush=True)
while True:
    step += 1
    save_checkpoint(Path(sys.argv[1]), make(step), "", keep_last=3)
"""


def test_sigkill_while_saving_never_costs_more_than_the_one_being_written(tmp_path):
    for round_ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path / str(round_))],
            cwd=REPOSITORY,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 + 0.037 * round_)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kept = checkpoints(tmp_path / str(round_))
        assert kept
        assert [damage(path) for path in kept] == [None] * len(kept)

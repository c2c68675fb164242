"""One run done five ways: however many processes, stopped or killed, it is the same run."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.processes import run_ranks, start_ranks
from training.checkpoint import checkpoints, load_checkpoint
from training.hub import ExportConfig, export_run
from training.metrics import read_metrics

STEPS = 200
SETTINGS = ("model=tiny", "data.lanes=8", "data.micro_batch=4", f"steps={STEPS}", "save_every=20", "log_every=5")

pytestmark = pytest.mark.slow


def command(dataset: Path, run_dir: Path, stage: int, *more: str) -> list[str]:
    keys = (f"data.path={dataset}", f"run_dir={run_dir}", f"deepspeed.zero_stage={stage}")
    return ["training/pretrain.py", *keys, *SETTINGS, *more]


def curve(run_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Losses, and which molecules they are of, by step."""
    records = read_metrics(run_dir)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    return np.array([r["train/loss"] for r in records]), np.array([r["data/digest"] for r in records])


def killed_at_random(dataset: Path, run_dir: Path, stage: int, kills: int) -> None:
    """Two processes, one of which is killed again and again, at any moment: some of them while it saves."""
    rng = random.Random(stage)
    for _ in range(kills):
        before = newest(run_dir)
        ranks = start_ranks(2, command(dataset, run_dir, stage, "log_every=1"))
        try:
            # Where it has got further than the last time, it may die at once.
            while newest(run_dir) <= before and all(rank.poll() is None for rank in ranks):
                time.sleep(0.005)
            time.sleep(rng.random())
            os.kill(rng.choice(ranks).pid, signal.SIGKILL)
            for rank in ranks:
                assert rank.wait(timeout=120) != 0
        finally:
            for rank in ranks:
                rank.kill()
                rank.communicate()
    run_ranks(2, command(dataset, run_dir, stage, "log_every=1"), timeout=900)


def newest(run_dir: Path) -> int:
    return max((int(path.name[-8:]) for path in checkpoints(run_dir / "checkpoints")), default=0)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_five_ways_to_the_same_run(dataset, tmp_path, stage):
    for world_size in (1, 2, 4):
        run_ranks(world_size, command(dataset, tmp_path / f"{world_size}", stage), timeout=900)
    for world_size, stop in ((4, 70), (2, 130), (1, STEPS)):
        run_ranks(world_size, command(dataset, tmp_path / "fewer", stage, f"stop_at={stop}"), timeout=900)
    killed_at_random(dataset, tmp_path / "killed", stage, kills=5)
    losses, molecules = curve(tmp_path / "1")
    assert losses[-20:].mean() < 0.9 * losses[:20].mean()
    for way in ("2", "4", "fewer", "killed"):
        others, same = curve(tmp_path / way)
        np.testing.assert_array_equal(same, molecules, err_msg=way)
        np.testing.assert_array_equal(others, losses, err_msg=way)


def test_an_export_of_four_processes_at_zero_2_is_their_checkpoint(dataset, tmp_path):
    run_ranks(4, command(dataset, tmp_path / "run", 2, "steps=3", "optim.average_decay=0.9"))
    (path,) = checkpoints(tmp_path / "run" / "checkpoints")
    assert len(list(path.glob("weights-*-of-00004.safetensors"))) == 4
    saved = load_checkpoint(path)
    export = export_run(ExportConfig(run_dir=str(tmp_path / "run"), purpose="test"))
    exported = load_file(export / "model.safetensors")
    assert {f"encoders.{name}" for name in exported} == {name for name in saved.weights if name.startswith("encoders.")}
    for name, tensor in exported.items():
        assert torch.equal(tensor, saved.average.get(f"encoders.{name}", saved.weights[f"encoders.{name}"]))
        assert not torch.equal(saved.average[f"encoders.{name}"], saved.weights[f"encoders.{name}"])

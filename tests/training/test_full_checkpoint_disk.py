"""A disk that fills up while a run saves: told in a sentence, and no checkpoint is lost. On a real full disk."""

import re
import time

import pytest

from tests.training.processes import run_ranks, start_ranks
from training.checkpoint import checkpoints, damage
from training.metrics import read_metrics

SETTINGS = ("model=tiny", "data.lanes=2", "data.micro_batch=4", "steps=60", "save_every=2", "log_every=1")
PATIENCE_S = 300.0


def command(dataset, run_dir) -> list[str]:
    return ["training/pretrain.py", f"data.path={dataset}", f"run_dir={run_dir}", *SETTINGS]


def losses(run_dir) -> list[float]:
    return [record["train/loss"] for record in read_metrics(run_dir)]


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_full_disk_is_told_and_the_same_command_continues(dataset, disk, tmp_path, world_size):
    run_dir = disk.folder / "run"
    ranks = start_ranks(world_size, command(dataset, run_dir))
    try:
        end = time.monotonic() + PATIENCE_S
        while not checkpoints(run_dir / "checkpoints") and time.monotonic() < end:
            time.sleep(0.005)
        while ranks[0].poll() is None and time.monotonic() < end:
            # Again and again, since what could not be saved is removed, which makes room for a while.
            disk.fill()
            time.sleep(0.05)
        told, *_ = [rank.communicate(timeout=PATIENCE_S)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [1] * world_size, told
    folder = re.escape(str(run_dir))
    assert re.search(rf"checkpoint {folder}/checkpoints/step_\d+ could not be written: .*No space left", told), told
    last = told.rstrip().rsplit("\n", 1)[-1]
    assert re.match(
        rf"error: .*No space left on device.*{folder}/metrics.jsonl.*Make room.*same command continues", last
    )
    # TensorBoard's writer has a thread of its own, which ends with one.
    ours = re.sub(r"Exception in thread.*?\nOSError[^\n]*", "", told, flags=re.DOTALL)
    assert "Traceback" not in ours, told

    disk.enlarge()
    saved = checkpoints(run_dir / "checkpoints")
    assert saved
    assert [damage(path) for path in saved] == [None] * len(saved)
    assert f"restored step {int(saved[-1].name[-8:])}" in run_ranks(world_size, command(dataset, run_dir))
    run_ranks(1, command(dataset, tmp_path / "undisturbed"))
    assert losses(run_dir) == losses(tmp_path / "undisturbed")
    assert len(losses(run_dir)) == 60

"""A disk that fills up while a run saves: told in a sentence, and no checkpoint is lost. On a real full disk."""

import re
import time
from dataclasses import replace

import pytest

from molstream.training.checkpoint.format import checkpoints, damage, name_of
from molstream.training.checkpoint.writer import Retention
from molstream.training.metrics.records import read_metrics
from tests.support.processes import run_ranks, start_ranks
from tests.training.checkpoint.test_checkpoint import STATE, tensors, writer

STEPS = 24
SETTINGS = ("model=tiny", "data.lanes=2", "data.micro_batch=4", f"steps={STEPS}", "save_every=2", "log_every=1")
PATIENCE_S = 600.0


def command(dataset, run_dir) -> list[str]:
    return ["training/pretrain.py", f"data.path={dataset}", f"run_dir={run_dir}", *SETTINGS]


def losses(run_dir) -> list[float]:
    return [record["train/loss"] for record in read_metrics(run_dir)]


def test_a_checkpoint_that_finds_no_room_is_told_and_the_next_one_that_does_is_written(disk):
    folder, said = disk.folder / "checkpoints", []
    saving = writer(folder, Retention(), said.append)
    for step in (1, 2, 3):
        saving.begin(tensors(step), replace(STATE, step=step), "")
        saving.wait()
        (disk.enlarge if step == 2 else disk.fill)()
    saving.finish()
    assert [path.name for path in checkpoints(folder)] == [name_of(1), name_of(3)]
    assert [damage(path) for path in checkpoints(folder)] == [None, None]
    failed = f"checkpoint {folder / name_of(2)} could not be written: .*No space left.* training continues"
    assert [bool(re.match(failed, text)) for text in said] == [False, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
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
    last = told.rstrip().rsplit("\n", 1)[-1]
    assert re.match(
        rf"error: .*No space left on device.*{folder}/metrics.jsonl.*Free space there.*same command again",
        last,
    )
    # TensorBoard's writer has a thread of its own, which ends with one.
    ours = re.sub(r"Exception in thread.*?\nOSError[^\n]*", "", told, flags=re.DOTALL)
    assert "Traceback" not in ours, told

    disk.enlarge()
    saved = checkpoints(run_dir / "checkpoints")
    assert saved
    assert [damage(path) for path in saved] == [None] * len(saved)
    told = run_ranks(world_size, command(dataset, run_dir), PATIENCE_S)
    assert f"restored step {int(saved[-1].name[-8:])}" in told
    run_ranks(1, command(dataset, tmp_path / "undisturbed"), PATIENCE_S)
    assert losses(run_dir) == losses(tmp_path / "undisturbed")
    assert len(losses(run_dir)) == STEPS

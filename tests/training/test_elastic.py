"""One run done five ways: however many processes, stopped or killed, it is the same run.

How far the curves are apart is plotted beside the runs, or in the folder that ``MOLSTREAM_PLOTS`` names.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from molstream.training.checkpoint.format import checkpoints, load_checkpoint, name_of
from molstream.training.inference.config import ExportConfig
from molstream.training.inference.export import export_run
from molstream.training.metrics.records import read_metrics
from molstream.training.report.figures import RUN_COLOURS, figure
from tests.support.datasets import molecules, molstream
from tests.support.processes import run_ranks, start_ranks

STEPS = 200
KILLS = 5
PATIENCE_S = 3600.0
SETTINGS = ("model=tiny", "data.lanes=8", "data.micro_batch=4", f"steps={STEPS}", "save_every=20", "log_every=5")

pytestmark = pytest.mark.slow


def command(dataset: Path, run_dir: Path, stage: int, *more: str) -> list[str]:
    keys = [f"data.path={dataset}", f"run_dir={run_dir}", f"deepspeed.zero_stage={stage}"]
    if stage == 3:
        # What is below a five-hundredth of a bucket stays gathered, which by default is all of so small a model.
        keys.append("deepspeed.bucket_size=20000")
    return ["training/pretrain.py", *keys, *SETTINGS, *more]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of about 80 small molecules: a number, a class, a number that most lack, and one that all share."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = [f"{text},{k / 10},{k % 2},{'' if k % 3 else len(text)},7" for k, text in enumerate(molecules())]
    (folder / "molecules.csv").write_text("\n".join(["smiles,number,class,sparse,same", *rows, ""]))
    names = "target_columns=[number,class,sparse,same]"
    sizes = ("rows_per_shard=30", "block_rows=8")
    molstream("preprocess", f"input={folder / 'molecules.csv'}", f"output={folder / 'shards'}", names, *sizes)
    return folder / "shards"


def curve(run_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Losses, and which molecules they are of, by step."""
    records = read_metrics(run_dir)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    return np.array([r["train/loss"] for r in records]), np.array([r["data/digest"] for r in records])


def killed_at_random(dataset: Path, run_dir: Path, stage: int, *more: str) -> None:
    """Two processes, one of which is killed again and again, at any moment; every other time while it saves."""
    rng = random.Random(stage)
    often = command(dataset, run_dir, stage, "log_every=1", "save_every=10", *more)
    torn = 0
    for number in range(KILLS):
        before = newest(run_dir)
        ranks = start_ranks(2, often)
        try:
            # Where it has got further than the last time, it may die at once.
            wait_for(lambda: newest(run_dir) > before, ranks)  # noqa: B023
            if number % 2:
                time.sleep(rng.random())
            else:
                wait_for(lambda: being_written(run_dir), ranks)
                time.sleep(0.02 * rng.random())
            os.kill(rng.choice(ranks).pid, signal.SIGKILL)
            for rank in ranks:
                assert rank.wait(timeout=PATIENCE_S) != 0
        finally:
            for rank in ranks:
                rank.kill()
                rank.communicate()
        torn += bool(being_written(run_dir))
    assert torn, "no kill has met a checkpoint that was being written"
    run_ranks(2, often, timeout=PATIENCE_S)


def wait_for(condition: Callable[[], object], ranks: Sequence[subprocess.Popen[str]]) -> None:
    """Until it holds, or a rank has ended."""
    while not condition() and all(rank.poll() is None for rank in ranks):
        time.sleep(0.002)


def newest(run_dir: Path) -> int:
    return max((int(path.name[-8:]) for path in checkpoints(run_dir / "checkpoints")), default=0)


def being_written(run_dir: Path) -> list[Path]:
    """Checkpoints that are none yet."""
    return list((run_dir / "checkpoints").glob(".writing-*"))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_five_ways_to_the_same_run(dataset, tmp_path, stage):
    five_ways(dataset, tmp_path, stage)


@pytest.mark.parametrize("stage", [1, 3])
def test_labels_are_learned_five_ways_in_the_same_run(labelled, tmp_path, stage):
    five_ways(labelled, tmp_path, stage, "objective=[descriptors,targets]", "data.lanes=4")
    assert (
        "leaves out 1 of 4 targets: 1 with one value for all molecules ('same')" in (tmp_path / "1/log.txt").read_text()
    )
    record = read_metrics(tmp_path / "1")[-1]
    assert {f"train/{name}/{part}_loss" for name in ("descriptors", "targets") for part in ("2d", "3d")} < record.keys()


@pytest.mark.parametrize("stage", [1, 3])
def test_a_blend_is_learned_five_ways_in_the_same_run(dataset, tmp_path, stage):
    five_ways(dataset, tmp_path, stage, "model=moleblend_tiny", "objective=[moleculesde,moleblend]", "data.lanes=4")


@pytest.mark.parametrize("stage", [1, 3])
def test_a_queue_and_a_memory_fill_five_ways_in_the_same_run(dataset, tmp_path, stage):
    sizes = ("objective.mmsa.queue=48", "objective.mmsa.anchors=8", "objective.mmsa.neighbours=4")
    # The memory counts from the second step on, so that what it makes of rounding has time to grow.
    begun = ("objective.mmsa.warmup_start=0", "objective.mmsa.warmup_length=0")
    five_ways(dataset, tmp_path, stage, "model=mmsa_tiny", "objective=mmsa", "data.lanes=4", *sizes, *begun)
    weights = load_checkpoint(tmp_path / "1" / "checkpoints" / name_of(STEPS)).weights
    assert weights["objective.mmsa.structure.queue.filled"].all()
    assert weights["objective.mmsa.structure.anchors.started"] == 1


def five_ways(dataset: Path, tmp_path: Path, stage: int, *more: str) -> None:
    """Do a run by one, two and four processes, by fewer and fewer, and by two that are killed; they are the same."""
    for world_size in (1, 2, 4):
        run_ranks(world_size, command(dataset, tmp_path / f"{world_size}", stage, *more), timeout=PATIENCE_S)
    for world_size, stop in ((4, 70), (2, 130), (1, STEPS)):
        stopped = command(dataset, tmp_path / "4-2-1", stage, f"stop_at={stop}", *more)
        run_ranks(world_size, stopped, timeout=PATIENCE_S)
    killed_at_random(dataset, tmp_path / "2-killed", stage, *more)
    losses, taken = curve(tmp_path / "1")
    assert losses[-20:].mean() < 0.9 * losses[:20].mean()
    others = {way: curve(tmp_path / way) for way in ("2", "4", "4-2-1", "2-killed")}
    folder = Path(os.environ.get("MOLSTREAM_PLOTS", tmp_path))
    objectives = next((word.partition("=")[2] for word in more if word.startswith("objective=")), "moleculesde")
    name = f"five_ways_zero_{stage}_{objectives.strip('[]').replace(',', '_')}.svg"
    plot_differences(folder / name, losses, {way: found for way, (found, _) in others.items()})
    last = load_checkpoint(tmp_path / "1" / "checkpoints" / name_of(STEPS))
    for way, (found, same) in others.items():
        np.testing.assert_array_equal(same, taken, err_msg=way)
        np.testing.assert_array_equal(found, losses, err_msg=way)
        weights = load_checkpoint(tmp_path / way / "checkpoints" / name_of(STEPS)).weights
        assert weights.keys() == last.weights.keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in last.weights.items()), way


def plot_differences(file: Path, losses: np.ndarray, others: dict[str, np.ndarray]) -> None:
    """The curves, and how far each is from that of one process beside what sums of fp32 in any order may make of it."""
    fig, (curves, differences) = figure(2)
    steps = np.arange(1, STEPS + 1)
    curves.plot(steps, losses, color="black", label="W = 1")
    for number, (way, found) in enumerate(others.items()):
        style = {"color": RUN_COLOURS[number], "dashes": (2, 2 * number)}
        curves.plot(steps, found, **style)
        differences.plot(steps, np.abs(found / losses - 1), **style, label=f"W = {way}")
    differences.plot([1, 50, STEPS], [1e-4, 1e-4, 1e-3], color="black", label="allowed")
    differences.set_yscale("symlog", linthresh=1e-8)
    curves.set(title="loss", xlabel="step")
    differences.set(title="relative difference from W = 1", xlabel="step")
    differences.legend(fontsize="small", loc="center")
    fig.savefig(file)


def test_an_export_of_four_processes_at_zero_2_is_their_checkpoint(dataset, tmp_path):
    run_ranks(4, command(dataset, tmp_path / "run", 2, "steps=3", "optim.ema_decay=0.9"))
    (path,) = checkpoints(tmp_path / "run" / "checkpoints")
    assert len(list(path.glob("weights-*-of-00004.safetensors"))) == 4
    saved = load_checkpoint(path)
    export = export_run(ExportConfig(run_dir=str(tmp_path / "run"), purpose="test"))
    exported = load_file(export / "model.safetensors")
    assert {f"encoders.{name}" for name in exported} == {name for name in saved.weights if name.startswith("encoders.")}
    for name, tensor in exported.items():
        assert torch.equal(tensor, saved.average.get(f"encoders.{name}", saved.weights[f"encoders.{name}"]))
        assert not torch.equal(saved.average[f"encoders.{name}"], saved.weights[f"encoders.{name}"])

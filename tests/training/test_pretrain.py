"""Pretraining as a user runs it: exact resume through signals and kills, one curve at any number of processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from molstream.training.checkpoint.format import checkpoints, load_checkpoint
from molstream.training.metrics.records import read_metrics
from molstream.training.run.directory import RunDirectory
from tests.io.test_locks import another_process
from tests.support.processes import ENVIRONMENT, REPOSITORY, free_port, run_ranks, start_ranks

SETTINGS = [
    "experiment=paper",
    "model=paper_tiny",
    "data.lanes=4",
    "data.micro_batch=4",
    "data.window_blocks=2",
    "steps=12",
    "save_every=3",
    "log_every=2",
    "optim.lr=1e-3",
]


def arguments(dataset: Path, run_dir: Path, *more: str) -> list[str]:
    return ["training/pretrain.py", f"data.path={dataset}", f"run_dir={run_dir}", *SETTINGS, *more]


def losses(run_dir: Path) -> dict[int, tuple[float, ...]]:
    """All recorded losses by step."""
    return {
        int(r["step"]): tuple(v for k, v in r.items() if k.startswith("train/") or k == "optim/grad_norm")
        for r in read_metrics(run_dir)
    }


@pytest.fixture(scope="module")
def whole_run(dataset, tmp_path_factory):
    """An undisturbed run of twelve steps on one process."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    run_ranks(1, arguments(dataset, run_dir))
    return run_dir


@pytest.mark.slow
def test_at_zero_3_processes_go_through_the_same_modules_whatever_their_batches(dataset, tmp_path):
    """All of them gather a module's weights together: one that had more blocks than another would wait for ever."""
    for world_size in (1, 2):
        job = ["-m", "tests.support.blocks_job", *arguments(dataset, tmp_path / f"{world_size}", "steps=3")[1:]]
        run_ranks(world_size, [*job, "deepspeed.zero_stage=3", "deepspeed.bucket_size=500"], timeout=120)
    assert losses(tmp_path / "2") == losses(tmp_path / "1")


def test_a_run_directory_tells_the_story(whole_run, dataset):
    names = {p.name for p in whole_run.iterdir()}
    assert names >= {"config.yaml", "command.txt", "environment.json", "dataset.json", "metrics.jsonl", "log.txt"}
    assert any((whole_run / "tensorboard").iterdir())
    assert sorted(losses(whole_run)) == list(range(1, 13))
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert json.loads((whole_run / "dataset.json").read_text())["fingerprint"] == manifest["fingerprint"]
    record = read_metrics(whole_run)[-1]
    assert record["throughput/molecules_per_s"] > 0
    assert 0 <= record["throughput/data_wait"] <= 1
    assert 0 <= record["data/padding"] < 0.1
    assert [p.name for p in checkpoints(whole_run / "checkpoints")] == [f"step_{k:08d}" for k in (6, 9, 12)]


@pytest.mark.parametrize(("world_size", "stage"), [(2, 2), pytest.param(4, 1, marks=pytest.mark.slow)])
def test_the_curve_does_not_depend_on_the_number_of_processes(whole_run, dataset, tmp_path, world_size, stage):
    run_ranks(world_size, arguments(dataset, tmp_path / "run", f"deepspeed.zero_stage={stage}"))
    assert losses(tmp_path / "run") == losses(whole_run)


@pytest.mark.slow
def test_our_form_has_one_curve_too(dataset, tmp_path):
    found = []
    for processes, stage in ((1, 0), (2, 2)):
        run_dir = tmp_path / f"{processes}"
        form = ["model=tiny", "data.lanes=4", "data.micro_batch=4", "steps=4", f"deepspeed.zero_stage={stage}"]
        run_ranks(processes, ["training/pretrain.py", f"data.path={dataset}", f"run_dir={run_dir}", *form])
        found.append(losses(run_dir))
    assert "objective:\n  moleculesde:\n" in (tmp_path / "1" / "config.yaml").read_text()
    assert found[0] == found[1]


def test_stop_and_go_at_another_world_size_continues_the_curve(whole_run, dataset, tmp_path):
    run_ranks(1, arguments(dataset, tmp_path / "run", "stop_at=5"))
    assert sorted(losses(tmp_path / "run")) == [1, 2, 3, 4, 5]
    output = run_ranks(2, arguments(dataset, tmp_path / "run", "deepspeed.zero_stage=0"))
    assert "restored step 5" in output
    assert "written by 1 processes at ZeRO 1, now 2 at 0" in output
    assert losses(tmp_path / "run") == losses(whole_run)


@pytest.mark.parametrize("after_step", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_sigkill_and_start_again_gives_the_losses_of_an_undisturbed_run(whole_run, dataset, tmp_path, after_step):
    # Records appear with the checkpoints alone, so that any of them that a checkpoint left behind would be missed.
    command = arguments(dataset, tmp_path / "run", "log_every=1000")
    victim = start_ranks(1, command)[0]
    deadline = time.time() + 120
    while len(losses_or_nothing(tmp_path / "run")) < after_step and time.time() < deadline:
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    assert after_step <= len(losses(tmp_path / "run")) < 12
    run_ranks(1, command)
    assert losses(tmp_path / "run") == losses(whole_run)
    last = [load_checkpoint(run / "checkpoints" / "step_00000012") for run in (whole_run, tmp_path / "run")]
    assert all((last[0].weights[k] == last[1].weights[k]).all() for k in last[0].weights)
    assert all((last[0].moments[k] == last[1].moments[k]).all() for k in last[0].moments)


def losses_or_nothing(run_dir: Path) -> dict[int, tuple[float, ...]]:
    return losses(run_dir) if (run_dir / "metrics.jsonl").exists() else {}


def test_sigterm_finishes_the_step_saves_and_says_how_to_go_on(whole_run, dataset, tmp_path):
    command = arguments(dataset, tmp_path / "run", "save_every=1000")
    process = start_ranks(1, command)[0]
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 2/"):
            process.send_signal(signal.SIGTERM)
            break
    output = process.stdout.read()
    assert process.wait() == 130, output
    assert "stopped by a signal at step" in output
    assert f"resume with: python training/pretrain.py data.path={dataset}" in output
    run_ranks(1, command)
    assert losses(tmp_path / "run") == losses(whole_run)


@pytest.mark.slow
def test_the_deepspeed_launcher_starts_two_processes(whole_run, dataset, tmp_path):
    launcher = Path(sys.executable).parent / "deepspeed"
    command = [sys.executable, launcher, "--num_accelerators", "2", "--master_port", str(free_port())]
    result = subprocess.run(
        [*command, *arguments(dataset, tmp_path / "run", "stop_at=4")],
        cwd=REPOSITORY,
        env={**ENVIRONMENT, "PATH": f"{launcher.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "on 2 process(es)" in result.stderr
    assert losses(tmp_path / "run") == {step: losses(whole_run)[step] for step in range(1, 5)}


def fails(dataset: Path, run_dir: Path, *more: str, world_size: int = 1) -> tuple[int, str]:
    """Exit code and output of rank 0 of a command that is expected to be refused."""
    ranks = start_ranks(world_size, arguments(dataset, run_dir, *more))
    outputs = [rank.communicate(timeout=200)[0] for rank in ranks]
    assert "Traceback" not in outputs[0], outputs[0]
    return ranks[0].returncode, outputs[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "unknown key 'optim.lrr'. Did you mean 'optim.lr'"),
        ("steps=many", "steps"),
        ("model=huge", "huge"),
        ("objective.moleculesde_paper.position_sde=VX", "VX"),
        ("model/encoder_2d=gat", "Choose gin, graph_transformer or none"),
        ("model=tiny", "objective=moleculesde_paper needs model.position_score"),
        ("data.micro_batch=4000", "fewer than one global batch of 4 lanes x 4000"),
        ("data.path=/nowhere", "/nowhere"),
    ],
)
def test_what_cannot_run_is_refused_by_name_and_leaves_nothing(dataset, tmp_path, override, message):
    code, output = fails(dataset, tmp_path / "run", override)
    assert code == (1 if "nowhere" in override else 2)
    assert message in output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_more_processes_than_lanes_are_refused(dataset, tmp_path):
    code, output = fails(dataset, tmp_path / "run", "data.lanes=2", world_size=4)
    assert code == 2
    assert "4 processes cannot share 2 lanes evenly. Start 1 or 2 processes" in output


@pytest.mark.slow
def test_a_second_launch_of_two_processes_is_refused_with_one_message(dataset, tmp_path):
    with another_process("exclusive", tmp_path / "run"):
        code, told = fails(dataset, tmp_path / "run", world_size=2)
        assert list((tmp_path / "run").iterdir()) == []
    assert code == 1
    assert told.count("run is locked by another process. Wait for it or stop it, then try again.") == 1
    assert "Traceback" not in told


def test_another_configuration_or_a_foreign_folder_is_refused(whole_run, dataset, tmp_path):
    code, output = fails(dataset, whole_run, "optim.lr=5e-4", "data.micro_batch=2")
    assert code == 2
    assert "data.micro_batch: 4 -> 2; optim.lr: 0.001 -> 0.0005" in output
    (tmp_path / "thesis.txt").write_text("mine")
    code, output = fails(dataset, tmp_path)
    assert code == 2
    assert "holds other files (thesis.txt)" in output


def test_init_from_starts_a_new_run_with_the_weights_alone(whole_run, dataset, tmp_path):
    source = whole_run / "checkpoints" / "step_00000012"
    output = run_ranks(1, arguments(dataset, tmp_path / "run", f"init_from={source}", "stop_at=2"))
    assert "new run from" in output
    assert "steps 0 to 2" in output
    first = next(iter(losses(tmp_path / "run").values()))
    assert first != losses(whole_run)[1]


def test_steps_without_a_finite_gradient_name_their_molecules_and_end_the_run_if_there_are_too_many(dataset, tmp_path):
    code, output = fails(dataset, tmp_path / "run", "optim.lr=1e30", "log_every=1", "optim.max_skipped=3")
    assert code == 1
    assert "step 5 has no finite gradient (lanes " in output
    assert "like the 3 previous steps; expected at most optim.max_skipped=3" in output
    files = sorted((tmp_path / "run" / "rejected").iterdir())
    assert [file.name for file in files] == [f"step_{step:08d}.txt" for step in (2, 3, 4, 5)]
    keys = files[0].read_text().split()
    assert len(keys) in (4, 8, 12, 16)
    assert all(len(key) == 27 for key in keys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "done"),
    [
        (["optim.schedule=wsd", "optim.decay_fraction=0.5"], 3),
        (["optim.schedule=constant"], 6),
    ],
)
def test_a_run_that_is_extended_is_the_one_that_had_this_length_from_the_start(dataset, tmp_path, schedule, done):
    run_ranks(1, arguments(dataset, tmp_path / "whole", *schedule))
    run_ranks(1, arguments(dataset, tmp_path / "run", *schedule, "steps=6", f"stop_at={done}"))
    run_ranks(2, arguments(dataset, tmp_path / "run", *schedule))
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    # What the run directory says is what another resume has to agree with.
    assert RunDirectory(tmp_path / "run").config().steps == 12
    assert "steps=12, got steps=6" in fails(dataset, tmp_path / "run", *schedule, "steps=6")[1]


@pytest.mark.slow
def test_a_schedule_that_has_gone_by_the_length_is_extended_on_demand_only(dataset, tmp_path):
    cosine = ["optim.schedule=cosine", "optim.warmup_steps=1"]
    run_ranks(1, arguments(dataset, tmp_path / "whole", *cosine))
    run_ranks(1, arguments(dataset, tmp_path / "run", *cosine, "steps=6"))
    code, output = fails(dataset, tmp_path / "run", *cosine)
    assert code == 2
    assert "the 6 steps that are done had the learning rates of the shorter run. Give extend=true" in output
    run_ranks(1, arguments(dataset, tmp_path / "run", *cosine, "extend=true"))
    rates, whole = ([r["optim/lr"] for r in read_metrics(tmp_path / name)] for name in ("run", "whole"))
    assert rates[6:] == whole[6:]
    assert rates[:6] != whole[:6]

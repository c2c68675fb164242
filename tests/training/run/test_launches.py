"""One run in three launches: killed on one process, stopped on two, finished on a real terminal; then its reports."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from molstream.training.metrics.records import last_step, read_metrics
from molstream.training.report.data import launch_rows, per_process, read_run
from molstream.training.report.figures import plot_losses, plot_progress
from molstream.training.run.history import read_launches
from tests.support.datasets import molstream
from tests.support.processes import ENVIRONMENT, REPOSITORY, run_ranks, start_ranks

KILLED_AT, STOPPED_AT, STEPS = 5, 8, 12
LOG_LINE = re.compile(
    r"step (\d+)/12  [\d.]+ %  loss [\d.]+  .*grad \S+  lr \S+  \d+ mol/s  wait [\d.]+ %  pad [\d.]+ %  "
    r"mem [\d.]+ GiB  eta \d\d:\d\d:\d\d"
)


def arguments(dataset: Path, run_dir: Path, *more: str) -> list[str]:
    settings = ["model=tiny", "data.lanes=4", "data.micro_batch=4", f"steps={STEPS}", "save_every=3", "log_every=1"]
    return ["training/pretrain.py", f"data.path={dataset}", f"run_dir={run_dir}", *settings, *more]


def on_a_terminal(command: list[str], columns: int) -> tuple[int, str]:
    """Exit code of a program whose stderr is a terminal of that many columns, and all that the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": str(columns)}
    program = subprocess.Popen(
        [sys.executable, *command], cwd=REPOSITORY, env=environment, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = bytearray()

    def listen() -> None:
        # At the end of a terminal, reading fails.
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:
                return
            if not part:
                return
            shown.extend(part)

    listener = threading.Thread(target=listen)
    listener.start()
    code = program.wait(timeout=600)
    listener.join()
    os.close(ours)
    return code, shown.decode()


@pytest.fixture(scope="module")
def launched(dataset, tmp_path_factory):
    """The run directory, what the launch on two processes printed, and what the terminal of the last got."""
    run_dir = tmp_path_factory.mktemp("launched") / "run"
    victim = start_ranks(1, arguments(dataset, run_dir))[0]
    deadline = time.monotonic() + 300
    while last_step(run_dir) < KILLED_AT and time.monotonic() < deadline and victim.poll() is None:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    recorded = last_step(run_dir)
    more = (f"stop_at={STOPPED_AT}", "deepspeed.zero_stage=2")
    printed = run_ranks(2, arguments(dataset, run_dir, *more))
    code, shown = on_a_terminal(arguments(dataset, run_dir), columns=100)
    assert code == 0, shown
    return run_dir, recorded, printed, shown


def test_every_launch_is_recorded_with_where_it_ran_and_how_it_ended(launched):
    run_dir, recorded, *_ = launched
    launches = read_launches(run_dir)
    assert [(each.world_size, each.zero_stage, each.ended) for each in launches] == [
        (1, 1, None),
        (2, 2, "stopped"),
        (1, 1, "finished"),
    ]
    restored = launches[1].step
    assert restored in (3, 6)
    assert [each.step for each in launches] == [0, restored, STOPPED_AT]
    assert [each.recorded for each in launches] == [0, recorded, STOPPED_AT]
    assert launches[0].time < launches[1].time < launches[1].end_time < launches[2].time < launches[2].end_time
    assert [record["step"] for record in read_metrics(run_dir)] == list(range(1, STEPS + 1))


def test_tensorboard_has_every_step_of_all_launches_once(launched):
    run_dir = launched[0]
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    for name in ("train/loss", "optim/lr", "throughput/data_wait"):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert shown == [(r["step"], pytest.approx(r[name], rel=1e-6)) for r in read_metrics(run_dir)]
    assert not any(tag.endswith(("step", "time")) for tag in events.Tags()["scalars"])


def test_elsewhere_there_is_one_parsable_line_per_interval(launched):
    run_dir, _, printed, _ = launched
    first = read_launches(run_dir)[1].step + 1
    steps = [int(line.group(1)) for line in map(LOG_LINE.fullmatch, printed.splitlines()) if line]
    assert steps == list(range(first, STOPPED_AT + 1))
    assert "\x1b" not in printed


def test_on_a_terminal_there_is_a_live_panel_and_the_last_line_stays(launched):
    run_dir, *_, shown = launched
    assert "\x1b[" in shown
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n").split("\n")
    panels = [line for line in lines if line.startswith(("╭", "│", "╰"))]
    assert any(re.search(r"step \d+/12  [\d.]+ %  eta", line) for line in panels)
    assert any("mol/s" in line for line in panels)
    assert max(map(len, panels)) <= 80
    # What is told meanwhile stands above the panel, whole; the panel goes, and the last line stays.
    saved = [line for line in lines if line.startswith("saved ")]
    assert saved[-1] == f"saved {run_dir}/checkpoints/step_00000012"
    stays = [line for line in lines if LOG_LINE.fullmatch(line)]
    assert [line.split()[1] for line in stays] == ["12/12"]
    kept = [line for line in (run_dir / "log.txt").read_text().splitlines() if LOG_LINE.fullmatch(line)]
    assert [line.split()[1] for line in kept[-4:]] == ["9/12", "10/12", "11/12", "12/12"]


def test_the_report_marks_launches_and_steps_that_were_done_again(launched, tmp_path):
    run_dir, recorded, *_ = launched
    run = read_run(str(run_dir))
    restored = run.launches[1].step
    axes = [axis for axis in plot_losses({"run": run.records}, run.launches).axes if axis.get_visible()]
    assert axes[0].get_title() == "loss"
    for axis in axes:
        marks = [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "--"]
        assert marks == [restored, STOPPED_AT]
        assert [(text.get_position()[0], text.get_text().strip()) for text in axis.texts] == [
            (0, "1"),
            (restored, "2"),
            (STOPPED_AT, "1"),
        ]
        spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axis.patches]
        assert spans == ([(restored, recorded)] if recorded > restored else [])
    for r in per_process(run):
        processes = r["throughput/molecules_per_s"] / r["throughput/molecules_per_s_and_process"]
        assert processes == pytest.approx(2 if restored < r["step"] <= STOPPED_AT else 1)
    assert len([a for a in plot_progress({"run": per_process(run)}, run.launches).axes if a.get_visible()]) == 6
    assert [(row.until, row.repeated, row.ended) for row in launch_rows(run)] == [
        (recorded, 0, "died"),
        (STOPPED_AT, recorded - restored, "stopped"),
        (STEPS, 0, "finished"),
    ]
    output = tmp_path / "report.html"
    result = molstream("report", run_dir, f"output={output}")
    assert "1, 2, 1" in result.stdout
    text = " ".join(re.sub(r"<[^>]+>", " ", output.read_text()).split())
    row = rf"{restored} {STOPPED_AT} 2 2 fp32 cpu \S+ \S+ \S+ [\d.]+ [\d.]+ {recorded - restored} stopped"
    assert re.search(row, text)


@pytest.mark.slow
def test_several_runs_are_reported_side_by_side(launched, small_run, tmp_path):
    run_dir = launched[0]
    output = tmp_path / "both.html"
    result = molstream("report", run_dir, small_run, f"output={output}")
    assert result.stdout.splitlines()[-1] == str(output)
    page = output.read_text()
    assert page.count("data:image/svg+xml;base64,") == 2
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "2 runs side by side" in text
    assert "data.lanes 4 2" in text
    assert "optim.lr" not in text
    runs = [read_run(str(each)) for each in (run_dir, small_run)]
    for run in runs:
        assert f"{run.loss()[0]:.4f} {run.loss()[1]:.4f}" in text
    axis = plot_losses({"a": runs[0].records, "b": runs[1].records}).axes[0]
    assert [line.get_label() for line in axis.lines] == ["a", "b"]
    for line, run in zip(axis.lines, runs, strict=True):
        assert np.array_equal(line.get_ydata(), [record["train/loss"] for record in run.records])
    refused = molstream("report", run_dir, small_run, "embeddings=x.parquet", check=False)
    assert refused.returncode == 2
    assert "belong to one run" in refused.stderr
    assert "no run is named" in molstream("report", check=False).stderr

"""How a job ends and begins again: signals, processes that die or hang, restarts by torchrun and by the supervisor."""

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from molstream.training.checkpoint.format import checkpoints
from tests.support.processes import ENVIRONMENT, REPOSITORY, run_ranks, start_ranks
from tests.training.test_pretrain import arguments, losses, losses_or_nothing

STEPS = 60


def command(dataset: Path, run_dir: Path, *more: str) -> list[str]:
    """A run that can be caught at work: records of every step are there at once."""
    return arguments(dataset, run_dir, f"steps={STEPS}", "log_every=1", "save_every=5", *more)


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    """The losses of a run that nothing happens to."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    run_ranks(1, command(dataset, run_dir))
    return losses(run_dir)


def wait_for_step(run_dir: Path, step: int, rank: subprocess.Popen[str]) -> None:
    """Wait until the record of a step is there."""
    while len(losses_or_nothing(run_dir)) < step:
        assert rank.poll() is None, rank.communicate()[0]
        time.sleep(0.02)


class Program:
    """A command whose output is read while it runs, so that it never waits for a reader."""

    def __init__(self, words: list[str | Path], **environment: str):
        self.process = subprocess.Popen(
            [str(word) for word in words],
            cwd=REPOSITORY,
            env={**ENVIRONMENT, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self._lines.extend(self.process.stdout)

    def wait_until(self, true: Callable[[], object], what: str) -> None:
        """Wait for ``true()``; fails with ``what`` and the output when the program ends before."""
        while not true():
            assert self.process.poll() is None, f"{what}: {''.join(self._lines)}"
            time.sleep(0.02)

    def wait_for_step(self, run_dir: Path, step: int) -> None:
        """Wait until the record of a step is there."""
        self.wait_until(lambda: len(losses_or_nothing(run_dir)) >= step, f"no step {step}")

    def end(self, timeout: float = 1800) -> tuple[int, str]:
        """Exit code and output."""
        code = self.process.wait(timeout)
        self._reader.join(60)
        return code, "".join(self._lines)

    def ranks(self) -> list[psutil.Process]:
        """The training processes among the descendants."""
        return [p for p in psutil.Process(self.process.pid).children(recursive=True) if is_rank(p)]

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            everyone = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
            for process in everyone:
                process.kill()


def is_rank(process: psutil.Process) -> bool:
    try:
        return "RANK" in process.environ()
    except psutil.Error:
        return False


def supervised(*words: str, own: tuple[str, ...] = ()) -> list[str | Path]:
    """Two processes on this machine under the supervisor, of the three that it is told it could use."""
    return [
        sys.executable,
        "-m",
        "molstream.cli.main",
        "supervise",
        *own,
        "deepspeed",
        "--num_accelerators",
        "3",
        *words,
    ]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_with_a_checkpoint(dataset, tmp_path, undisturbed):
    run_dir = tmp_path / "run"
    ranks = start_ranks(2, command(dataset, run_dir, "save_every=1000"))
    wait_for_step(run_dir, 2, ranks[0])
    # As launchers do it: more than once.
    for _ in range(2):
        ranks[1].send_signal(signal.SIGTERM)
    outputs = [rank.communicate(timeout=900)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [130, 130], outputs
    assert "stopped by a signal at step" in outputs[0]
    last = checkpoints(run_dir / "checkpoints")[-1].name
    assert last == f"step_{len(losses(run_dir)):08d}"
    run_ranks(1, command(dataset, run_dir))
    assert losses(run_dir) == undisturbed


def test_the_peer_of_a_process_that_dies_does_not_hang_and_says_in_which_step(dataset, tmp_path):
    run_dir = tmp_path / "run"
    ranks = start_ranks(2, command(dataset, run_dir))
    wait_for_step(run_dir, 2, ranks[0])
    ranks[1].kill()
    output = ranks[0].communicate(timeout=900)[0]
    ranks[1].communicate()
    assert ranks[0].returncode == 1
    assert re.search(rf"rank 0 of 2 on \S+ \(process {ranks[0].pid}\), in step \d+", output)
    assert "another process ended first: look for its message" in output


@pytest.mark.slow
def test_the_peer_of_a_process_that_hangs_ends_itself_and_leaves_where_it_stood(dataset, tmp_path):
    run_dir = tmp_path / "run"
    ranks = start_ranks(2, command(dataset, run_dir, "deepspeed.timeout_s=30", "steps=1000"))
    try:
        wait_for_step(run_dir, 2, ranks[0])
        ranks[1].send_signal(signal.SIGSTOP)
        output = ranks[0].communicate(timeout=900)[0]
    finally:
        ranks[1].kill()
        ranks[1].communicate()
    assert ranks[0].returncode == 1
    assert "is not done after 30 s" in output
    stacks = (run_dir / "stacks" / "rank_0000.txt").read_text()
    assert "all_reduce" in stacks or "all_gather" in stacks or "broadcast" in stacks
    assert not (run_dir / "stacks" / "rank_0001.txt").exists()


@pytest.mark.slow
def test_the_supervisor_restarts_after_a_kill_and_stops_on_a_signal_with_a_checkpoint(dataset, tmp_path, undisturbed):
    run_dir = tmp_path / "run"
    words = supervised(*command(dataset, run_dir))
    with Program(words) as program:
        program.wait_for_step(run_dir, 7)
        program.ranks()[-1].kill()
        log = run_dir / "log.txt"
        program.wait_until(lambda: "\nstep " in log.read_text().partition("restored step")[2], "no step after it")
        program.process.send_signal(signal.SIGTERM)
        code, output = program.end()
    assert code == 130, output
    assert "1 of 3 slots stay idle: 2 share 4 lanes evenly" in output
    assert "resume with: molstream supervise deepspeed --num_accelerators 3 training/pretrain.py" in output
    with Program(words) as program:
        code, output = program.end()
    assert code == 0, output
    assert losses(run_dir) == undisturbed


@pytest.mark.slow
def test_nothing_runs_on_when_the_supervisor_is_killed(dataset, tmp_path):
    run_dir = tmp_path / "run"
    with Program(supervised(*command(dataset, run_dir, "steps=100000"))) as program:
        program.wait_for_step(run_dir, 2)
        descendants = psutil.Process(program.process.pid).children(recursive=True)
        assert len(program.ranks()) == 2
        program.process.kill()
        psutil.wait_procs(descendants, timeout=120)
    assert not [p for p in descendants if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_the_supervisor_gives_up_after_starts_that_bring_no_checkpoint(dataset, tmp_path):
    words = supervised(*command(tmp_path / "none", tmp_path / "run"), own=("restarts=1",))
    with Program(words) as program:
        code, output = program.end()
    assert code == 1
    assert output.count("supervisor: start ") == 2
    assert "error: 2 starts in a row ended without a checkpoint after step 0" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["supervise"], "no job is given: molstream supervise"),
        (["supervise", "deepspeed", "train.py"], "expected `deepspeed [...] training/pretrain.py key=value ...`"),
        (["supervise", "retries=2", "deepspeed", "training/pretrain.py"], "unknown key 'retries'"),
        (["supervise", "deepspeed", "--launcher", "pdsh", "training/pretrain.py"], "--launcher: leave it out"),
        (["supervise", "deepspeed", "training/pretrain.py", "step=2"], "unknown key 'step'"),
    ],
)
def test_what_cannot_be_supervised_is_refused_before_any_host_is_reached(words, message):
    with Program([sys.executable, "-m", "molstream.cli.main", *words]) as program:
        code, output = program.end()
    assert code == 2
    assert message in output
    assert "Traceback" not in output


def torchrun(*words: str) -> list[str | Path]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*launcher, "--max-restarts", "2", "--monitor-interval", "0.5", "--", *words]


@pytest.mark.slow
def test_torchrun_restarts_a_job_whose_process_died(dataset, tmp_path, undisturbed):
    run_dir = tmp_path / "run"
    log = run_dir / "log.txt"
    with Program(torchrun(*command(dataset, run_dir)), TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1") as program:
        for count, step in enumerate((7, 14), 1):
            program.wait_for_step(run_dir, step)
            program.ranks()[0].kill()
            program.wait_until(lambda count=count: log.read_text().count("restored step") == count, "no restart")
        code, output = program.end()
    assert code == 0, output
    assert losses(run_dir) == undisturbed


@pytest.mark.slow
def test_a_torchrun_whose_restarts_would_fail_is_refused(dataset, tmp_path):
    with Program(torchrun(*command(dataset, tmp_path / "run"))) as program:
        code, output = program.end()
    assert code == 1
    assert "Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun" in output


def test_groups_that_deepspeed_makes_have_the_time_out_of_the_run():
    program = """
import deepspeed.comm, torch
from molstream.training.distributed.context import start_processes
start_processes(33)
group = deepspeed.comm.new_group([0])
print(group._get_backend(torch.device("cpu")).options._timeout.total_seconds())
"""
    with Program([sys.executable, "-c", program]) as process:
        code, output = process.end()
    assert code == 0, output
    assert output.splitlines()[-1] == "33.0"

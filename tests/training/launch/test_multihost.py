"""Training across hosts with addresses of their own, and on those that are left when one is cut off."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hosts import Hosts, what_lacks
from tests.support.processes import ENVIRONMENT, REPOSITORY, run_ranks
from tests.training.launch.test_life_cycle import Program
from tests.training.test_pretrain import arguments, losses

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(what_lacks()), reason=str(what_lacks()))]

STEPS = 40
LAUNCHER = [sys.executable, "-m", "deepspeed.launcher.runner"]


def command(dataset: Path, run_dir: Path, *more: str) -> list[str]:
    """A run that is long enough to lose hosts in, with records of every step at once."""
    return arguments(dataset, run_dir, f"steps={STEPS}", "log_every=1", "save_every=5", *more)


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    """The losses of the run on one process."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    run_ranks(1, command(dataset, run_dir))
    return losses(run_dir)


def hostfile(path: Path, slots: dict[str, int]) -> str:
    path.write_text("".join(f"{name} slots={number}\n" for name, number in slots.items()), encoding="utf-8")
    return str(path)


def test_the_launcher_trains_across_two_hosts(dataset, tmp_path, undisturbed):
    run_dir = tmp_path / "run"
    with Hosts(tmp_path / "hosts", 2) as hosts:
        slots = hostfile(tmp_path / "hostfile", {"node1": 1, "node2": 1})
        shared = ["--hostfile", slots, "--no_ssh", "--master_addr", "node1"]
        program = command(dataset, run_dir, "stop_at=8")
        processes = [
            subprocess.Popen(
                hosts.enter(name, [*LAUNCHER, *shared, "--node_rank", str(rank), *program]),
                cwd=REPOSITORY,
                env=ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank, name in enumerate(hosts.names)
        ]
        outputs = [process.communicate(timeout=1800)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "on 2 process(es)" in outputs[0]
    assert losses(run_dir) == {step: undisturbed[step] for step in range(1, 9)}


def test_a_job_goes_on_with_the_hosts_that_are_left_and_takes_back_those_that_return(dataset, tmp_path, undisturbed):
    run_dir = tmp_path / "run"
    log = run_dir / "log.txt"
    with Hosts(tmp_path / "hosts", 3) as hosts:
        shell = f"remote_shell={hosts.ssh}"
        own = [sys.executable, "-m", "molstream.cli.main", "supervise", shell, "host_timeout_s=24"]
        launcher = ["deepspeed", "--hostfile", hostfile(tmp_path / "hostfile", {"node1": 1, "node2": 1, "node3": 2})]
        with Program(hosts.enter("node1", [*own, *launcher, *command(dataset, run_dir)])) as program:
            program.wait_for_step(run_dir, 7)
            assert "on 4 process(es)" in log.read_text()
            hosts.unplug("node3")
            program.wait_until(lambda: "on 2 process(es)" in log.read_text(), "no start on two hosts")
            begun = log.read_text()
            assert "supervisor: lost node3: no sign of life for 24 s" in begun
            assert "supervisor: no answer from node3" in begun
            hosts.plug("node3")
            program.wait_until(lambda: "restored step" in log.read_text(), "no restoration")
            hosts.power_off("node2")
            program.wait_until(lambda: "lost node2" in log.read_text(), "the loss of node2 is not noticed")
            code, output = program.end()
    assert code == 0, output
    last = log.read_text().rpartition("supervisor: start ")[2]
    assert "2 process(es) on node1:0@node3:0" in last, last
    assert "1 of 3 slots stay idle: 2 share 4 lanes evenly" in output
    assert losses(run_dir) == undisturbed

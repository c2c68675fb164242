"""Training across hosts with addresses of their own, and on those that are left when one is cut off."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.hosts import Hosts, what_lacks
from tests.training.processes import ENVIRONMENT, REPOSITORY, run_ranks
from tests.training.test_life_cycle import Program, wait_for_step, wait_until
from tests.training.test_pretrain import arguments, losses

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(what_lacks()), reason=str(what_lacks()))]

STEPS = 60
LAUNCHER = [sys.executable, "-m", "deepspeed.launcher.runner"]


def command(dataset: Path, run_dir: Path, *more: str) -> list[str]:
    """Six lanes, which one, two and three hosts share evenly."""
    steps = ["data.lanes=6", "data.micro_batch=2", f"steps={STEPS}", "log_every=1", "save_every=5"]
    return arguments(dataset, run_dir, *steps, *more)


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    """The losses of the run on one process."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    run_ranks(1, command(dataset, run_dir))
    return losses(run_dir)


def same_curve(found: dict[int, tuple[float, ...]], expected: dict[int, tuple[float, ...]]) -> None:
    """Every step once, with the losses of its own molecules; an average over three processes rounds."""
    assert list(found) == list(expected)[: len(found)]
    for step, values in found.items():
        assert values == pytest.approx(expected[step], rel=1e-3), step


def hostfile(path: Path, hosts: Hosts) -> Path:
    path.write_text("".join(f"{name} slots=1\n" for name in hosts.names))
    return path


def test_the_launcher_trains_across_two_hosts(dataset, tmp_path, undisturbed):
    run_dir = tmp_path / "run"
    with Hosts(tmp_path / "hosts", 2) as hosts:
        shared = ["--hostfile", str(hostfile(tmp_path / "hostfile", hosts)), "--no_ssh", "--master_addr", "node1"]
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
        shell = f"remote_shell={shlex.quote(hosts.ssh)}"
        own = [sys.executable, "-m", "training.cli", "supervise", shell, "host_timeout_s=24"]
        launcher = ["deepspeed", "--hostfile", str(hostfile(tmp_path / "hostfile", hosts))]
        with Program(hosts.enter("node1", [*own, *launcher, *command(dataset, run_dir)])) as program:
            wait_for_step(run_dir, 7)
            hosts.unplug("node3")
            wait_until(lambda: "on 2 process(es)" in log.read_text(), "no start on two hosts")
            begun = log.read_text()
            assert "supervisor: lost node3: no sign of life for 24 s" in begun
            assert "supervisor: no answer from node3" in begun
            hosts.plug("node3")
            wait_until(lambda: "restored step" in log.read_text(), "no restoration")
            hosts.power_off("node2")
            wait_until(lambda: "lost node2" in log.read_text(), "the loss of node2 is not noticed")
            code, output = program.end()
    assert code == 0, output
    last = log.read_text().rpartition("supervisor: start ")[2]
    assert "2 process(es) on node1:0@node3:0" in last, last
    same_curve(losses(run_dir), undisturbed)
    assert len(losses(run_dir)) == STEPS

"""``molstream supervise deepspeed ...``: restarts a job of many hosts on the hosts that are reachable.

It connects to every host of the hostfile, distributes the lanes over the slots of the hosts that answer, and starts the
``deepspeed`` launcher on each. When a process fails or a host stops responding, it ends the job on all hosts and
restarts it from the newest checkpoint on the hosts that answer then. It reads the run's progress from its checkpoints,
not from exit codes.
"""

import argparse
import os
import secrets
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from molstream.compose import compose
from molstream.errors import ConfigError, TrainingError
from molstream.training.config import PretrainConfig
from molstream.training.distributed.signals import Stop, graceful_stop
from molstream.training.launch.config import SuperviseConfig
from molstream.training.launch.host_link import HostLink, watch
from molstream.training.launch.hostfile import (
    Slots,
    describe_slots,
    filter_slots,
    num_slots,
    read_hostfile,
    share_lanes,
)
from molstream.training.run.directory import COMMAND_VARIABLE, RunDirectory

PORTS = 100
"""Number of ports, from master_port on, that starts use in turn; leftovers of one start cannot join the next one."""
LONGEST_PAUSE_S = 60.0
"""Longest pause between starts, in seconds; it doubles with each start without a new checkpoint."""
LOCALHOST = "localhost"


@dataclass(frozen=True)
class Job:
    """A job as parsed from the command line: hosts, arguments of the launcher, program, and its configuration."""

    slots: Slots
    num_hosts: int | None
    """Number of answering hosts to use, the others being spare; None for all."""
    master_addr: str
    """Address of the first host of the hostfile; empty to detect it."""
    master_port: int | None
    """Port of the first start; later starts use the following ports. None for any free port."""
    ssh_port: int | None
    launcher: tuple[str, ...]
    program: tuple[str, ...]
    """training/pretrain.py and its arguments."""
    pretrain: PretrainConfig


def parse_command(words: Sequence[str]) -> Job:
    """Read a command line ``[deepspeed's arguments] .../pretrain.py [key=value ...]``.

    Raises:
        ConfigError: pretrain.py is missing, an argument of the launcher is reserved for the supervisor, or the
            configuration of the run is invalid.
    """
    place = next((k for k, word in enumerate(words) if Path(word).name == "pretrain.py"), None)
    if place is None:
        raise ConfigError(
            f"expected `deepspeed [...] training/pretrain.py key=value ...`, got: {shlex.join(words) or 'nothing'}."
        )
    parser = argparse.ArgumentParser("deepspeed", allow_abbrev=False, add_help=False)
    parser.add_argument("-H", "--hostfile", type=Path)
    parser.add_argument("-i", "--include", default="")
    parser.add_argument("-e", "--exclude", default="")
    parser.add_argument("--num_nodes", type=int)
    parser.add_argument("--num_gpus", "--num_accelerators", type=int, dest="per_host")
    parser.add_argument("--master_addr", default="")
    parser.add_argument("--master_port", type=int)
    parser.add_argument("--ssh_port", type=int)
    parser.add_argument("--log_level", default="warning")
    for flag in ("--no_ssh_check", "--force_multi"):  # implied: every host is reached before anything starts
        parser.add_argument(flag, action="store_true")
    own, rest = parser.parse_known_args(words[:place])
    refused = {"--launcher", "--launcher_args", "--no_ssh", "--node_rank", "--autotuning", "--save_pid"}
    if found := sorted(refused & {word.partition("=")[0] for word in rest}):
        raise ConfigError(f"{', '.join(found)}: leave it out; the supervisor starts the launcher on every host itself.")
    slots = {LOCALHOST: _local_slots(own.per_host)} if own.hostfile is None else read_hostfile(own.hostfile)
    return Job(
        slots=filter_slots(slots, own.include, own.exclude, own.per_host),
        num_hosts=own.num_nodes,
        master_addr=own.master_addr,
        master_port=own.master_port,
        ssh_port=own.ssh_port,
        launcher=(f"--log_level={own.log_level}", *rest),
        program=tuple(words[place:]),
        pretrain=compose("pretrain", PretrainConfig, words[place + 1 :]),
    )


def _local_slots(number: int | None) -> list[int]:
    """Slots of this machine by the launcher's rules; one slot if it has no accelerator."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if number is None and all(name.isdigit() for name in visible):
        return [int(name) for name in visible]
    return list(range(number or torch.cuda.device_count() or 1))


class Supervisor:
    """Starts a job repeatedly until its run is done.

    Args:
        config: how hosts are reached and when to give up.
        job: from :func:`parse_command`.
        command: the whole command line, which the job prints as the command that resumes it.
    """

    def __init__(self, config: SuperviseConfig, job: Job, command: str):
        self._config, self._job, self._command = config, job, command
        self._run = RunDirectory(job.pretrain.run_dir)
        self._store = self._run.checkpoints(job.pretrain)
        self._mark = secrets.token_hex(16)
        self._starts = 0

    def run(self) -> int:
        """Start and restart the job until it ends.

        Returns:
            Exit code: 0 the run is done, 2 its configuration is refused, 130 stopped by a signal.

        Raises:
            TrainingError: too many consecutive starts ended without a newer checkpoint.
        """
        pretrain = self._job.pretrain
        last = min(pretrain.steps, pretrain.stop_at or pretrain.steps)
        fruitless = 0
        with graceful_stop() as stop:
            while True:
                before = self._step()
                code = self._start_once(stop)
                step = self._step()
                if code == 2:
                    return 2
                if step >= last:
                    return 0
                if stop.requested:
                    self._say(f"stopped by a signal; the newest checkpoint is of step {step}: {self._command}")
                    return 130
                fruitless = 0 if step > before else fruitless + 1
                if fruitless > self._config.restarts:
                    raise TrainingError(
                        f"{fruitless} starts in a row ended without a checkpoint after step {step} of {last} in "
                        f"{self._store.where}. Fix the errors above and run the same command again to resume."
                    )
                pause = min(2.0**fruitless, LONGEST_PAUSE_S)
                self._say(f"restarting from step {step} of {last} in {pause:.0f} s")
                _sleep(pause, stop)

    def _step(self) -> int:
        """Step of the newest checkpoint; 0 if there is none."""
        return max(self._store.steps(), default=0)

    def _start_once(self, stop: Stop) -> int:
        """Start the job on the hosts that answer and wait for its end.

        Returns:
            Exit code of the launcher that failed first; 0 if none failed, 1 if the job could not start.
        """
        links = [self._link(host) for host in self._job.slots]
        try:
            watch(links, lambda: stop.requested or all(link.answered or link.lost for link in links))
            chosen = self._choose([link for link in links if link.answered and not link.lost])
            if stop.requested or not chosen:
                return 1
            members = [link for link in links if link.host in chosen]
            for link in links:
                if link not in members:
                    link.close()
            self._order_start(members, chosen)
            return self._watch(members, stop)
        finally:
            for link in links:
                link.close()
            for link in links:
                link.wait_closed()

    def _link(self, host: str) -> HostLink:
        shell = [] if host == LOCALHOST else shlex.split(self._config.remote_shell)
        if shell and self._job.ssh_port is not None:
            shell += ["-p", str(self._job.ssh_port)]
        try:
            return HostLink(host, [*shell, host] if shell else [], self._mark, self._config.host_timeout_s)
        except FileNotFoundError as error:
            raise ConfigError(f"remote_shell={self._config.remote_shell}: {shell[0]} is not installed here.") from error

    def _choose(self, links: Sequence[HostLink]) -> Slots:
        """Select the slots for the job; logs the hosts that did not answer and the number of idle slots."""
        slots, lanes = self._job.slots, self._job.pretrain.data.lanes
        answered = [link.host for link in links]
        if silent := [host for host in slots if host not in answered]:
            self._say(f"no answer from {', '.join(silent)}")
        usable = {host: slots[host] for host in answered[: self._job.num_hosts]}
        chosen = share_lanes(usable, lanes)
        if idle := num_slots(usable) - num_slots(chosen):
            self._say(f"{idle} of {num_slots(usable)} slots stay idle: {num_slots(chosen)} share {lanes} lanes evenly")
        return chosen

    def _order_start(self, members: Sequence[HostLink], chosen: Slots) -> None:
        """Start the launcher on each host, with one address and port for all."""
        first = next(iter(self._job.slots))
        if len(members) == 1:
            address = "127.0.0.1"
        else:
            address = (self._job.master_addr if members[0].host == first else "") or members[0].address
        first_port = self._job.master_port
        port = members[0].free_port if first_port is None else first_port + self._starts % PORTS
        self._starts += 1
        where = f"{describe_slots(chosen)}, first at {address}:{port}"
        self._say(f"start {self._starts}: {num_slots(chosen)} process(es) on {where}")
        for rank, link in enumerate(members):
            launcher = [sys.executable, "-u", "-m", "deepspeed.launcher.runner", "--hostfile", "{hostfile}"]
            placing = ["--include", describe_slots(chosen), "--no_ssh", "--node_rank", str(rank)]
            master = ["--master_addr", address, "--master_port", str(port)]
            link.start(
                [*launcher, *placing, *master, *self._job.launcher, *self._job.program],
                hostfile="".join(f"{host} slots={max(own) + 1}\n" for host, own in chosen.items()),
                environment={**_environment(), COMMAND_VARIABLE: self._command},
            )

    def _watch(self, members: Sequence[HostLink], stop: Stop) -> int:
        """Wait until every launcher has ended, or until one has failed and the others have had time to report errors.

        Returns:
            Exit code of the launcher that failed first; 1 if its host is lost, 0 if none failed.
        """
        passed_on = False

        def over() -> bool:
            nonlocal passed_on
            if stop.requested and not passed_on:
                passed_on = True
                self._say("stop requested by a signal: sent SIGTERM to every rank")
                for link in members:
                    link.stop()
            return any(link.lost or link.exit_code for link in members) or all(
                link.exit_code is not None for link in members
            )

        watch(members, over)
        failed = next((link for link in members if link.lost or link.exit_code), None)
        if failed is None:
            return 0
        if failed.lost:
            self._say(f"lost {failed.host}: {failed.lost}")
            return 1
        # The other launchers end by themselves, with error messages of their own: wait for these.
        deadline = time.monotonic() + self._config.host_timeout_s
        watch(members, lambda: all(m.lost or m.exit_code is not None for m in members) or time.monotonic() > deadline)
        self._say(f"the launcher on {failed.host} ended with exit code {failed.exit_code}")
        assert failed.exit_code is not None
        return failed.exit_code

    def _say(self, text: str) -> None:
        line = f"supervisor: {text}"
        if self._run.path.is_dir():
            self._run.log(line)
        else:
            print(line, file=sys.stderr, flush=True)


FORWARDED = ("PATH", "PYTHON", "LD_LIBRARY", "DS_", "OMP_", "MKL_", "TORCH", "NCCL", "GLOO", "UCX", "MV2", "MLFLOW")
"""Prefixes of the environment variables that are sent to hosts: the launcher's, and those that CPU runs need."""


def _environment() -> dict[str, str]:
    """Environment of the job: variables with these prefixes, and those in the launcher's file .deepspeed_env."""
    variables = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)}
    for folder in (Path.home(), Path.cwd()):
        file = folder / os.environ.get("DS_ENV_FILE", ".deepspeed_env")
        if file.is_file():
            # Surrogates stand for bytes that are no text, as in os.environ.
            lines = file.read_text("utf-8", "surrogateescape").splitlines()
            pairs = (line.partition("=") for line in lines if "=" in line)
            variables |= {name.strip(): value.strip() for name, _, value in pairs}
    return variables


def _sleep(seconds: float, stop: Stop) -> None:
    """Sleep, but return early if a stop is requested."""
    deadline = time.monotonic() + seconds
    while not stop.requested and time.monotonic() < deadline:
        time.sleep(0.2)

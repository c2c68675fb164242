"""The agent that ``molstream supervise`` runs on every host of a job: it starts, watches and ends the launcher there.

It reads lines of JSON from stdin: ``{"start": {...}}``, ``{"signal": number}``, and the heartbeat ``{}``. It writes to
stdout: ``{"hello": {"address": ..., "port": ...}}``, ``{"exit": code}``, and the heartbeat ``{}``. When stdin ends, or
no line comes for some seconds, it ends the job on its host, so that a host that is cut off does not continue alone. The
output of the job goes to stderr.

The agent finds the processes of a job by the mark, a random number in an environment variable that they inherit. So it
finds processes of an earlier agent that was killed, and signals no process of anybody else. It uses the standard
library only, because it is run by path, ``python -I host_agent.py MARK SILENCE_S``, where molstream cannot be imported.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

MARK = "MOLSTREAM_JOB"
SIGN_OF_LIFE_S = 2.0
"""Seconds between heartbeats."""
PATIENCE_S = 20.0
"""Seconds to wait for killed processes to end; processes that wait for a dead file system do not."""


class HostAgent:
    """The agent of one host.

    Args:
        mark: value of the environment variable ``MARK`` of all processes of the job, on every host and in every start.
        silence_s: seconds without a line from the supervisor after which the agent ends the job on this host.
    """

    def __init__(self, mark: str, silence_s: float):
        self._mark, self._silence_s = mark, silence_s
        self._job: subprocess.Popen[bytes] | None = None
        self._stop_signal: int | None = None
        self._signalled: set[int] = set()

    def serve(self) -> int:
        """Handle orders until stdin ends or falls silent, then end the job.

        Returns:
            Exit code: 0 if no process of the job is left on this host, else 1.
        """
        # An earlier agent of this job may have been killed and have left processes.
        if not self._end():
            return self._cannot_end()
        _tell({"hello": {"address": _address(), "port": _free_port()}})
        for line in self._lines():
            order = json.loads(line)
            if "start" in order:
                self._start(**order["start"])
            elif "signal" in order:
                self._stop_signal = order["signal"]
                self._signal_ranks(order["signal"])
        return 0 if self._end() else self._cannot_end()

    def _lines(self) -> Iterator[bytes]:
        """Yield the supervisor's lines; meanwhile send heartbeats and the launcher's exit code."""
        heard = told = time.monotonic()
        pending = b""
        while True:
            readable, _, _ = select.select([0], [], [], 0.2)
            now = time.monotonic()
            if readable:
                data = os.read(0, 1 << 16)
                if not data:
                    return
                heard = now
                *lines, pending = (pending + data).split(b"\n")
                yield from lines
            elif now - heard > self._silence_s:
                print(
                    f"host agent: no message from the supervisor for {self._silence_s:.0f} s, ending the job",
                    file=sys.stderr,
                )
                return
            if self._job is not None and (code := self._job.poll()) is not None:
                _tell({"exit": code if code >= 0 else 128 - code})
                self._job = None
            elif now - told > SIGN_OF_LIFE_S:
                _tell({})
                told = now
                if self._stop_signal is not None:
                    self._signal_ranks(self._stop_signal)

    def _start(self, command: list[str], folder: str, environment: dict[str, str], hostfile: str) -> None:
        """Start the launcher.

        Args:
            command: the launcher's command line, in which ``{hostfile}`` is replaced by the path of the hostfile.
            folder: working directory.
            environment: variables that are added to this process's own.
            hostfile: content of the hostfile, which is written to a temporary file.
        """
        self._hostfile = tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="molstream-hostfile-")  # noqa: SIM115
        self._hostfile.write(hostfile)
        self._hostfile.flush()
        self._job = subprocess.Popen(
            [self._hostfile.name if word == "{hostfile}" else word for word in command],
            cwd=folder,
            env={**os.environ, **environment, MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
        )

    def _signal_ranks(self, number: int) -> None:
        """Send a signal to every rank that has not had it; called again for ranks that start later."""
        # The launcher gets no signal: it would kill the ranks after 30 s, and saving may take longer.
        for pid, process in self._processes():
            is_rank = b"RANK" in _environment(pid) and b"RANK" not in _environment(_parent(pid))
            if is_rank and pid not in self._signalled:
                self._signalled.add(pid)
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process, number)

    def _end(self) -> bool:
        """Kill all processes of the job on this host; returns whether all have ended."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            found = False
            for _, process in self._processes():
                found = True
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
            if not found:
                return True
            time.sleep(0.05)
        return False

    def _cannot_end(self) -> int:
        """Report processes that do not end; returns exit code 1."""
        pids = [pid for pid, _ in self._processes()]
        print(f"host agent: processes {pids} of the job cannot be killed; this host is not used", file=sys.stderr)
        return 1

    def _processes(self) -> Iterator[tuple[int, int]]:
        """Yield process id and pidfd of every process with the mark; the pidfd is closed afterwards."""
        for name in os.listdir("/proc"):
            if name.isdigit():
                with _descriptor(int(name)) as process:
                    # Read the environment after the pidfd is open: it then belongs to the process that is signalled.
                    if process is not None and _environment(int(name)).get(MARK.encode()) == self._mark.encode():
                        yield int(name), process


@contextmanager
def _descriptor(pid: int) -> Iterator[int | None]:
    """Open the pidfd of a process; None if the process has ended."""
    try:
        process = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield process
    finally:
        os.close(process)


def _environment(pid: int) -> dict[bytes, bytes]:
    """The environment that a process was started with; empty if it has ended or belongs to another user."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return dict(entry.split(b"=", 1) for entry in file.read().split(b"\0") if b"=" in entry)
    except OSError:
        return {}


def _parent(pid: int) -> int:
    """Process id of a process's parent; 0 if the process has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _address() -> str:
    """Address of this host for the other hosts: the one of the supervisor's SSH connection, or else the first one."""
    came_by = os.environ.get("SSH_CONNECTION", "").split()
    if len(came_by) == 4 and not came_by[2].startswith("127."):
        return came_by[2]
    own = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
    return own[0] if own else "127.0.0.1"


def _free_port() -> int:
    """A TCP port of this host on which nothing listens."""
    with socket.socket() as server:
        server.bind(("", 0))
        return server.getsockname()[1]


def _tell(message: dict[str, Any]) -> None:
    # If the supervisor has ended, stdin ends too or falls silent.
    with suppress(OSError):
        os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    # The supervisor handles signals of the terminal; the agent ends when stdin does. The job would inherit SIG_IGN, but
    # not a handler.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    sys.exit(HostAgent(sys.argv[1], float(sys.argv[2])).serve())

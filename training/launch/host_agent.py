"""What ``molstream supervise`` runs on every host of a job: starts the launcher there, watches it, and ends it.

It obeys lines of JSON on stdin: ``{"start": {...}}``, ``{"signal": number}``, and ``{}``, a sign of life; it answers on
stdout: ``{"hello": {"address": ..., "port": ...}}``, ``{"exit": code}``, and ``{}``. When stdin ends or is silent for
some seconds, it ends the job on its host: a host that is cut off does not go on alone. What the job prints goes to
stderr.

Processes of a job are known by the mark, a random number that they inherit in their environment, so that those of an
agent that was killed are found as well, and nothing else is ever signalled. The standard library alone is used, for
this is run by path, ``python -I host_agent.py MARK SILENCE_S``, where nothing of molstream is on the path yet.
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
PATIENCE_S = 20.0
"""How long killed processes may take to be gone; those that wait for a dead file system never are."""


class HostAgent:
    """The agent of one host.

    Args:
        mark: value of the environment variable ``MARK`` of all processes of the job, on every host and at every start.
        silence_s: seconds without a word from the supervisor after which the job here is ended.
    """

    def __init__(self, mark: str, silence_s: float):
        self._mark, self._silence_s = mark, silence_s
        self._job: subprocess.Popen[bytes] | None = None
        self._stop_signal: int | None = None
        self._signalled: set[int] = set()

    def serve(self) -> int:
        """Obey until stdin ends or falls silent; 0 when nothing of the job is left on this host."""
        # A former agent of this job may have been killed here, and have left its processes.
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
        """The supervisor's lines; between them, signs of life and the end of the launcher are told."""
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
                print(f"host agent: no word from the supervisor for {self._silence_s:.0f} s", file=sys.stderr)
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
        """Start the launcher; ``{hostfile}`` in its command stands for a file with that content."""
        self._hostfile = tempfile.NamedTemporaryFile("w", prefix="molstream-hostfile-")  # noqa: SIM115
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
        """Signal every rank once, those too that the launcher has yet to start."""
        # Not the launcher: that would kill after 30 s what may need longer to save.
        for pid, process in self._processes():
            is_rank = b"RANK" in _environment(pid) and b"RANK" not in _environment(_parent(pid))
            if is_rank and pid not in self._signalled:
                self._signalled.add(pid)
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process, number)

    def _end(self) -> bool:
        """Kill all processes of the job on this host; whether they are gone."""
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
        pids = [pid for pid, _ in self._processes()]
        print(f"host agent: processes {pids} of the job do not end; this host is not used", file=sys.stderr)
        return 1

    def _processes(self) -> Iterator[tuple[int, int]]:
        """Process id and descriptor of every process that carries the mark; the descriptor is closed afterwards."""
        for name in os.listdir("/proc"):
            if name.isdigit():
                with _descriptor(int(name)) as process:
                    # Read after the descriptor was opened: so what is signalled is what was looked at.
                    if process is not None and _environment(int(name)).get(MARK.encode()) == self._mark.encode():
                        yield int(name), process


@contextmanager
def _descriptor(pid: int) -> Iterator[int | None]:
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
    """The environment that a process was started with; empty where it has ended or is another user's."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return dict(entry.split(b"=", 1) for entry in file.read().split(b"\0") if b"=" in entry)
    except OSError:
        return {}


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _address() -> str:
    """The address by which the other hosts reach this one: the one that the supervisor came by, or the first."""
    came_by = os.environ.get("SSH_CONNECTION", "").split()
    if len(came_by) == 4 and not came_by[2].startswith("127."):
        return came_by[2]
    own = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
    return own[0] if own else "127.0.0.1"


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("", 0))
        return server.getsockname()[1]


def _tell(message: dict[str, Any]) -> None:
    # The supervisor may be gone; then stdin has ended too, or will fall silent.
    with suppress(OSError):
        os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    # What the terminal and the connection send is the supervisor's affair; here the end of stdin decides. Not SIG_IGN:
    # the job would inherit that.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    sys.exit(HostAgent(sys.argv[1], float(sys.argv[2])).serve())

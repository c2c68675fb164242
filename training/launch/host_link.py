"""The supervisor's end of the connection to a host: one agent there, lines of JSON both ways."""

import json
import os
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from molstream.training.launch.host_agent import PATIENCE_S, SIGN_OF_LIFE_S

AGENT = Path(__file__).with_name("host_agent.py")


class HostLink:
    """One host of a job.

    Args:
        host: its name in the hostfile.
        shell: command that runs a command on it; nothing for this machine itself.
        mark: of the job's processes, see :mod:`molstream.training.launch.host_agent`.
        timeout_s: seconds of silence after which the host is lost; its agent ends the job there after two thirds.
    """

    def __init__(self, host: str, shell: Sequence[str], mark: str, timeout_s: float):
        self.host = host
        self.address = ""
        """By which the other hosts reach it; known when it has answered."""
        self.free_port = 0
        """Of that host, when it answered."""
        self.exit_code: int | None = None
        """Of the launcher there, when it has ended."""
        self.lost = ""
        """Why the host can no longer be used, or nothing."""
        agent = [sys.executable, "-I", "-u", str(AGENT), mark, str(timeout_s * 2 / 3)]
        # A session of its own: a Ctrl-C at the terminal is for the supervisor, which asks the processes to save.
        self._process = subprocess.Popen(
            [*shell, *(shlex.quote(word) for word in agent)] if shell else agent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self.answers = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._timeout_s, self._heard, self._told = timeout_s, time.monotonic(), time.monotonic()
        self._pending = b""

    @property
    def answered(self) -> bool:
        """Whether the agent is there, and nothing of an older start of the job is."""
        return bool(self.address)

    def start(self, command: Sequence[str], *, hostfile: str, environment: dict[str, str]) -> None:
        """Start the launcher in this folder; ``{hostfile}`` in its command stands for a file of that content."""
        start = {"command": command, "folder": os.getcwd(), "environment": environment, "hostfile": hostfile}
        self._tell({"start": start})

    def stop(self) -> None:
        """Ask the processes of the job to save and end."""
        self._tell({"signal": signal.SIGTERM})

    def read(self) -> None:
        """Take in what the agent has said; call when ``answers`` is readable."""
        data = os.read(self.answers, 1 << 16)
        if not data:
            self.lost = self.lost or "the connection ended"
        self._heard = time.monotonic()
        *lines, self._pending = (self._pending + data).split(b"\n")
        # What the host's login scripts print comes by the same way.
        for line in (line for line in lines if line.startswith(b"{")):
            message = json.loads(line)
            if hello := message.get("hello"):
                self.address, self.free_port = hello["address"], hello["port"]
            self.exit_code = message.get("exit", self.exit_code)

    def tick(self) -> None:
        """Give a sign of life, and notice that the other side gives none."""
        now = time.monotonic()
        if now - self._heard > self._timeout_s:
            self.lost = self.lost or f"no sign of life for {self._timeout_s:.0f} s"
        elif now - self._told > SIGN_OF_LIFE_S:
            self._tell({})

    def _tell(self, message: dict[str, Any]) -> None:
        self._told = time.monotonic()
        try:
            os.write(self._orders, json.dumps(message).encode() + b"\n")
        except OSError:
            self.lost = self.lost or "the connection ended"

    def close(self) -> None:
        """End what runs there; the agent does so when its stdin ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait_closed(self) -> None:
        """Wait until the agent has ended the job there and is gone; a host that is lost is not waited for."""
        try:
            self._process.wait(0.0 if self.lost else PATIENCE_S + SIGN_OF_LIFE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def watch(links: Sequence[HostLink], over: Callable[[], bool]) -> None:
    """Listen to hosts, and give them signs of life, until ``over()``."""
    with selectors.DefaultSelector() as selector:
        for link in links:
            selector.register(link.answers, selectors.EVENT_READ, link)
        while not over():
            for key, _ in selector.select(timeout=0.2):
                key.data.read()
                if key.data.lost:
                    selector.unregister(key.fd)
            for link in links:
                if not link.lost:
                    link.tick()

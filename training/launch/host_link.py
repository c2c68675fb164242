"""The supervisor's connection to the agent of one host, over which both send lines of JSON."""

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
    """Connection to the agent of one host of a job, which the constructor starts.

    Args:
        host: name of the host in the hostfile. shell: command that runs a command on the host, such as ssh; empty for
        this machine. mark: marks the job's processes, see :mod:`molstream.training.launch.host_agent`. timeout_s:
        seconds without a message after which the host counts as lost; its agent ends the job after two thirds
            of them.
    """

    def __init__(self, host: str, shell: Sequence[str], mark: str, timeout_s: float):
        self.host = host
        self.address = ""
        """Address for the other hosts; empty until the agent has answered."""
        self.free_port = 0
        """A port that was free on the host when its agent answered; 0 until then."""
        self.exit_code: int | None = None
        """Exit code of the launcher on the host; None while it runs."""
        self.lost = ""
        """Why the host can no longer be used; empty if it can."""
        agent = [sys.executable, "-I", "-u", str(AGENT), mark, str(timeout_s * 2 / 3)]
        # In its own session, so that Ctrl-C at the terminal reaches the supervisor only, which asks the ranks to save.
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
        """Whether the agent runs and has ended all processes of earlier starts of the job."""
        return bool(self.address)

    def start(self, command: Sequence[str], *, hostfile: str, environment: dict[str, str]) -> None:
        """Start the launcher, in the same working directory as this process.

        Args:
            command: the launcher's command line, in which ``{hostfile}`` is replaced by the path of the hostfile.
            hostfile: content of the hostfile.
            environment: variables that are added to the agent's own.
        """
        start = {"command": command, "folder": os.getcwd(), "environment": environment, "hostfile": hostfile}
        self._tell({"start": start})

    def stop(self) -> None:
        """Send SIGTERM to the ranks on the host, which makes them save and end."""
        self._tell({"signal": signal.SIGTERM})

    def read(self) -> None:
        """Read and handle the agent's messages; call when ``answers`` is readable."""
        data = os.read(self.answers, 1 << 16)
        if not data:
            self.lost = self.lost or "the connection ended"
        self._heard = time.monotonic()
        *lines, self._pending = (self._pending + data).split(b"\n")
        # Other lines are output of the host's login scripts.
        for line in (line for line in lines if line.startswith(b"{")):
            message = json.loads(line)
            if hello := message.get("hello"):
                self.address, self.free_port = hello["address"], hello["port"]
            self.exit_code = message.get("exit", self.exit_code)

    def tick(self) -> None:
        """Send a heartbeat if one is due, and mark the host as lost if its heartbeats stopped."""
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
        """Close the agent's stdin, which makes it end the job on the host."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait_closed(self) -> None:
        """Wait until the agent has ended, unless the host is lost; then kill the connection."""
        try:
            self._process.wait(0.0 if self.lost else PATIENCE_S + SIGN_OF_LIFE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def watch(links: Sequence[HostLink], over: Callable[[], bool]) -> None:
    """Handle messages of hosts and send heartbeats until ``over()`` returns True."""
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

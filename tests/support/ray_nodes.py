"""A Ray cluster of several nodes on one machine, started by `ray start` as real processes that tests can kill.

The nodes differ in loopback address, folder and ports. Processes of a node, including workers and their sandboxes, are
identified by an inherited environment variable; no other processes are ever signalled.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.support.datasets import REPOSITORY

MARK = "MOLSTREAM_TEST_PROCESS"
GONE_S = 60.0
"""Seconds to wait for processes that are about to end."""
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


class RayNodes:
    """A head (node 0) and further nodes, with one core each; as context manager it leaves no processes or files."""

    def __init__(self, count: int):
        self._count, self.token = count, secrets.token_hex(8)
        self._ports = {name: _free_port() for name in ("gcs", "client", "dashboard")}
        self._starting: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        """Address of the head for ``ray.address``; it does not change at a restart."""
        return f"{_ip(0)}:{self._ports['gcs']}"

    def __enter__(self) -> "RayNodes":
        # Short, because the paths of Ray's sockets have a maximum length.
        self._folder = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for starting in self._starting.values():
            starting.kill()
            starting.wait()
        kill_all(f"{self.token}-")
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start all nodes and wait for them."""
        self.start_node(0)
        self.wait_started()
        for node in range(1, self._count):
            self.start_node(node)
        self.wait_started()

    def start_node(self, node: int) -> None:
        """Start a node in the background; :meth:`wait_started` waits for it."""
        role = [f"--address={self.address}", "--include-log-monitor=false"]
        if node == 0:
            role = ["--head", *(f"--{option}={port}" for option, port in self._head_ports().items())]
        shared = [f"--node-ip-address={_ip(node)}", "--num-cpus=1", f"--object-store-memory={80 << 20}"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *role, *shared]
        # To a file, not a pipe: the node's processes keep it open while they live.
        with (self._folder / f"{node}.log").open("ab") as log:
            self._starting[node] = subprocess.Popen(
                [*command, f"--temp-dir={self._folder / str(node)}"],
                env=self.environment(str(node)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_started(self) -> None:
        """Wait until every node that is being started runs."""
        for node, starting in list(self._starting.items()):
            assert starting.wait(120) == 0, (self._folder / f"{node}.log").read_text()
            del self._starting[node]

    def environment(self, name: str) -> dict[str, str]:
        """Environment of a process called ``name`` that belongs to this cluster."""
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
            MARK: f"{self.token}-{name}",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
            # Otherwise Ray writes a token to the user's home.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token * 4,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",
            # Otherwise the first driver waits for the first workers, forever if one dies at start (ray#40131).
            "RAY_prestart_worker_first_driver": "0",
            # Time until the death of a node is detected by the head, and that of the head by all nodes.
            "RAY_health_check_period_ms": "1000",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
        }

    def alive(self) -> list[int]:
        """Numbers of the nodes that have a process and are not being started."""
        busy = [node for node, starting in self._starting.items() if starting.poll() is None]
        return [k for k in range(self._count) if k not in busy and processes(f"{self.token}-{k}")]

    def workers(self) -> list[int]:
        """Process ids of Ray's workers on all nodes."""
        found = processes(f"{self.token}-")
        return [pid for pid, command in found.items() if command.startswith("ray::") and command not in AGENTS]

    def sandboxes(self) -> list[int]:
        """Process ids of the workers' sandbox children."""
        found = processes(f"{self.token}-")
        return [pid for pid, command in found.items() if "molstream.pipeline.sandbox.child" in command]

    def kill_node(self, node: int) -> None:
        """SIGKILL every process of a node."""
        kill_all(f"{self.token}-{node}")

    def bury(self) -> None:
        """Wait after the death of the head until the other nodes have ended by themselves."""
        for starting in self._starting.values():
            starting.wait(120)
        self._starting.clear()
        end = time.monotonic() + GONE_S
        while time.monotonic() < end and any(processes(f"{self.token}-{k}") for k in range(self._count)):
            time.sleep(0.1)
        for node in range(self._count):
            self.kill_node(node)

    def _head_ports(self) -> dict[str, int]:
        return {
            "port": self._ports["gcs"],
            "ray-client-server-port": self._ports["client"],
            "dashboard-port": self._ports["dashboard"],
        }


def processes(mark: str) -> dict[int, str]:
    """List the living processes whose mark begins with ``mark``: command lines by process id."""
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            # It may have ended meanwhile, or belong to another user; zombies have no environment.
            with suppress(OSError):
                if any(entry.startswith(wanted) for entry in (folder / "environ").read_bytes().split(b"\0")):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return found


def kill_all(mark: str) -> None:
    """SIGKILL every process whose mark begins with ``mark``, and those that it starts meanwhile."""
    while found := processes(mark):
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _ip(node: int) -> str:
    # Not 127.0.0.1, which Ray replaces with the address of the machine.
    return f"127.0.0.{node + 2}"


def _free_port() -> int:
    with socket.socket() as server:
        server.bind((_ip(0), 0))
        return server.getsockname()[1]

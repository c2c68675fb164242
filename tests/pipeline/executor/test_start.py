"""A Ray that starts on this machine: who can reach it, a start that hangs, a start that is interrupted."""

import http.client
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.datasets import REPOSITORY
from tests.support.local_ray import local_ray
from tests.support.ray_nodes import MARK, kill_all, processes

SECONDS = 20.0
"""Time that an interrupted command may take on a busy machine; Ray itself would take up to a minute."""
WAIT_S = 120.0
"""Time that an agent of Ray may take to start on a busy machine."""


def listening() -> list[tuple[str, int, str]]:
    """Address, port and process of every TCP socket that this process or a descendant listens on."""
    children: dict[int, list[int]] = {}
    for pid, parent in re.findall(r"(\d+) +(\d+)", subprocess.run(["ps", "-eo", "pid,ppid"], **PIPES).stdout):
        children.setdefault(int(parent), []).append(int(pid))
    family, waiting = set[int](), [os.getpid()]
    while waiting:
        family.add(pid := waiting.pop())
        waiting += children.get(pid, [])
    found = []
    for line in subprocess.run(["ss", "-ltnpH"], **PIPES).stdout.splitlines():
        if family & set(map(int, re.findall(r"pid=(\d+)", line))):
            address, port = line.split()[3].rsplit(":", 1)
            found.append((address, int(port), line.split('"')[1]))
    return found


PIPES = {"capture_output": True, "text": True, "check": True}


def test_a_local_ray_is_for_this_machine_and_user_alone():
    with local_ray(num_cpus=2):
        import ray

        folder = Path(ray._private.worker._global_node.get_session_dir_path()).parents[1]
        assert folder.stat().st_mode & 0o077 == 0
        # The agent of runtime environments opens its port some time after Ray has started.
        deadline = time.monotonic() + WAIT_S
        while ("ray::RuntimeEnv", 401) not in answers() and time.monotonic() < deadline:
            time.sleep(0.2)
        found = listening()
        assert {name for _, _, name in found} > {"raylet", "gcs_server", "ray::RuntimeEnv"}
        assert [entry for entry in found if entry[0].strip("[]") not in ("127.0.0.1", "::ffff:127.0.0.1", "::1")] == []
        # The dashboard's agent does without its port where another Ray of this machine has it. The ports of gRPC have
        # no HTTP status for this; those of metrics, which take no token, know no such method.
        assert ("ray::RuntimeEnv", 401) in answers()
        assert {status for _, status in answers()} <= {401, 405, None}
    assert not folder.exists()


def answers() -> set[tuple[str, int | None]]:
    """The processes that listen, and what they answer a stranger without a token."""
    return {(name, status(port)) for _, port, name in listening()}


def status(port: int) -> int | None:
    """HTTP status for a stranger who asks for a runtime environment, or wants to run something."""
    url = f"http://127.0.0.1:{port}/get_or_create_runtime_env"
    try:
        with urllib.request.urlopen(url, data=b"", timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return None


@contextmanager
def started(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The command, on a molecule, all processes of which are marked by the folder's name."""
    (folder / "one.smi").write_text("CCO\n")
    command = [sys.executable, "preprocess", f"input={folder / 'one.smi'}", f"output={folder / 'output'}"]
    environment = {**os.environ, MARK: folder.name}
    try:
        with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True) as job:
            yield job
    finally:
        kill_all(folder.name)


def stop(job: subprocess.Popen[str], mark: str, program: str) -> None:
    """Stop a process of Ray as soon as it is there."""
    while not (found := [pid for pid, command in processes(mark).items() if f"/{program} " in command]):
        assert job.poll() is None
        time.sleep(0.01)
    os.kill(found[0], signal.SIGSTOP)


@pytest.mark.slow
def test_a_ray_that_does_not_come_up_is_started_again(tmp_path):
    """Its first raylet is stopped as soon as it is there; Ray waits half a minute for it."""
    with started(tmp_path) as job:
        stop(job, tmp_path.name, "raylet/raylet")
        printed = job.communicate(timeout=240)[1]
    assert job.returncode == 0, printed
    assert re.search(r"^Ray has not started in \d+ s, as happens on a busy machine: attempt 2 of 4$", printed, re.M)
    assert processes(tmp_path.name) == {}


@pytest.mark.parametrize(
    ("program", "number"),
    [
        ("gcs/gcs_server", signal.SIGTERM),
        pytest.param("gcs/gcs_server", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("raylet/raylet", signal.SIGTERM, marks=pytest.mark.slow),
        ("raylet/raylet", signal.SIGINT),
    ],
)
def test_an_interrupt_while_ray_starts_ends_in_seconds_and_leaves_nothing(tmp_path, program, number):
    with started(tmp_path) as job:
        stop(job, tmp_path.name, program)
        time.sleep(1)
        begun = time.monotonic()
        job.send_signal(number)
        printed = job.communicate(timeout=120)[1]
        took = time.monotonic() - begun
        left = processes(tmp_path.name)
    assert job.returncode == 130, printed
    assert took < SECONDS
    assert "interrupted" in printed
    assert "Traceback" not in printed
    assert left == {}

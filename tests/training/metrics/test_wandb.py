"""The W&B logger in offline mode with the real client: what is in its files is what `wandb sync` uploads."""

import importlib.util
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.datasets import REPOSITORY
from tests.support.recorded import record, write_records

pytestmark = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")

SECRETS = {"WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567", "WANDB_BASE_URL": "http://secret.example:1234"}

HAND_OVER = """
import sys
from pathlib import Path
from tests.training.metrics.test_sinks import hand_over
hand_over(Path(sys.argv[1]), "wandb", int(sys.argv[2]), sys.argv[3], place=sys.argv[4])
"""


def launch(folder: Path, restored: int, ended: str, place: str) -> None:
    """A launch in a process of its own, as the client knows one run per process."""
    command = [sys.executable, "-c", HAND_OVER, str(folder), str(restored), ended, place]
    environment = {**os.environ, **SECRETS, "WANDB_MODE": "offline", "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert not any(secret in result.stdout + result.stderr for secret in SECRETS.values())


UNREACHABLE = """
import sys
from pathlib import Path
from tests.support.recorded import Messages, description
from tests.training.metrics.test_sinks import wait_for
from molstream.training.metrics.loggers import LOGGERS, Delivery, check_loggers, finish_all
check_loggers(["wandb"])
folder, told = Path(sys.argv[1]), Messages()
delivery = Delivery("wandb", LOGGERS["wandb"](description(folder)), folder, 0, told)
delivery.start()
wait_for(lambda: told.lines, "that the server is told to be away")
assert not finish_all([delivery], "finished", grace_s=0.1)
print(told.lines)
"""


def transactions(path: Path) -> Iterator[bytes]:
    """The payloads of a `.wandb` file: a 7-byte header, then LevelDB's log format in blocks of 32 KiB."""
    content = path.read_bytes()
    assert content.startswith(b":W&B")
    position, payload = 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        payload += content[position + 7 : position + 7 + length]
        position += 7 + length
        # 1 is a whole record; 2, 3 and 4 are the first, a middle and the last part of one.
        if kind in (1, 4):
            yield payload
            payload = b""


def read(folder: Path) -> list[dict]:
    """Per launch: run id, project, configuration, exit code and history."""
    from wandb.proto import wandb_internal_pb2

    launches = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        launches.append(seen := {"config": {}, "history": []})
        for payload in transactions(path):
            entry = wandb_internal_pb2.Record()
            entry.ParseFromString(payload)
            match entry.WhichOneof("record_type"):
                case "run":
                    seen |= {"id": entry.run.run_id, "project": entry.run.project, "name": entry.run.display_name}
                    seen["config"] |= {i.key: json.loads(i.value_json) for i in entry.run.config.update}
                case "history":
                    items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in entry.history.item}
                    seen["history"].append((entry.history.step.num, items))
                case "exit":
                    seen["exit"] = entry.exit.exit_code
    return launches


def test_a_run_and_its_restart_have_one_id_and_every_step_once(tmp_path):
    folder = tmp_path / "restarted"
    write_records(folder, 1, 150)
    launch(folder, 0, "failed", "4 processes")
    write_records(folder, 101, 160, offset=0.5)
    launch(folder, 100, "finished", "2 processes")
    first, second = read(folder)
    assert first["id"] == second["id"] == json.loads((folder / "loggers" / "wandb.json").read_text())["run_id"]
    assert first["project"] == "molecules"
    assert first["name"] == "restarted"
    assert (first["exit"], second["exit"]) == (1, 0)
    assert (first["config"]["place"], second["config"]["place"]) == ("4 processes", "2 processes")
    assert first["config"]["optim.lr"] == 3e-4
    expected = [record(step) for step in range(1, 151)] + [record(step, 0.5) for step in range(151, 161)]
    history = first["history"] + second["history"]
    assert [step for step, _ in history] == [r["step"] for r in expected]
    for (_, items), r in zip(history, expected, strict=True):
        assert items["train/loss"] == r["train/loss"]
        assert items["optim/grad_norm"] == r["optim/grad_norm"]


@pytest.mark.slow
def test_a_server_that_cannot_be_reached_is_told_without_its_address(tmp_path):
    folder = tmp_path / "unreachable"
    write_records(folder, 1, 3)
    with socket.socket() as closed:
        # Bound and not listening: whoever connects is refused.
        closed.bind(("127.0.0.1", 0))
        address = {"WANDB_BASE_URL": f"http://127.0.0.1:{closed.getsockname()[1]}", "WANDB_MODE": "online"}
        environment = {**os.environ, **SECRETS, **address, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", UNREACHABLE, str(folder)]
        result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("wandb is not available") == 1
    assert "confirmed the records up to step 0 of 3" in result.stdout
    assert f"To send the rest: molstream sync run_dir={folder}" in result.stdout
    found = [path for path in folder.rglob("*") if path.is_file() and b"127.0.0.1" in path.read_bytes()]
    assert found == []
    assert "127.0.0.1" not in result.stdout + result.stderr
    assert SECRETS["WANDB_API_KEY"] not in result.stdout + result.stderr


def test_no_secret_reaches_the_run_directory(tmp_path):
    folder = tmp_path / "secrets"
    write_records(folder, 1, 3)
    launch(folder, 0, "finished", "1 process")
    (only,) = read(folder)
    assert len(only["history"]) == 3
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(secret.encode() in content for secret in (*SECRETS.values(), "secret.example")), path


def test_without_a_key_nothing_starts_and_nobody_is_asked(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    environment |= {"NETRC": str(tmp_path / "none"), "WANDB_CONFIG_DIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    script = "from molstream.training.metrics.loggers import check_loggers; check_loggers(['wandb'])"
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert "ConfigError" in result.stderr
    assert "there is no key: export WANDB_API_KEY" in result.stderr

"""The file `preprocess` and the cluster file: what `ray submit infra/cluster.yaml preprocess` does on a head node."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.datasets import REPOSITORY

PACKAGES = ("molstream", "preprocessing", "pipeline", "training", "configs")


def launch(script: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the launcher from another folder, with nothing of ours on the module path."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    # Where Ray looks for a running cluster: at a port without one, not at what somebody runs on this machine.
    environment["RAY_ADDRESS"] = "127.0.0.1:9"
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of a head node: the launcher as `ray submit` copies it, the repository as the cluster file mounts it."""
    shutil.copy(REPOSITORY / "preprocess", tmp_path / "preprocess")
    (tmp_path / "molstream").mkdir()
    for name in PACKAGES:
        (tmp_path / "molstream" / name).symlink_to(REPOSITORY / name)
    return tmp_path


@pytest.mark.parametrize("submitted", [False, True])
def test_the_launcher_finds_the_packages(home, submitted):
    script = home / "preprocess" if submitted else REPOSITORY / "preprocess"
    done = launch(script, home, f"input={home / 'absent.csv'}", f"output={home / 'out'}")
    assert done.returncode == 1, done.stderr
    assert "absent.csv: no such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_usage_errors_are_those_of_the_command(home):
    done = launch(home / "preprocess", home, "inptu=x")
    assert done.returncode == 2
    assert "unknown key 'inptu'" in done.stderr


def test_a_submitted_launcher_looks_for_a_running_cluster(home):
    (home / "one.smi").write_text("CCO\n")
    done = launch(home / "preprocess", home, f"input={home / 'one.smi'}", f"output={home / 'out'}")
    assert done.returncode == 2, done.stderr
    assert "ray.address=auto" in done.stderr


def test_ray_accepts_the_cluster_file(monkeypatch):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((REPOSITORY / "infra" / "cluster.yaml").read_text())
    assert config["min_workers"] == config["max_workers"] == len(config["provider"]["worker_ips"])
    monkeypatch.chdir(REPOSITORY)
    validate_config(prepare_config(config))


def test_the_cluster_file_mounts_the_repository_where_the_launcher_looks():
    mounts = yaml.safe_load((REPOSITORY / "infra" / "cluster.yaml").read_text())["file_mounts"]
    assert mounts["~/molstream"] == "."
    assert '"molstream"' in (REPOSITORY / "preprocess").read_text()

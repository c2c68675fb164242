"""`ray up`, `ray submit infra/cluster.yaml preprocess` and `ray down` from a clone, on three bare hosts with sshd."""

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.datasets import REPOSITORY, molecules, molstream, write_csv
from tests.support.hosts import Hosts, what_lacks

CLIENT = "node4"
"""The user's own machine: it is no part of the cluster."""
CLUSTER = ("node1", "node2", "node3")
NODES_S = 600
"""Until the workers, too, have installed all packages."""
ALIVE = """python -c 'import ray; ray.init("auto"); print("alive:", sum(n["Alive"] for n in ray.nodes()))'"""
"""Command that prints how many hosts are in the cluster."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every package that the hosts install: they reach nothing but each other."""
    folder = tmp_path_factory.mktemp("wheels")
    constraints = REPOSITORY / "infra" / "constraints.txt"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(folder)]
    wanted = [f"{REPOSITORY}[preprocess,s3]", "torch==2.13.0", "setuptools>=80"]
    made = subprocess.run(
        [*command, "--constraint", str(constraints), *wanted], capture_output=True, text=True, timeout=900
    )
    assert made.returncode == 0, made.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[Hosts]:
    if (reason := what_lacks() or (None if shutil.which("rsync") else "not installed: rsync")) is not None:
        pytest.skip(reason)
    with Hosts(tmp_path_factory.mktemp("submit") / "hosts", 4, bare=True) as hosts:
        for name in hosts.names:
            (hosts.home(name) / ".bashrc").write_text(f"export PATH={Path(sys.executable).resolve().parent}:$PATH\n")
            (hosts.home(name) / ".config" / "pip").mkdir(parents=True)
            settings = f"[global]\nno-index = true\nfind-links = {wheels}\n"
            (hosts.home(name) / ".config" / "pip" / "pip.conf").write_text(settings)
        yield hosts


@pytest.fixture(scope="module")
def clone(hosts: Hosts) -> Path:
    """A copy of the repository in which the lines marked SITE are those of the hosts."""
    copy = hosts.folder / "clone"
    subprocess.run(["rsync", "-a", "--exclude=.git", "--filter=:- .gitignore", f"{REPOSITORY}/", str(copy)], check=True)
    file = copy / "infra" / "cluster.yaml"
    lines = file.read_text().splitlines()
    site = {
        "head_ip": "10.77.0.1",
        "worker_ips": "[10.77.0.2, 10.77.0.3]",
        "min_workers": "2",
        "max_workers": "2",
        "ssh_user": "root",
        "ssh_private_key": str(hosts.folder / "key"),
    }
    for number, line in enumerate(lines):
        key = line.split(":")[0].strip()
        if line.endswith("# SITE"):
            lines[number] = f"{line.split(key)[0]}{key}: {site.pop(key)}"
    assert not site
    file.write_text("\n".join(lines) + "\n")
    return copy


def on(hosts: Hosts, name: str, command: str, folder: Path, timeout: float = 900) -> str:
    """Run a command line on a host as its user; returns what it printed."""
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    words = ["env", "-i", f"HOME={hosts.home(name)}", f"PATH={path}", "TERM=dumb", "RAY_AUTH_MODE=token"]
    words += ["env", "-C", str(folder), "bash", "-c", command]
    done = subprocess.run(hosts.enter(name, words), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{command}: {done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    return done.stdout + done.stderr


def test_a_cluster_is_started_used_and_stopped_by_the_commands_of_its_file(hosts, clone):
    source = write_csv(hosts.folder / "molecules.csv", molecules())
    settings = ["target_columns=[value]", "rows_per_shard=20", "block_rows=8"]
    on(hosts, CLIENT, "ray get-auth-token --generate", clone)
    on(hosts, CLIENT, "ray up --yes infra/cluster.yaml", clone)
    deadline = time.monotonic() + NODES_S
    while "alive: 3" not in (found := on(hosts, CLIENT, f"ray exec infra/cluster.yaml {shlex.quote(ALIVE)}", clone)):
        assert time.monotonic() < deadline, found
        time.sleep(3)

    output = hosts.folder / "submitted"
    arguments = " ".join([f"input={source}", f"output={output}", *settings])
    on(hosts, CLIENT, f"ray submit infra/cluster.yaml preprocess {arguments}", clone)
    alone = hosts.folder / "alone"
    molstream("preprocess", f"input={source}", f"output={alone}", *settings)
    names = sorted(p.name for p in alone.glob("shard-*"))
    assert len(names) > 3
    for name in ["manifest.json", "rejected.parquet", *names]:
        assert (output / name).read_bytes() == (alone / name).read_bytes(), name

    on(hosts, CLIENT, "ray down --yes infra/cluster.yaml", clone)
    deadline = time.monotonic() + NODES_S
    while "gcs_server" in (left := on(hosts, "node1", "ps -e -o comm", clone)):
        assert time.monotonic() < deadline, left
        time.sleep(1)


def test_packages_are_installed_once_and_again_when_their_versions_change(hosts, clone):
    """On a host that `ray up` has set up before."""
    create, install = yaml.safe_load((clone / "infra" / "cluster.yaml").read_text())["setup_commands"]
    home = hosts.home("node2")
    marker = home / "molstream-venv" / "installed"
    before = marker.stat().st_mtime_ns
    on(hosts, "node2", create, home)
    on(hosts, "node2", install, home)
    assert marker.stat().st_mtime_ns == before
    with (home / "molstream" / "infra" / "constraints.txt").open("a") as file:
        file.write("# another version\n")
    on(hosts, "node2", install, home)
    assert "# another version" in marker.read_text()

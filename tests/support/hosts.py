"""Simulated hosts on one machine, each with its own network, name, processes and sshd, connected by a switch.

A host is a set of Linux namespaces, held by a process that waits for the end of its stdin, so that hosts end with the
test's process in any case. The machine's own network, /etc and /run are not changed.
"""

import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

from tests.support.processes import REPOSITORY

PREFIX = "10.77.0"

INIT = """
set -e
folder=$1 name=$2
hostname "$name"
mount --bind "$folder/hosts" /etc/hosts
if [ -d "$folder/home-$name" ]; then
  sed "s|^root:\\(.*\\):/[^:]*:|root:\\1:$folder/home-$name:|" /etc/passwd > "$folder/passwd-$name"
  mount --bind "$folder/passwd-$name" /etc/passwd
  mkdir -p /tmp/ray
  mount -t tmpfs tmpfs /tmp/ray
fi
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount -t tmpfs tmpfs /dev/shm
echo named
read -r wired
"$3" -f "$folder/sshd_config" -E "$folder/sshd-$name.log" < /dev/null
echo up
# The shell stays, to reap what is left without a parent.
cat > /dev/null
"""
"""Script of process 1 of a host; killing it simulates a power failure."""

SSH_CONFIG = """
Host *
  IdentityFile {folder}/key
  IdentitiesOnly yes
  BatchMode yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  ConnectTimeout 5
"""

SSHD_CONFIG = """
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
PidFile none
UseDNS no
"""


def what_lacks() -> str | None:
    """Return why hosts cannot be created here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    tools = ("ip", "ssh", "ssh-keygen", "unshare", "nsenter", "hostname")
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)}"
    if _sshd() is None:
        return "not installed: sshd"
    probe = subprocess.run(["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true"], capture_output=True)
    return None if probe.returncode == 0 else "namespaces are not permitted"


def _sshd() -> str | None:
    return shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")


class Hosts:
    """Hosts node1, node2, ... with the addresses 10.77.0.1, 10.77.0.2, ...; a context manager.

    Args:
        folder: for what they need; it is created.
        count: number of hosts.
        bare: whether each has an empty home, and a folder /tmp/ray, of its own.
    """

    def __init__(self, folder: Path, count: int, bare: bool = False):
        self.folder, self.names = folder, [f"node{k}" for k in range(1, count + 1)]
        self._bare = bare
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> "Hosts":
        self.folder.mkdir()
        for key in ("key", "host_key"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key))
        addresses = [f"{PREFIX}.{k} {name}" for k, name in enumerate(self.names, 1)]
        (self.folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *addresses, ""]))
        (self.folder / "ssh_config").write_text(SSH_CONFIG.format(folder=self.folder))
        (self.folder / "sshd_config").write_text(SSHD_CONFIG.format(folder=self.folder))
        for name in self.names if self._bare else ():
            self.home(name).mkdir()
        with ExitStack() as cleanup:
            cleanup.callback(self.__exit__)
            self._hold("switch", ["unshare", "--net", "sh", "-c", "echo named; exec cat > /dev/null"])
            for words in ("link set lo up", "link add switch type bridge", "link set switch up"):
                self._ip("switch", words)
            for name in self.names:
                self.boot(name)
            cleanup.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        for name in list(self._processes):
            self.power_off(name)

    @property
    def ssh(self) -> str:
        """Remote shell command that connects hosts with each other."""
        return f"ssh -F {self.folder / 'ssh_config'}"

    def home(self, name: str) -> Path:
        """The home of the only user of a bare host."""
        return self.folder / f"home-{name}"

    def boot(self, name: str) -> None:
        """Start a host and wait until it can be reached."""
        namespaces = ["--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        sshd = _sshd()
        assert sshd is not None
        host = self._hold(name, ["unshare", *namespaces, "sh", "-c", INIT, "init", str(self.folder), name, sshd])
        number = self.names.index(name) + 1
        # A fixed hardware address, since the neighbours of a rebooted host have cached the old one.
        card = f"eth0 address 02:00:00:00:00:{number:02x} netns {self._first_process(name)}"
        self._ip("switch", f"link add port{number} type veth peer name {card}")
        self._ip("switch", f"link set port{number} master switch up")
        for words in ("link set lo up", f"addr add {PREFIX}.{number}/24 dev eth0", "link set eth0 up"):
            self._ip(name, words)
        assert host.stdin is not None
        assert host.stdout is not None
        print("wired", file=host.stdin, flush=True)
        assert host.stdout.readline() == "up\n"

    def power_off(self, name: str) -> None:
        """Kill all processes of a host at once; its network disappears too."""
        process = self._processes.pop(name)
        process.kill()
        process.communicate()

    def unplug(self, name: str) -> None:
        """Disconnect a host silently: no packets get in or out."""
        self._ip("switch", f"link set port{self.names.index(name) + 1} down")

    def plug(self, name: str) -> None:
        """Reconnect a host that was disconnected."""
        self._ip("switch", f"link set port{self.names.index(name) + 1} up")

    def enter(self, name: str, command: list[str]) -> list[str]:
        """Return the command that runs ``command`` on a host, in the repository's folder."""
        host = ["nsenter", "-t", str(self._first_process(name)), "-n", "-u", "-m", "-p", "--"]
        return [*host, "env", "-C", str(REPOSITORY), *command]

    def _hold(self, name: str, command: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._processes[name] = process
        assert process.stdout is not None
        assert process.stdout.readline() == "named\n"
        return process

    def _first_process(self, name: str) -> int:
        pid = self._processes[name].pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
        return int(children[0]) if children else pid

    def _ip(self, name: str, words: str) -> None:
        _run("nsenter", "-t", str(self._first_process(name)), "-n", "ip", *words.split())


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}: {result.stderr}"

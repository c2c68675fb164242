"""How much memory a process may use: what the machine has free, within the limits of its container."""

import os
import re
import resource
from pathlib import Path

UNLIMITED = 2**60
"""Bytes from which a limit of a control group is none."""
GROUPS = Path("/sys/fs/cgroup")


def total_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_memory() -> int:
    """Bytes that this process can allocate: free on the machine, and left by the limits of container and process."""
    available = _values(Path("/proc/meminfo")).get("MemAvailable")
    free = total_memory() if available is None else 1024 * available
    return max(0, min(free, _left_in_groups(), _left_of_address_space()))


def _left_in_groups() -> int:
    """Bytes that the control groups of this process, and those around them, leave it; files in memory can go."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return UNLIMITED
    left = UNLIMITED
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if controllers in ("", "memory"):
            folder = (GROUPS / controllers / group.strip("/")).resolve()
            for each in (folder, *folder.parents):
                if each.is_relative_to(GROUPS):
                    left = min(left, _left_in(each))
    return left


def _left_in(group: Path) -> int:
    # Version 2 of control groups, then version 1.
    for limit, usage, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, used = ((group / name).read_text().strip() for name in (limit, usage))
        except OSError:
            continue
        if most.isdigit() and int(most) < UNLIMITED:
            return int(most) - int(used) + _values(group / "memory.stat").get(cached, 0)
    return UNLIMITED


def _left_of_address_space() -> int:
    """Bytes that ``ulimit -v`` leaves this process."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return UNLIMITED
    return most - 1024 * _values(Path("/proc/self/status")).get("VmSize", 0)


def _values(file: Path) -> dict[str, int]:
    """The numbers of a file of the kernel with a name and a number in every line; none if it cannot be read."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return {}
    return {name: int(value) for name, value in re.findall(r"^(\w+):?\s+(\d+)", text, re.MULTILINE)}

"""Reads a hostfile, applies the launcher's filters, and selects slots that divide the lanes evenly."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from molstream.errors import ConfigError

Slots = dict[str, list[int]]
"""Numbers of the accelerators (on CPUs: processes) of each host, in the order of the hostfile."""

_LINE = re.compile(r"(\S+)\s+slots=(\d+)\s*(?:#.*)?")


def read_hostfile(path: Path) -> Slots:
    """Read the slots of a hostfile, in the ``deepspeed`` launcher's format: one ``NAME slots=NUMBER`` per line.

    Raises:
        ConfigError: the file is missing or no text, has no host, a malformed line, or a host twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"--hostfile {path}: {error.strerror}. Give one with lines like 'node1 slots=8'.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--hostfile {path}: expected UTF-8, got {error}. Give lines like 'node1 slots=8'."
        ) from error
    slots: Slots = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or match[1] in slots or int(match[2]) == 0:
            raise ConfigError(f"{path}, line {number}: got '{line}', expected a new host as in 'node1 slots=8'.")
        slots[match[1]] = list(range(int(match[2])))
    if not slots:
        raise ConfigError(f"{path} names no host: expected lines like 'node1 slots=8'.")
    return slots


def filter_slots(slots: Slots, include: str = "", exclude: str = "", per_host: int | None = None) -> Slots:
    """Apply the launcher's ``--include`` or ``--exclude`` (``host1:0,2@host2``), or its ``--num_accelerators``.

    Args:
        slots: all slots of the hostfile.
        include, exclude: filters in the launcher's syntax; empty for none.
        per_host: number of slots on every host, in place of the hostfile's.

    Raises:
        ConfigError: a filter names a host or slot that the hostfile lacks, two are given, or no slot is left.
    """
    given = {"--include": include, "--exclude": exclude, "--num_accelerators": per_host}
    if len(names := [name for name, value in given.items() if value]) > 1:
        raise ConfigError(f"{' and '.join(names)} cannot be combined: give one of them.")
    if per_host:
        return {host: list(range(per_host)) for host in slots}
    if not (text := include or exclude):
        return slots
    named: Slots = {}
    for part in text.split("@"):
        host, _, numbers = part.partition(":")
        if host not in slots:
            raise ConfigError(f"{names[0]} {text}: unknown host '{host}'. The hostfile has {', '.join(slots)}.")
        try:
            wanted = [int(number) for number in numbers.split(",")] if numbers else slots[host]
        except ValueError:
            wanted = [-1]
        if not set(wanted) <= set(slots[host]):
            raise ConfigError(f"{names[0]} {text}: {host} has the slots {slots[host]}, got '{numbers}'.")
        named[host] = named.get(host, []) + wanted
    keep = {host: [n for n in own if (n in named.get(host, [])) == bool(include)] for host, own in slots.items()}
    if not (left := {host: own for host, own in keep.items() if own}):
        raise ConfigError(f"{names[0]} {text} leaves no slot of {', '.join(slots)}.")
    return left


def share_lanes(slots: Mapping[str, list[int]], lanes: int) -> Slots:
    """Select as many slots as possible whose number divides the lanes, from the hosts in order.

    Hosts without a selected slot are left out.
    """
    total = sum(map(len, slots.values()))
    free = max((w for w in range(1, min(total, lanes) + 1) if lanes % w == 0), default=0)
    used: Slots = {}
    for host, own in slots.items():
        if free:
            used[host] = own[:free]
            free -= len(used[host])
    return used


def num_slots(slots: Mapping[str, list[int]]) -> int:
    """Number of slots on all hosts, which is the world size."""
    return sum(map(len, slots.values()))


def describe_slots(slots: Mapping[str, Iterable[int]]) -> str:
    """Slots in the launcher's ``--include`` syntax, ``host1:0,1@host2:0``, for the launcher and for messages."""
    return "@".join(f"{host}:{','.join(map(str, own))}" for host, own in slots.items())

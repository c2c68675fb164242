"""Little memory: limits of this process that tests of large models set."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from molstream.io.memory import _values

ROOM = 64 << 20
"""Bytes that :func:`little_room` leaves."""


@contextmanager
def little_room() -> Iterator[None]:
    """Leave this process an address space of 64 MiB more than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = 1024 * _values(Path("/proc/self/status"))["VmSize"]
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

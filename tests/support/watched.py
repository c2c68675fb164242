"""Watches which files this process opens, changes and removes, and whether it connects to anything."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EVENTS = {"open": 1, "os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.mkdir": 1, "os.listdir": 1, "os.scandir": 1}
EVENTS |= {"os.chmod": 1, "os.truncate": 1, "os.utime": 1, "os.link": 2, "os.symlink": 2, "shutil.rmtree": 1}
"""Python's audit events of files, and how many of their first arguments are paths."""
_watch: tuple[str, list[str]] | None = None
_hooked = False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _watch is None:
        return
    folder, seen = _watch
    if event in ("socket.connect", "socket.getaddrinfo"):
        seen.append(f"{event} {arguments[-1]}")
    for path in arguments[: EVENTS.get(event, 0)]:
        if isinstance(path, str | bytes | os.PathLike) and os.path.realpath(os.fsdecode(path)).startswith(folder):
            seen.append(f"{event} {os.fsdecode(path)}")


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """Collect what this process does below a folder, and every connection, until the block ends."""
    global _watch, _hooked
    if not _hooked:
        # Hooks of the interpreter cannot be removed.
        sys.addaudithook(_hook)
        _hooked = True
    seen: list[str] = []
    _watch = (os.path.realpath(folder), seen)
    try:
        yield seen
    finally:
        _watch = None

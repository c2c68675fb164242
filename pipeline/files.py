"""Writing files so that a crash at any moment leaves the old content or the new, never half of it."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name, sync, rename, sync the folder."""
    temporary = path.with_name(f".writing-{path.name}")
    temporary.write_bytes(content)
    sync(temporary)
    temporary.rename(path)
    sync(path.parent)

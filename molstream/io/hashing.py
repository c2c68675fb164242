"""Checksums of files (SHA-256)."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Compute the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Compressed files, read as a stream of what they hold."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any

import pyarrow as pa

BUFFER_BYTES = 1 << 18


def _open_zstd(path: Path) -> Any:
    return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")


COMPRESSIONS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}
"""File name endings. All read every part of a file of several, and raise one of DAMAGES where it is cut short."""

DAMAGES = (EOFError, zlib.error, lzma.LZMAError, OSError)
"""What damaged content raises; an OSError with a number is the system's word on something else, such as a full disk."""


def compression(name: str) -> str:
    """The ending that tells a file's compression, or ''."""
    return next((ending for ending in COMPRESSIONS if name.lower().endswith(ending)), "")


def opened(path: Path, ending: str) -> BufferedReader:
    """What a file holds, decompressed if ``ending`` tells a compression."""
    return BufferedReader(COMPRESSIONS[ending](path), BUFFER_BYTES) if ending else path.open("rb")

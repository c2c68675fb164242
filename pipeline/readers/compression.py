"""Compressed files, read as streams of their decompressed content."""

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
"""Openers by file name ending. All read every member of a file with several, and raise one of DAMAGES if it is cut
short."""

DAMAGES = (EOFError, zlib.error, lzma.LZMAError, OSError)
"""Exceptions that damaged content raises. An OSError with an errno is an error of the system, such as a full disk."""


def is_damage(error: Exception) -> bool:
    """Whether an exception of a reader says that content is damaged, rather than that the system failed."""
    return not isinstance(error, OSError) or error.errno is None


def compression(name: str) -> str:
    """The ending of a file name that names its compression, such as ``.gz``; '' for an uncompressed file."""
    return next((ending for ending in COMPRESSIONS if name.lower().endswith(ending)), "")


def opened(path: Path, ending: str) -> BufferedReader:
    """A file opened for reading, decompressed if ``ending`` names a compression."""
    return BufferedReader(COMPRESSIONS[ending](path), BUFFER_BYTES) if ending else path.open("rb")

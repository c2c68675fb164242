"""Global duplicates in bounded memory: of all rows of one identity, the first in the order of the input is kept.

Every split writes the 128-bit hashes of its rows, sorted. A bucket is a range of hashes: one task collects it from all
splits and writes the sorted list of rows that are not the first of their hash. No process holds all hashes; a billion
of them are 250 buckets of 4 million. Among 10^9 molecules two hashes collide with a probability of 10^-21.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from molstream.io.files import written_whole

BUCKET_ROWS = 4_000_000
"""Rows per bucket; it takes 200 MB while it is sorted."""

ROW_BITS = 32
"""Low bits of a row's number in the whole input: its place in the split. The high bits are the index of the split."""

IDENTITIES = ("key", "connectivity", "smiles", "none")
"""What duplicates have in common: the whole InChIKey; its first block, which ignores stereochemistry, isotopes and
charges; the canonical SMILES, which differs between tautomers; nothing, so that no row is a duplicate."""

KEY_DTYPE = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4")])
"""Hash of a row's identity, in two halves, and its place in the split."""


def digest(identity: str) -> bytes:
    """The 128-bit hash of a key or scaffold, 16 bytes."""
    return hashlib.blake2b(identity.encode(), digest_size=16).digest()


def identities_of(molecules: pa.Table, by: str) -> list[str]:
    """The text that two rows share if they are the same in one sense, for every row.

    Args:
        molecules: with the columns ``key``, ``smiles`` and, for scaffolds, ``scaffold``.
        by: one of IDENTITIES but ``none``, or ``scaffold``.
    """
    if by != "connectivity":
        return molecules.column(by).to_pylist()
    keys = molecules.column("key").to_pylist()
    # SMILES-<hash>, which replaces an InChIKey, has no block with a meaning of its own.
    return [key if key.startswith("SMILES-") else key.split("-")[0] for key in keys]


def key_table(identities: Sequence[str], rows: Sequence[int]) -> np.ndarray:
    """Hashes of a split's rows (KEY_DTYPE), sorted by hash and row."""
    table = np.empty(len(rows), KEY_DTYPE)
    halves = np.frombuffer(b"".join(map(digest, identities)), ">u8").reshape(-1, 2)
    table["high"], table["low"], table["row"] = halves[:, 0], halves[:, 1], rows
    return table[np.lexsort((table["row"], table["low"], table["high"]))]


def keys_path(work: Path, split: int) -> Path:
    """The file with the hashes of a split."""
    return work / f"{split:05d}.keys.npy"


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, complete or not at all."""
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def num_buckets(rows: int) -> int:
    """Number of buckets for this number of rows, at least 1."""
    return max(1, -(-rows // BUCKET_ROWS))


def find_duplicates(work: str, num_splits: int, bucket: int, buckets: int) -> int:
    """Write the rows of a bucket that are not the first of their hash, as numbers in the whole input (ROW_BITS).

    Args:
        work: folder with the hashes of splits 0 to ``num_splits - 1``.
        bucket: number of the bucket, below ``buckets``.

    Returns:
        The number of rows.
    """
    path = _duplicates_path(Path(work), bucket)
    if not path.exists():
        write_array(path, _not_first(*_collect(Path(work), num_splits, bucket, buckets)))
    return len(np.load(path, mmap_mode="r", allow_pickle=False))


def duplicates_of(work: Path, split: int, buckets: int) -> np.ndarray:
    """Places in a split, ascending int64, of the rows that are duplicates."""
    parts = []
    for bucket in range(buckets):
        rows = np.load(_duplicates_path(work, bucket), mmap_mode="r", allow_pickle=False)
        start, stop = np.searchsorted(rows, np.array([split, split + 1], np.uint64) << np.uint64(ROW_BITS))
        parts.append(rows[start:stop])
    found = np.concatenate(parts) & np.uint64((1 << ROW_BITS) - 1)
    return np.sort(found.astype(np.int64))


def _duplicates_path(work: Path, bucket: int) -> Path:
    return work / f"duplicates-{bucket:05d}.npy"


def _collect(work: Path, num_splits: int, bucket: int, buckets: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both halves of the hashes, and the rows, of all splits' parts of a bucket, in the order of the input."""
    first, last = ((bucket + k) * 2**64 // buckets for k in (0, 1))
    high, low, rows = [], [], []
    for split in range(num_splits):
        table = np.load(keys_path(work, split), mmap_mode="r", allow_pickle=False)
        halves = np.ascontiguousarray(table["high"])
        start = np.searchsorted(halves, np.uint64(first))
        stop = len(halves) if last == 2**64 else np.searchsorted(halves, np.uint64(last))
        part = table[start:stop]
        high.append(halves[start:stop])
        low.append(np.array(part["low"]))
        rows.append(part["row"].astype(np.uint64) | np.uint64(split << ROW_BITS))
    return tuple(np.concatenate(parts) if parts else np.zeros(0, np.uint64) for parts in (high, low, rows))  # pyright: ignore[reportReturnType]


def _not_first(high: np.ndarray, low: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """uint64, ascending: the rows whose hash an earlier row has too."""
    order = np.lexsort((rows, low, high))
    high, low = high[order], low[order]
    repeated = np.zeros(len(rows), bool)
    repeated[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    return np.sort(rows[order[repeated]])

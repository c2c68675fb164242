"""Global duplicates: of all rows with the same key, the first in the order of the inputs is kept."""

import hashlib
from collections.abc import Sequence

import numpy as np


def keep_first(keys: Sequence[Sequence[str | None]]) -> list[np.ndarray]:
    """For every split, which rows are the first with their key; rows without a key (rejected) are not kept.

    Keys are compared by 128 bits of their hash: among 10^9 molecules two collide with a probability of 10^-21.

    Args:
        keys: for every split, the key of each row or None.

    Returns:
        A bool array per split.
    """
    hashes = [_hashes([key for key in split if key is not None]) for split in keys]
    everything = np.concatenate(hashes) if hashes else np.zeros(0, "V16")
    first = np.zeros(len(everything), bool)
    first[np.unique(everything, return_index=True)[1]] = True
    masks, start = [], 0
    for split in keys:
        mask = np.fromiter((key is not None for key in split), bool, len(split))
        stop = start + int(mask.sum())
        mask[mask] = first[start:stop]
        masks.append(mask)
        start = stop
    return masks


def _hashes(keys: Sequence[str]) -> np.ndarray:
    """Sixteen bytes per key; as byte strings, which numpy can sort."""
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=16).digest() for key in keys)
    return np.frombuffer(digests, [("high", ">u8"), ("low", ">u8")])

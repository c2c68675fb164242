"""Random numbers that are a function of a key alone, on every machine."""

import numpy as np


def keyed_seed(*key: int) -> int:
    """Derive a 63-bit seed from a tuple of non-negative integers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def keyed_rng(*key: int) -> np.random.PCG64:
    """Create the bit generator keyed by a tuple of non-negative integers."""
    return np.random.PCG64(np.random.SeedSequence(key))


def keyed_bits(numbers: np.ndarray, key: int) -> np.ndarray:
    """Derive uint64 bits from each of ``numbers`` (any integers) and ``key``: splitmix64 of their sum."""
    with np.errstate(over="ignore"):
        z = numbers.astype(np.uint64) + np.uint64(key % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def keyed_permutation(size: int, *key: int) -> np.ndarray:
    """Derive a permutation of ``range(size)``, int64, from ``key``.

    It sorts raw bits of the generator, which numpy guarantees not to change, unlike ``Generator.permutation``.
    """
    return np.argsort(keyed_rng(*key).random_raw(size), kind="stable")

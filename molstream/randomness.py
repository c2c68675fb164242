"""Random numbers that belong to a key: what is drawn depends on nothing but the key, on any machine."""

import numpy as np


def keyed_seed(*key: int) -> int:
    """A 63-bit seed that belongs to a tuple of non-negative integers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def keyed_rng(*key: int) -> np.random.PCG64:
    """The bit generator that belongs to a tuple of non-negative integers."""
    return np.random.PCG64(np.random.SeedSequence(key))


def keyed_bits(numbers: np.ndarray, key: int) -> np.ndarray:
    """uint64 bits that belong to each of ``numbers`` (any integers) and to ``key``: splitmix64 of their sum."""
    with np.errstate(over="ignore"):
        z = numbers.astype(np.uint64) + np.uint64(key % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def keyed_permutation(size: int, *key: int) -> np.ndarray:
    """A permutation of ``range(size)``, int64, that belongs to ``key``.

    Sorts raw bits of the generator: numpy fixes those for ever, whereas ``Generator.permutation`` may change.
    """
    return np.argsort(keyed_rng(*key).random_raw(size), kind="stable")

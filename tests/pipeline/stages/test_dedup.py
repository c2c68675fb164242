"""Duplicates against a plain loop over a set, for any number of buckets."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.pipeline.stages.dedup import (
    KEY_DTYPE,
    duplicates_of,
    find_duplicates,
    key_table,
    keys_path,
    num_buckets,
    write_array,
)

key = st.one_of(st.none(), st.sampled_from("ABCDEFGH"), st.text(max_size=3))


def found(work: Path, num_splits: int, buckets: int) -> list[list[int]]:
    counts = [find_duplicates(str(work), num_splits, bucket, buckets) for bucket in range(buckets)]
    duplicates = [duplicates_of(work, split, buckets).tolist() for split in range(num_splits)]
    assert sum(counts) == sum(map(len, duplicates))
    return duplicates


@settings(max_examples=100, deadline=None)
@given(splits=st.lists(st.lists(key, max_size=8), max_size=6), buckets=st.integers(1, 5))
def test_all_but_the_first_of_each_key_are_duplicates_in_input_order(splits, buckets):
    seen: set[str] = set()
    expected: list[list[int]] = []
    with TemporaryDirectory() as folder:
        for index, split in enumerate(splits):
            present = [(name, row) for row, name in enumerate(split) if name is not None]
            expected.append([])
            for name, row in present:
                if name in seen:
                    expected[-1].append(row)
                seen.add(name)
            write_array(keys_path(Path(folder), index), key_table([n for n, _ in present], [r for _, r in present]))
        assert found(Path(folder), len(splits), buckets) == expected


@pytest.mark.slow
def test_ten_million_keys(tmp_path):
    """Numbers of a known pattern: every hash of the second half occurs in the first half, too."""
    rows, splits = 10_000, 1_000
    half = rows * splits // 2
    for split in range(splits):
        numbers = (np.arange(rows, dtype=np.uint64) + np.uint64(split * rows)) % np.uint64(half)
        table = np.empty(rows, KEY_DTYPE)
        # An odd multiplier modulo 2^64 maps distinct numbers to distinct hashes that fill all buckets.
        table["high"], table["low"] = numbers * np.uint64(0x9E3779B97F4A7C15), numbers
        table["row"] = np.arange(rows)
        write_array(keys_path(tmp_path, split), table[np.argsort(table["high"])])
    buckets = num_buckets(rows * splits)
    assert buckets == 3
    duplicates = found(tmp_path, splits, buckets)
    assert all(split == [] for split in duplicates[: splits // 2])
    assert all(split == list(range(rows)) for split in duplicates[splits // 2 :])

"""Which labels are classes, constant or unknown, as the distributions in a manifest tell."""

import numpy as np
import pytest

from molstream.errors import DataError
from molstream.pipeline.shards.distributions import Distribution, merged
from molstream.training.data.labels import Labels, LabelTable
from tests.support.molecules import table_of

NOTHING = np.full(1000, np.nan, np.float32)


def classes(count: int, ones: int) -> np.ndarray:
    return (np.arange(count) < ones).astype(np.float32)


def with_one(value: float) -> np.ndarray:
    """131,072 values of 0 and 1, and this one."""
    return np.append(classes(131_071, 6_000), np.float32(value))


@pytest.mark.parametrize(
    ("values", "binary"),
    [
        # In most of them a quantile lies between a 0 and a 1.
        *((classes(count, ones), True) for count, ones in ((2, 1), (12, 5), (1000, 500), (1000, 1), (131_072, 1))),
        (np.concatenate([classes(500, 3), NOTHING]), True),
        (classes(100, 0), False),
        (classes(100, 100), False),
        (NOTHING, False),
        (classes(100, 50) * 2, False),
        (classes(100, 50) - 1, False),
        (np.array([0.0, 1.0, 0.5]), False),
        *((with_one(value), False) for value in (1e-6, 0.5, 0.999, 2.0, -1e-3)),
        (np.linspace(0, 1, 1000), False),
    ],
)
def test_classes_are_told_from_numbers(values, binary):
    values = np.asarray(values, np.float32)
    assert table_of("a", values[:, None]).binary.tolist() == [binary]
    # Those of a mixture too, of which quantiles are interpolated once more.
    parts = [
        Distribution.of(part) for part in np.array_split(values[np.random.default_rng(0).permutation(len(values))], 2)
    ]
    both = merged(parts, [part.known + part.missing for part in parts])
    assert LabelTable.of({"a": both}).binary.tolist() == [binary]


def test_constant_and_unknown_labels_are_told():
    rng = np.random.default_rng(0)
    columns = [rng.normal(size=1000), np.full(1000, 0.1), NOTHING, classes(1000, 3), np.append(NOTHING[1:], 7.0)]
    columns.append(classes(1000, 500) * 1e-45)
    table = table_of("abcdef", np.stack(columns, 1).astype(np.float32))
    assert table.known.tolist() == [True, True, False, True, True, True]
    assert (table.known & table.constant).tolist() == [False, True, False, False, True, True]
    assert table.take(np.array([3, 0])).names == ("d", "a")
    assert table.take(np.array([3, 0])).binary.tolist() == [True, False]


@pytest.mark.parametrize("key", ["descriptor_statistics", "target_statistics"])
@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "expected a mapping"),
        ({"a": {"known": 3}}, "a.missing' is missing"),
        (
            {"a": {"known": 3, "missing": 0, "mean": 1.0, "deviation": 1.0, "quantiles": [1.0]}},
            "129 ascending quantiles",
        ),
    ],
)
def test_a_damaged_record_is_named(key, record, message):
    with pytest.raises(DataError, match=rf"{key}.*{message}.*dataset\.json"):
        Labels.of({key: record})


def test_a_dataset_from_before_has_none():
    assert Labels.of({"target_names": ["a"]}).targets.names == ()

"""Examples of rejected rows, for people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from preprocessing.errors import DataError

COLUMNS = ["source", "row", "text", "stage", "reason", "detail"]
BATCH = 512


def examples(folder: Path, counts: Mapping[str, int], most: int) -> dict[str, list[dict[str, Any]]]:
    """The first ``most`` rejected rows of every reason, in input order.

    A dataset may have millions: of rows that are not shown only the reason is read, and only until all are found.

    Args:
        folder: of the dataset.
        counts: rejected rows by reason.

    Raises:
        DataError: ``rejected.parquet`` is missing or damaged.
    """
    path = folder / "rejected.parquet"
    found: dict[str, list[dict[str, Any]]] = {reason: [] for reason in counts}
    missing = {reason: min(most, count) for reason, count in counts.items() if count}
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                if not missing:
                    break
                reasons = file.read_row_group(group, columns=["reason"]).column("reason").to_pylist()
                if chosen := _choose(reasons, missing):
                    for row in _rows(file, group, chosen):
                        found[row["reason"]].append(row)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}. Run `molstream verify {folder}`.") from error
    return found


def _choose(reasons: list[str], missing: dict[str, int]) -> list[int]:
    """Positions of rows that are wanted; counts them off."""
    chosen = []
    for k, reason in enumerate(reasons):
        if reason in missing:
            chosen.append(k)
            missing[reason] -= 1
            if not missing[reason]:
                del missing[reason]
    return chosen


def _rows(file: pq.ParquetFile, group: int, chosen: list[int]) -> list[dict[str, Any]]:
    rows, first = [], 0
    for batch in file.iter_batches(BATCH, row_groups=[group], columns=COLUMNS):
        inside = [k - first for k in chosen if first <= k < first + batch.num_rows]
        rows += batch.take(pa.array(inside, pa.int64())).to_pylist()
        first += batch.num_rows
    return rows


def shown(text: str, length: int, lines: bool = False) -> str:
    """A text from an input file, of at most ``length`` characters that do nothing: control characters are escaped.

    Args:
        lines: keep line breaks.
    """
    plain = "".join(
        c if c.isprintable() or (lines and c == "\n") else c.encode("unicode_escape").decode() for c in text[:length]
    )
    return plain if len(text) <= length and len(plain) <= length else plain[: length - 3] + "..."


def shown_ascii(text: str, length: int) -> str:
    """:func:`shown` for a terminal, where other characters may take two columns."""
    return shown(text.encode("ascii", "backslashreplace").decode(), length)

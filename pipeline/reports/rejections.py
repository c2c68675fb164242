"""Examples of rejected rows, for people."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from molstream.errors import DataError
from molstream.pipeline.shards.manifest import Manifest
from molstream.pipeline.shards.verify import unfinished

COLUMNS = ["source", "row", "text", "stage", "reason", "detail"]
BATCH = 512


def examples(folder: Path, manifest: Manifest, most: int) -> dict[str, list[dict[str, Any]]]:
    """The first ``most`` rejected rows of every reason, in input order.

    Only the rows of a few splits are read, since a dataset may have millions of rejections; the manifest's accounts say
    which.

    Raises:
        DataError: ``rejected.parquet`` is missing or damaged.
    """
    path = folder / "rejected.parquet"
    counts = manifest.counts.rejected
    found: dict[str, list[dict[str, Any]]] = {reason: [] for reason in counts}
    if not counts:
        return found
    try:
        with pq.ParquetFile(path) as file:
            # An append that was interrupted just before its commit has put its rows behind these.
            if file.metadata.num_rows != sum(counts.values()) and not unfinished(folder):
                raise DataError(f"{path} has {file.metadata.num_rows} rows, expected {sum(counts.values())}.")
            for row in _rows(file, _ranges(manifest, most)):
                if len(found[row["reason"]]) < most:
                    found[row["reason"]].append(row)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}. Run `molstream verify {folder}`.") from error
    return found


def _ranges(manifest: Manifest, most: int) -> list[range]:
    """Positions, in the file, of the splits that hold the first examples: the file is in the order of the splits."""
    missing = {reason: min(most, count) for reason, count in manifest.counts.rejected.items()}
    ranges, start = [], 0
    for _, account in manifest.splits:
        stop = start + sum(account.rejected.values())
        if any(missing[reason] > 0 for reason in account.rejected):
            ranges.append(range(start, stop))
        for reason, count in account.rejected.items():
            missing[reason] -= count
        if max(missing.values()) <= 0:
            break
        start = stop
    return ranges


def _rows(file: pq.ParquetFile, ranges: list[range]) -> list[dict[str, Any]]:
    """The rows of a file at these positions."""
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    ends = np.cumsum(sizes)
    rows = []
    for wanted in ranges:
        first, last = np.searchsorted(ends, [wanted.start, wanted.stop - 1], side="right").tolist()
        position = int(ends[first]) - sizes[first]
        for batch in file.iter_batches(BATCH, row_groups=range(first, last + 1), columns=COLUMNS):
            start, stop = max(0, wanted.start - position), min(batch.num_rows, wanted.stop - position)
            if start < stop:
                rows += batch.slice(start, stop - start).to_pylist()
            position += batch.num_rows
    return rows


def shown(text: str, length: int, lines: bool = False) -> str:
    """A text from an input file in at most ``length`` harmless characters: control characters are escaped.

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

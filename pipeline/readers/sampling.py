"""A sample of an input, spread evenly over it, with the number of rows and the columns of the whole."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from molstream.errors import DataError
from molstream.pipeline.config import PreprocessConfig
from molstream.pipeline.plan import cut_sources
from molstream.pipeline.readers.base import GEOMETRY_KEYS, copy
from molstream.pipeline.readers.compression import COMPRESSIONS, DAMAGES, compression
from molstream.pipeline.readers.delimited import column_names
from molstream.pipeline.readers.discover import format_named
from molstream.pipeline.readers.line_ends import with_newlines
from molstream.pipeline.readers.source import SourceFile
from molstream.pipeline.readers.split import InputSplit, read_split, target_names
from molstream.preprocessing.fields import RawMolecule, Rejection

HEAD_BYTES = 8 << 20
"""Bytes that are read of a larger compressed file; the number of its rows is estimated from them."""

HEAD_STEP = 1 << 12
"""Bytes of the head that are decompressed at a time."""

TRIED_COLUMNS, TRIED_ROWS = 50, 50
"""Most columns that are tried as targets, and the rows that each is tried on."""

HEAD_TEXT = 1 << 18
"""Bytes at the start of a file that are searched for the names of data items or keys."""


@dataclass(frozen=True)
class Columns:
    """Columns of a table, data items of an SD file, or keys of JSON lines, by their use."""

    smiles: str | None
    targets: tuple[str, ...]
    others: tuple[str, ...]
    """Other columns that hold numbers, and could be targets."""


@dataclass(frozen=True)
class Rows:
    """The number of records of an input, and how it is known."""

    total: int
    estimated: tuple[str, ...]
    """Names of files that were not read to their end."""


# --- rows -----------------------------------------------------------------------------------------------------------


def write_head(source: SourceFile) -> float:
    """Decompress only the head of a large compressed file, to the path of its plain file.

    Returns:
        The fraction of the file that the head is; 1, and nothing is written, if the file is small or not compressed.
    """
    file, ending = source.parts[0], compression(source.parts[0].given)
    copied = len(source.parts) == 1 and format_named(source.format).unpack is copy
    if not (ending and copied) or file.bytes <= HEAD_BYTES:
        return 1.0
    plain = Path(source.path)
    head = plain.with_name(f"head{ending}")
    with open(file.local, "rb") as packed:
        head.write_bytes(packed.read(HEAD_BYTES))
    with COMPRESSIONS[ending](head) as stream, plain.open("wb") as target:
        try:
            # At the end of the head, what was decompressed in the same step is lost.
            while chunk := stream.read1(HEAD_STEP):
                target.write(chunk)
        except DAMAGES as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
    return HEAD_BYTES / file.bytes


def choose(
    splits: Sequence[InputSplit], parts: Mapping[str, float], sample: int, limit: int | None
) -> tuple[Rows, list[RawMolecule | Rejection]]:
    """The number of rows of an input, and a sample of its records at even distances.

    Args:
        splits: all splits of the input.
        parts: for the files of which only the head was read, the fraction that was read, by name.
        sample: number of records that are wanted.
        limit: most records of the input that count; None for all.
    """
    seen: Counter[str] = Counter()
    for split in splits:
        seen[split.source] += split.rows
    # The last record of a head may be cut short.
    counts = {name: round(max(1, n - (name in parts)) / parts.get(name, 1.0)) for name, n in seen.items()}
    total = min(sum(counts.values()), sum(counts.values()) if limit is None else limit)
    ends = np.cumsum(list(counts.values()))
    names = list(counts)
    wanted: dict[str, list[int]] = {name: [] for name in names}
    for k in range(number := min(sample, total)):
        position = k * total // number
        file = int(np.searchsorted(ends, position, side="right"))
        inside = position - int(ends[file]) + counts[names[file]]
        wanted[names[file]].append(int(inside * parts.get(names[file], 1.0)))
    chosen = [
        record
        for split in splits
        if (rows := {r for r in wanted[split.source] if 0 <= r - split.first_row < split.rows})
        for row in sorted(rows)
        for record in read_split(split, range(row - split.first_row, row - split.first_row + 1))
    ]
    return Rows(total, tuple(parts)), chosen


# --- columns --------------------------------------------------------------------------------------------------------


def columns(sources: Sequence[SourceFile], split: InputSplit, config: PreprocessConfig, work: Path) -> Columns:
    """The columns of a split's file; others can be targets if they hold nothing but numbers, in the first rows.

    Args:
        sources: the input, prepared (see :func:`~molstream.pipeline.readers.split.prepare`).
        split: of the file whose columns are wanted.
        work: folder for intermediate files.
    """
    targets = target_names(sources)
    source = next(source for source in sources if source.name == split.source)
    names = _names(split)
    smiles = names[split.layout.smiles] if split.layout.smiles >= 0 and names else None
    others = [name for name in names if name != smiles and name not in targets][:TRIED_COLUMNS]
    return Columns(smiles, targets, tuple(name for name in others if _is_target(source, name, smiles, config, work)))


def _names(split: InputSplit) -> list[str]:
    """The names of a file's columns, data items or keys; empty for the files of a known data set."""
    path = Path(split.path)
    if split.format == "parquet":
        return pq.read_schema(path).names
    if split.format == "arrow":
        with pa.memory_map(split.path) as file:
            return pa.ipc.open_file(file).schema.names
    if split.layout.delimiter:
        header = split.layout.start > 0
        return (
            column_names(path, split.layout.delimiter) if header else [str(k) for k in range(split.layout.num_columns)]
        )
    with path.open("rb") as file:
        head = with_newlines(file.read(HEAD_TEXT).decode("utf-8", "replace"))
    if split.format == "sdf":
        return list(dict.fromkeys(re.findall(r"^>.*?<([^>\n]+)>", head, re.MULTILINE)))
    if split.format == "jsonl":
        with suppress(ValueError, TypeError):
            return [key for key in json.loads(head.split("\n", 1)[0]) if key not in GEOMETRY_KEYS]
    return []


def _is_target(source: SourceFile, name: str, smiles: str | None, config: PreprocessConfig, work: Path) -> bool:
    """Whether a column can be read as a target, and is not empty."""
    tried = replace(source, config=replace(source.config, smiles_column=smiles, target_columns=[name]))
    try:
        splits = cut_sources([tried], replace(config, limit=TRIED_ROWS), work)
        records = [record for split in splits for record in read_split(split)]
    except DataError:
        return False
    refused = any(isinstance(record, Rejection) and record.reason == "bad_target" for record in records)
    values = [value for record in records if isinstance(record, RawMolecule) for value in record.targets]
    return not refused and any(math.isfinite(value) for value in values)

"""Readers of molecule files: ``SOURCES`` has a line for each file format, ``datasets/`` a file for each data set."""

from molstream.extensions import extended
from molstream.pipeline.readers.base import Format, by_bytes
from molstream.pipeline.readers.columnar import (
    arrow_batches,
    arrow_columns,
    arrow_layout,
    is_arrow_file,
    parquet_batches,
    parquet_columns,
    parquet_layout,
    parse_row,
    unpack_arrow,
)
from molstream.pipeline.readers.delimited import table
from molstream.pipeline.readers.text import (
    json_columns,
    line_columns,
    lines,
    named_targets,
    no_targets,
    parse_json,
    parse_line,
    parse_sdf,
    sdf_columns,
    sdf_entries,
)

SOURCES: dict[str, Format] = {
    "csv": table(".csv", ","),
    "tsv": table(".tsv", "\t"),
    "smi": Format((".smi", ".smiles", ".txt"), no_targets, by_bytes(lines), parse_line, columns=line_columns),
    "sdf": Format((".sdf", ".sd", ".mol"), named_targets, by_bytes(sdf_entries), parse_sdf, columns=sdf_columns),
    "jsonl": Format((".jsonl", ".ndjson"), named_targets, by_bytes(lines), parse_json, columns=json_columns),
    "parquet": Format(
        (".parquet", ".pq"), parquet_layout, parquet_batches, parse_row, columns=parquet_columns, may_crash=True
    ),
    "arrow": Format(
        (".arrow", ".feather", ".ipc"),
        arrow_layout,
        arrow_batches,
        parse_row,
        is_arrow_file,
        unpack_arrow,
        may_crash=True,
        columns=arrow_columns,
    ),
}
"""The file formats of molstream itself."""


def sources() -> dict[str, Format]:
    """The file formats by name, those that other packages add included."""
    return extended(SOURCES, "formats")

"""``molstream embed``: computes vectors for molecule files of any size, beside the columns that they have."""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from molstream.errors import ConfigError
from molstream.pipeline.readers import sources
from molstream.pipeline.readers.prepare import open_sources
from molstream.pipeline.readers.split import InputSplit, cut, read_columns, read_split
from molstream.preprocessing.fields import RawMolecule
from molstream.training.inference.config import EmbedConfig
from molstream.training.inference.embedder import MoleculeEmbedder
from molstream.training.inference.featurizing import Featurize
from molstream.training.inference.vector_files import VECTOR, vector_file
from molstream.training.metrics.console import progress

ROWS_PER_GROUP = 4096
"""Number of rows that are read, embedded and written at a time, which bounds the memory."""
STDIN = "-"

OWN = (
    ("source", pa.string()),
    ("row", pa.int64()),
    ("canonical_smiles", pa.string()),
    ("inchikey", pa.string()),
    ("failure", pa.string()),
)
"""Columns between those of the input and the vector."""


def embed_file(config: EmbedConfig) -> tuple[int, int]:
    """Embed each record of the input; the output file appears once it is complete.

    Returns:
        The number of records, and how many of them failed.

    Raises:
        ConfigError: stdin is read without its format.
        CheckpointError: ``export`` is not an export.
        DataError: the input cannot be used, or another process writes the output.
    """
    embedder = MoleculeEmbedder.from_pretrained(
        config.export,
        revision=config.revision,
        representation=config.representation,
        readout=config.readout,
        num_layers=config.num_layers,
        device=config.device,
        batch_size=config.batch_size,
        n_jobs=config.num_cpus or -1,
        deadline_s=config.sandbox.deadline_s,
        memory_mib=config.sandbox.memory_mib,
    )
    names = list(map(str, embedder.get_feature_names_out()))
    with tempfile.TemporaryDirectory() as work:
        given = _stdin(config, Path(work)) if config.input == STDIN else config.input
        splits = cut(open_sources(given, Path(work), config), ROWS_PER_GROUP)
        columns = _columns(splits)
        schema = pa.schema([*columns.values(), *OWN, (VECTOR, pa.list_(pa.float32(), len(names)))])
        total = sum(split.rows for split in splits)
        done = failed = 0
        with (
            embedder.featurizing() as featurize,
            vector_file(config.output, schema, names, total) as write,
            progress("molecules", total) as tell,
        ):
            for split in splits:
                table = _embedded(embedder, featurize, split, columns, schema)
                write(table)
                done, failed = done + table.num_rows, failed + table.num_rows - table["failure"].null_count
                tell(done)
    return total, failed


def _stdin(config: EmbedConfig, work: Path) -> str:
    """The file to which stdin is copied, since splits are read from files."""
    if config.format not in sources():
        raise ConfigError(f"input=-: stdin has no name that tells its format: give format={', '.join(sources())}.")
    with (work / "stdin").open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return str(work / "stdin")


# --- the input's own columns ------------------------------------------------------------------------------------------


def _columns(splits: Sequence[InputSplit]) -> dict[str, pa.Field]:
    """The columns of the output that the input has, by their names in the input: those of all files, and targets."""
    types: dict[str, pa.DataType] = {}
    for split in splits:
        for field in read_columns(split).schema:
            types[field.name] = _common(types.get(field.name, pa.null()), field.type)
    types |= dict.fromkeys(splits[0].layout.targets, pa.float64())
    taken = {name for name, _ in OWN} | {VECTOR}
    fields: dict[str, pa.Field] = {}
    for name, kind in types.items():
        shown = name
        while shown in taken or (shown != name and shown in types):
            shown = f"input_{shown}"
        fields[name] = pa.field(shown, pa.string() if pa.types.is_null(kind) else kind)
    return fields


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type of a column that has two types in two files; text for what CSV cannot hold."""
    known = [kind for kind in (one, other) if not pa.types.is_null(kind)]
    if any(pa.types.is_nested(kind) or pa.types.is_dictionary(kind) for kind in known) or len(set(known)) > 1:
        return pa.string()
    return known[0] if known else one


def _values(column: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """A column as the type that it has in the output."""
    values = column.to_pylist()
    if pa.types.is_string(kind):
        values = [value if value is None or isinstance(value, str) else _text(value) for value in values]
    return pa.array(values, kind)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return json.dumps(value, default=str) if isinstance(value, list | dict) else str(value)


# --- rows -------------------------------------------------------------------------------------------------------------


def _embedded(
    embedder: MoleculeEmbedder, featurize: Featurize, split: InputSplit, columns: dict[str, pa.Field], schema: pa.Schema
) -> pa.Table:
    records = list(read_split(split))
    found = embedder.embed_records(records, featurize)
    given = read_columns(split)
    own: list[Iterable[object]] = [
        [record.source for record in records],
        [record.row for record in records],
        found.smiles,
        found.keys,
        found.failures,
        [vector if failure is None else None for vector, failure in zip(found.vectors, found.failures, strict=True)],
    ]
    values = [
        _targets(records, split.layout.targets.index(name))
        if name in split.layout.targets
        else _values(given[name], field.type)
        if name in given.column_names
        else pa.nulls(len(records), field.type)
        for name, field in columns.items()
    ]
    kinds = [schema.field(number).type for number in range(len(columns), len(schema))]
    return pa.table([*values, *(pa.array(each, kind) for each, kind in zip(own, kinds, strict=True))], schema)


def _targets(records: Sequence[object], number: int) -> pa.Array:
    """A target of the records; null where it is missing, or the record cannot be read."""
    values = [record.targets[number] if isinstance(record, RawMolecule) else np.nan for record in records]
    return pa.array(values, pa.float64(), from_pandas=True)

"""``molstream embed``: computes vectors for a file of molecules of any size, and writes them to Parquet."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from molstream.io.files import written_whole
from molstream.io.locks import claimed
from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers.prepare import open_sources
from molstream.pipeline.readers.split import InputSplit, cut, read_split
from molstream.preprocessing.fields import RawMolecule, Rejection
from molstream.training.inference.config import EmbedConfig
from molstream.training.inference.embedder import MoleculeEmbedder

ROWS_PER_GROUP = 4096
"""Number of rows that are read, embedded and written at a time, which bounds the memory."""


def embed_file(config: EmbedConfig) -> tuple[int, int]:
    """Embed each record of a file; the output file appears once it is complete.

    Returns:
        The number of records, and how many of them failed.

    Raises:
        CheckpointError: ``export`` is not an export.
        DataError: the input cannot be used, or another process writes the output.
    """
    embedder = MoleculeEmbedder.from_pretrained(
        config.export, representation=config.representation, device=config.device, batch_size=config.batch_size
    )
    width = len(embedder.get_feature_names_out())
    schema = pa.schema(
        [
            ("source", pa.string()),
            ("row", pa.int64()),
            ("smiles", pa.string()),
            ("embedding", pa.list_(pa.float32(), width)),
            ("failure", pa.string()),
        ]
    )
    output = Path(config.output)
    rows = failed = 0
    with (
        claimed(output),
        written_whole(output) as temporary,
        tempfile.TemporaryDirectory() as work,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        read = ReadConfig(smiles_column=config.smiles_column)
        for split in cut(open_sources(config.input, Path(work), read), ROWS_PER_GROUP):
            table = _embed_split(embedder, split, schema)
            writer.write_table(table)
            rows, failed = rows + table.num_rows, failed + table.num_rows - table["failure"].null_count
            print(f"embedded {rows} molecules, {failed} failed", file=sys.stderr)
    return rows, failed


def _embed_split(embedder: MoleculeEmbedder, split: InputSplit, schema: pa.Schema) -> pa.Table:
    records = list(read_split(split))
    molecules = [record for record in records if isinstance(record, RawMolecule)]
    vectors = embedder.transform(molecules)
    failures = [embedder.failures_.get(k) for k in range(len(molecules))]
    embedded = iter(zip(vectors, failures, strict=True))
    rows: list[tuple[np.ndarray | None, str | None]] = []
    for record in records:
        if isinstance(record, Rejection):
            rows.append((None, f"{record.stage}: {record.reason}: {record.detail}"))
        else:
            vector, failure = next(embedded)
            rows.append((vector if failure is None else None, failure))
    columns = {
        "source": [record.source for record in records],
        "row": [record.row for record in records],
        "smiles": [record.text for record in records],
        "embedding": [vector for vector, _ in rows],
        "failure": [failure for _, failure in rows],
    }
    return pa.table(columns, schema=schema)

"""Schemas of described molecules: the record without new conformers, and facts for accounts and reports."""

from collections.abc import Sequence

import pyarrow as pa

from molstream.pipeline.shards.codec import SCHEMA, encode
from molstream.preprocessing.featurize import Description

SECONDS = pa.field("seconds", pa.float32(), nullable=False)
"""CPU seconds that the stage took for the molecule."""

FACTS = (
    pa.field("num_rings", pa.uint16(), nullable=False),
    pa.field("num_rotatable_bonds", pa.uint16(), nullable=False),
    pa.field("changes", pa.list_(pa.string()), nullable=False),
    pa.field("left_out", pa.list_(pa.string()), nullable=False),
    pa.field("scaffold", pa.string(), nullable=False),
    SECONDS,
)
"""Columns behind those of the record: fields of ``Description``, the Murcko scaffold (empty unless decontamination
needs it), CPU seconds."""

DESCRIBED_SCHEMA = pa.schema([*SCHEMA, *FACTS])
"""Molecules after stage one: records without new conformers, and FACTS."""
EMBEDDED_SCHEMA = pa.schema([*SCHEMA, SECONDS])
"""Records with their final conformers, and the CPU seconds that these took."""


def encode_described(
    found: Sequence[Description], scaffolds: Sequence[str], seconds: Sequence[float]
) -> pa.RecordBatch:
    """One record batch of described molecules (DESCRIBED_SCHEMA)."""
    facts = (
        [d.num_rings for d in found],
        [d.num_rotatable_bonds for d in found],
        [list(d.changes) for d in found],
        [list(d.left_out) for d in found],
        scaffolds,
        seconds,
    )
    columns = [pa.array(values, field.type) for values, field in zip(facts, FACTS, strict=True)]
    return pa.record_batch([*encode([d.sample for d in found]).columns, *columns], schema=DESCRIBED_SCHEMA)


def records(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with the fields of the record alone, in the schema of the shards."""
    return batch.select(SCHEMA.names).cast(SCHEMA)

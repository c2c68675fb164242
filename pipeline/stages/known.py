"""Hashes of the molecules that a finished dataset holds, for duplicates among molecules that are appended to it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from molstream.pipeline.shards.codec import SCHEMA
from molstream.pipeline.shards.containers import CONTAINERS
from molstream.pipeline.shards.manifest import Shard
from molstream.pipeline.stages.dedup import identities_of, key_table, keys_path, write_array

_KNOWN_SCHEMA = pa.schema([("row", pa.int64()), ("key", pa.string()), ("smiles", pa.string())])


def key_shard(
    folder: str, work: str, index: int, name: str, shard: Shard | None, container: str, duplicates: str
) -> None:
    """Write the hashes of a split of a finished dataset, as stage one wrote them when the dataset was made.

    Rows that were rejected after they had a key count too, as they did then; with ``duplicates=smiles`` they do not,
    since rejections do not record the canonical SMILES.

    Args:
        folder: of the dataset.
        work: folder of intermediate results.
        index: number of the split.
        name: of the split: source, first and last row.
        shard: of the split; None if no molecule of it was written.
    """
    path = keys_path(Path(work), index)
    if path.exists():
        return
    source, _, numbers = name.rpartition(":")
    first, last = map(int, numbers.split("-"))
    columns = ["row", "key", "smiles"]
    tables = []
    if shard is not None:
        with (Path(folder) / shard.name).open("rb") as file:
            for block in shard.blocks:
                file.seek(block.offset)
                data = CONTAINERS[container].decode(file.read(block.bytes), SCHEMA, columns)
                tables.append(pa.Table.from_batches([data]).select(columns))
    if duplicates != "smiles":
        inside = (pc.field("source") == source) & (pc.field("row") >= first) & (pc.field("row") <= last)
        rejected = pq.read_table(Path(folder) / "rejected.parquet", filters=inside & ~pc.field("key").is_null())
        tables.append(rejected.rename_columns({"text": "smiles"}).select(columns))
    known = pa.concat_tables([t.cast(_KNOWN_SCHEMA) for t in tables]) if tables else _KNOWN_SCHEMA.empty_table()
    identities = [] if duplicates == "none" else identities_of(known, duplicates)
    places = (known.column("row").to_numpy() - first).tolist()
    write_array(path, key_table(identities, places[: len(identities)]))

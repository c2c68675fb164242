"""Writer of a shard file: block by block to a temporary file, which is synced and renamed when it is complete."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from molstream.io.files import written_whole
from molstream.io.hashing import file_sha256
from molstream.pipeline.shards.codec import SCHEMA
from molstream.pipeline.shards.containers import CONTAINERS, Blocks
from molstream.pipeline.shards.manifest import Shard


def shard_name(index: int, container: str) -> str:
    """File name of a shard, such as ``shard-00012.tar`` or ``shard-00012.arrow``."""
    return f"shard-{index:05d}.{CONTAINERS[container].extension}"


def write_shard(
    folder: Path, index: int, container: str, block_rows: int, batches: Iterable[pa.RecordBatch]
) -> Shard | None:
    """Write the molecules of ``batches`` as shard ``index``; without molecules, None and no file."""
    target = folder / shard_name(index, container)
    blocks, atoms = [], 0
    with written_whole(target) as temporary:
        with temporary.open("wb") as file:
            writer = CONTAINERS[container](file, SCHEMA)
            for block in _blocks(batches, block_rows):
                blocks.append(writer.write(block))
                atoms += len(block.column("atom_features").flatten())
            writer.close()
        if not blocks:
            temporary.unlink()
            return None
    return Shard(
        name=target.name,
        rows=sum(block.rows for block in blocks),
        atoms=atoms,
        bytes=target.stat().st_size,
        sha256=file_sha256(target),
        blocks=Blocks.of(blocks),
    )


def _blocks(batches: Iterable[pa.RecordBatch], block_rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows cut into blocks of ``block_rows``, the last one possibly smaller."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        while count >= block_rows:
            joined = pa.concat_batches(waiting)
            yield _compact(joined.slice(0, block_rows))
            waiting, count = [joined.slice(block_rows)], count - block_rows
    if count:
        yield _compact(pa.concat_batches(waiting))


def _compact(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A copy of the batch with buffers of its own, so that its bytes do not depend on how it was cut."""
    return batch.take(pa.array(range(batch.num_rows)))

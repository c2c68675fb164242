"""The distributions of the descriptors and targets of a dataset, from the molecules of some of its blocks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from molstream.errors import DataError
from molstream.pipeline.shards.codec import SCHEMA
from molstream.pipeline.shards.columns import Columns
from molstream.pipeline.shards.containers import CONTAINERS
from molstream.pipeline.shards.distributions import Distribution
from molstream.pipeline.shards.manifest import Shard

MAX_BLOCKS = 256
"""Most blocks that are read: 131,072 molecules of 512 in a block, seconds and 100 MB."""


Labels = Literal["descriptors", "targets"]
"""A stored field with as many numbers for every molecule, which have names."""


def summarize(
    folder: Path, container: str, shards: Sequence[Shard], field: Labels, names: Sequence[str]
) -> dict[str, Distribution]:
    """The distribution of every descriptor, or of every target, of a dataset, by name.

    Counted are the molecules of all blocks, or, where there are more than MAX_BLOCKS, of so many spread evenly over the
    shards: block ``i * n // MAX_BLOCKS`` of n. It is thus a function of the shards alone, exact for small datasets, and
    costs the same for all large ones.

    Args:
        folder: of the dataset.
        container: of its shards.
        shards: all of them, in their order.
        field: what is summarized.
        names: of the numbers of the field; no shard is read if there are none.

    Raises:
        DataError: a shard cannot be read.
    """
    if not names:
        return {}
    blocks = [_values(folder, container, shards[shard], block, field) for shard, block in sampled_blocks(shards)]
    return {name: Distribution.of(np.concatenate([b[:, k] for b in blocks])) for k, name in enumerate(names)}


def sampled_blocks(shards: Sequence[Shard]) -> list[tuple[int, int]]:
    """Shard and block numbers of the blocks that :func:`summarize` reads, ascending."""
    first = np.cumsum([0, *(len(shard.blocks) for shard in shards)])
    total = int(first[-1])
    chosen = np.arange(MAX_BLOCKS) * total // MAX_BLOCKS if total > MAX_BLOCKS else np.arange(total)
    owner = np.searchsorted(first, chosen, side="right") - 1
    return list(zip(owner.tolist(), (chosen - first[owner]).tolist(), strict=True))


def _values(folder: Path, container: str, shard: Shard, number: int, field: Labels) -> np.ndarray:
    """float32 [rows, k]: the numbers of a block."""
    block = shard.blocks[number]
    try:
        with (folder / shard.name).open("rb") as file:
            file.seek(block.offset)
            batch = CONTAINERS[container].decode(file.read(block.bytes), SCHEMA, [field])
        return Columns.from_batch(batch, [field]).values[field].reshape(block.rows, -1)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder / shard.name}, block {number}, cannot be read: {error}. Run `molstream verify {folder}`."
        ) from error

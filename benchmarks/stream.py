"""Our shuffled stream from disk into ready batches, against PyG's DataLoader over a list of Data in memory.

Same molecules, same batch size, one core, one process each way; both end with tensors x, edge_index, edge_attr, pos,
batch and ptr. Usage: ``python benchmarks/stream.py DATASET [--batch 256] [--pairs 5] [--seconds 3]`` on a dataset of
`molstream preprocess`. Rates are molecules per second, compared pair by pair in one run; the median counts.
"""

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from pipeline.order import LaneOrder
from pipeline.shards.reader import ShardDataset
from training.data.batch import MoleculeBatch
from training.data.collate import COLLATED_FIELDS, collate
from training.data.stream import LaneStream


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)

    dataset = ShardDataset(arguments.dataset)
    molecules = in_memory(dataset)
    atoms = sum(data.num_nodes or 0 for data in molecules)
    print(
        f"{len(molecules)} molecules, {atoms / len(molecules):.1f} atoms each, batches of {arguments.batch}, one core"
    )
    check(dataset, molecules)

    loader = DataLoader(molecules, batch_size=arguments.batch, shuffle=True)  # type: ignore[arg-type]
    ours, peers = [], []
    for pair in range(arguments.pairs):
        ours.append(rate(stream(dataset, arguments.batch, pair), arguments.seconds))
        peers.append(rate(itertools.chain.from_iterable(itertools.repeat(loader)), arguments.seconds))
        print(
            f"pair {pair}: ours {ours[-1]:,.0f}/s, PyG DataLoader {peers[-1]:,.0f}/s, ratio {ours[-1] / peers[-1]:.2f}"
        )
    print(f"figure molecules_per_s {statistics.median(ours):.0f}")
    print(f"figure vs_pyg_dataloader {statistics.median(a / b for a, b in zip(ours, peers)):.2f}")


def stream(dataset: ShardDataset, batch: int, seed: int) -> Iterator[MoleculeBatch]:
    """Endless batches of one lane; every window is read from disk and decompressed anew."""
    order = LaneOrder(dataset.block_rows, seed, lanes=1, micro_batch=batch, window_blocks=8)
    lane = LaneStream(dataset, order, [0])
    return (lane.step(step)[0] for step in itertools.count())


def rate(batches: Iterable, seconds: float) -> float:
    """Molecules per second over so many seconds, after three batches of warm-up."""
    batches = iter(batches)
    for _ in range(3):
        next(batches)
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        count += next(batches).num_graphs
    return count / elapsed


def in_memory(dataset: ShardDataset) -> list[Data]:
    """Every molecule as a PyG Data object."""
    found = []
    for shard, blocks in enumerate(dataset.block_rows):
        for block in range(len(blocks)):
            columns = dataset.read_block(shard, block, COLLATED_FIELDS)
            for row in range(columns.num_rows):
                one = collate(columns.slice(row, row + 1), np.zeros(1, np.int64), np.zeros(1, np.uint64))
                found.append(Data(x=one.x, edge_index=one.edge_index, edge_attr=one.edge_attr, pos=one.pos, y=one.y))
    return found


def check(dataset: ShardDataset, molecules: list[Data]) -> None:
    """Both sides deliver the same tensors for the same molecules, or the comparison means nothing."""
    from torch_geometric.data import Batch

    batch = next(stream(dataset, 64, 0))
    peer = Batch.from_data_list([molecules[k] for k in batch.index.tolist()])
    for name in ("x", "edge_index", "edge_attr", "pos", "batch", "ptr"):
        assert torch.equal(getattr(batch, name), getattr(peer, name)), name


if __name__ == "__main__":
    main()

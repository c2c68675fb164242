"""Measures the shuffled stream from disk to batches: its speed beside four others, its memory, the time to resume.

    pip install mosaicml-streaming litdata
    python benchmarks/stream.py DATASET [--parts speed memory resume] [--batch 256] [--pairs 5] [--seconds 3]

on a dataset of `molstream preprocess` and an idle machine. **speed**: one core and process, the same molecules and
batch size, all shuffled; every side yields the tensors x, edge_index, edge_attr, pos, batch and ptr. PyG's
``DataLoader`` has a list of Data in memory. The others read from disk: ``streaming`` (mosaicml), ``litdata`` and plain
per-sample ``webdataset`` store each molecule as one packed frame of bytes, the fastest format found for them, with our
collation. Each side is a separate process; they take turns, and the others are stopped meanwhile. Ratios are computed
within a turn, and their median is reported. Ours reopens the dataset in every turn, so that checksums are computed at
first use as in a run.

**memory**: peak resident memory of a process that streams from 1, 10 and 100 shards of 65,536 molecules. **resume**:
the time to open a dataset of 100 shards and make the first batches of step 10, or of step 1,000,000, in turns.
"""

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import torch
from stream_peers import PEERS, frames
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

from molstream.pipeline.order.mixture import Mixture
from molstream.pipeline.shards.codec import SCHEMA
from molstream.pipeline.shards.containers import CONTAINERS
from molstream.pipeline.shards.manifest import Account, Manifest
from molstream.pipeline.shards.reader import ShardDataset
from molstream.pipeline.shards.writer import write_shard
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.collate import COLLATED_FIELDS, collate
from molstream.training.data.config import DataConfig
from molstream.training.data.stream import LaneStream

SHARD_ROWS = 65_536
WINDOW_BLOCKS = DataConfig.window_blocks
SHARDS = (1, 10, 100)
STEPS = 400
OURS, PYG = "ours", "PyG DataLoader"


def main() -> None:
    """Run the chosen parts and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--folder", help="folder for copies of the molecules; default: a temporary folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for part in arguments.parts:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            PARTS[part](arguments, Path(folder))


# --- speed -----------------------------------------------------------------------------------------------------------


def speed(arguments: argparse.Namespace, folder: Path) -> None:
    """Measure the molecules per second of each side."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found: dict[str, list[float]] = {name: [] for name in (OURS, PYG, *arguments.peers)}
    with ExitStack() as stack:
        sides = {name: stack.enter_context(closing(Side(name, arguments, folder))) for name in found}
        print(f"{sides[PYG].about}, batches of {arguments.batch}, one core")
        for turn in range(arguments.pairs):
            for name, side in sides.items():
                found[name].append(side.rate(turn))
            print(
                f"turn {turn}: " + ", ".join(f"{name} {rates[-1]:,.0f}/s" for name, rates in found.items()), flush=True
            )
    print(f"figure molecules_per_s {statistics.median(found[OURS]):.0f}")
    print(f"figure vs_pyg_dataloader {ratio(found[OURS], found[PYG]):.2f}")
    for name in arguments.peers:
        print(f"figure vs_{name} {ratio(found[OURS], found[name]):.2f}")
    if missing := set(PEERS) - set(arguments.peers):
        print(f"not measured: {', '.join(sorted(missing))}; vs_best_peer is the best of the others")
    if arguments.peers:
        best = [max(rates) for rates in zip(*(found[name] for name in arguments.peers))]
        print(f"figure vs_best_peer {ratio(found[OURS], best):.2f}")


class Side:
    """A process that runs one of the streams, and is stopped while others are measured.

    Some streams have threads that work even if no batch is requested, and all share one core.
    """

    def __init__(self, name: str, arguments: argparse.Namespace, folder: Path):
        options = [name, arguments.dataset, str(folder / name), str(arguments.batch), str(arguments.seconds)]
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--side", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.about = self._answer()
        """Description of the molecules, printed once the side's batches have been checked."""

    def rate(self, turn: int) -> float:
        """Measure the molecules per second in one turn."""
        assert self._process.stdin is not None
        os.killpg(self._process.pid, signal.SIGCONT)
        print(turn, file=self._process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        """Kill the process and its children."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            sys.exit(f"{' '.join(self._process.args)} failed")
        os.killpg(self._process.pid, signal.SIGSTOP)
        return line.strip()


def side(name: str, path: str, folder: str, batch: str, seconds: str) -> None:
    """Create a stream, check its batches, and measure it once per line of stdin."""
    torch.set_num_threads(1)
    # The libraries print to stdout, too, which must not count as an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    molecules = in_memory(ShardDataset(path))
    make = maker(name, path, molecules, Path(folder), int(batch))
    if name != PYG:
        check(next(iter(make(0))), molecules)
    atoms = sum(data.num_nodes or 0 for data in molecules)
    print(f"{len(molecules)} molecules, {atoms / len(molecules):.1f} atoms", file=answers, flush=True)
    for turn in sys.stdin:
        print(rate(make(int(turn)), float(seconds)), file=answers, flush=True)


def maker(name: str, path: str, molecules: list[Data], folder: Path, batch: int) -> Callable[[int], Iterable]:
    """Create the function that returns a side's batches for a turn: ours restarts, the others continue."""
    if name == OURS:
        return lambda turn: stream(path, batch, turn)
    if name == PYG:
        loader = DataLoader(molecules, batch_size=batch, shuffle=True)  # type: ignore[arg-type]
        batches: Iterable = itertools.chain.from_iterable(itertools.repeat(loader))
    else:
        batches = PEERS[name](frames(molecules), folder, batch)
    return lambda _: batches


def ratio(ours: list[float], others: list[float]) -> float:
    """Median over turns of our value divided by the other's."""
    return statistics.median(a / b for a, b in zip(ours, others, strict=True))


def stream(path: str, batch: int, seed: int) -> Iterator[MoleculeBatch]:
    """Yield batches of one lane endlessly; every window is read from disk and decompressed."""
    data = Mixture([ShardDataset(path)])
    lane = LaneStream(data, data.order(seed, 1, batch, WINDOW_BLOCKS), [0])
    return (lane.step(step)[0] for step in itertools.count())


def rate(batches: Iterable, seconds: float) -> float:
    """Measure the molecules per second for some seconds, after three batches of warm-up."""
    batches = iter(batches)
    for _ in range(3):
        next(batches)
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        count += next(batches).num_graphs
    return count / elapsed


def in_memory(dataset: ShardDataset) -> list[Data]:
    """Read all molecules as PyG Data objects."""
    found = []
    for shard, blocks in enumerate(dataset.block_rows):
        for block in range(len(blocks)):
            columns = dataset.read_block(shard, block, COLLATED_FIELDS)
            for row in range(columns.num_rows):
                one = collate(columns.slice(row, row + 1), np.full(1, len(found)), np.zeros(1, np.uint64))
                names = ("x", "edge_index", "edge_attr", "pos", "y", "index")
                found.append(Data(**{name: getattr(one, name) for name in names}))
    return found


def check(batch: MoleculeBatch, molecules: list[Data]) -> None:
    """Check that a batch has the same tensors as PyG's batch of the same molecules."""
    peer = Batch.from_data_list([molecules[k] for k in batch.index.tolist()])
    for name in ("x", "edge_index", "edge_attr", "pos", "batch", "ptr"):
        assert torch.equal(getattr(batch, name), getattr(peer, name)), name


# --- memory and resuming ---------------------------------------------------------------------------------------------


def memory(arguments: argparse.Namespace, folder: Path) -> None:
    """Measure the peak memory of processes that stream from 1, 10 and 100 shards."""
    found = []
    for shards in SHARDS:
        dataset = enlarged(arguments.dataset, folder / str(shards), shards)
        command = [sys.executable, __file__, "--child", dataset]
        figures = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        found.append(figures["peak_mib"])
        print(
            f"{shards} shards, {shards * SHARD_ROWS:,} molecules: at most {figures['peak_mib']:.1f} MiB, first batches "
            f"after {figures['seconds']:.2f} s",
            flush=True,
        )
        print(f"figure memory_{shards}_shards_mib {figures['peak_mib']:.1f}")
    print(f"figure memory_spread {max(found) / min(found) - 1:.4f}")


def child(path: str) -> None:
    """Stream in this process, and print its figures as a line of JSON."""
    started = time.perf_counter()
    data = Mixture([ShardDataset(path)])
    steps = LaneStream(data, data.order(0, 8, 32, WINDOW_BLOCKS), range(8)).steps(0, STEPS, prefetch=2)
    next(steps)
    seconds = time.perf_counter() - started
    for _ in steps:
        pass
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps({"peak_mib": peak, "seconds": seconds}))


def resume(arguments: argparse.Namespace, folder: Path) -> None:
    """Measure the seconds until the first batches of an early and of a late step."""
    path = enlarged(arguments.dataset, folder / "dataset", SHARDS[-1])
    found: dict[int, list[float]] = {10: [], 1_000_000: []}
    for _ in range(2 * arguments.pairs + 1):
        for step, seconds in found.items():
            started = time.perf_counter()
            data = Mixture([ShardDataset(path)])
            next(LaneStream(data, data.order(0, 8, 32, WINDOW_BLOCKS), range(8)).steps(step, step + 1, prefetch=2))
            seconds.append(time.perf_counter() - started)
    for step, seconds in found.items():
        print(f"figure resume_step_{step}_s {statistics.median(seconds):.3f}")
    print(f"figure resume_ratio {ratio(found[1_000_000], found[10]):.3f}")


def enlarged(path: str, folder: Path, shards: int) -> str:
    """Repeat the dataset until it fills ``shards`` shards, which are links to one file; returns the new folder."""
    dataset = ShardDataset(path)
    folder.mkdir(parents=True)
    container = CONTAINERS[dataset.manifest.container]

    def batches() -> Iterator:
        left = SHARD_ROWS
        for shard in itertools.cycle(dataset.manifest.shards):
            content = (Path(path) / shard.name).read_bytes()
            for block in shard.blocks:
                batch = container.decode(content[block.offset : block.offset + block.bytes], SCHEMA, SCHEMA.names)
                yield batch.slice(0, left)
                if (left := left - batch.num_rows) <= 0:
                    return

    first = write_shard(folder, 0, dataset.manifest.container, dataset.manifest.block_rows, batches())
    assert first is not None
    names = [f"shard-{k:05d}.{container.extension}" for k in range(shards)]
    for name in names[1:]:
        (folder / name).hardlink_to(folder / first.name)
    rows = shards * SHARD_ROWS
    account = Account(rows, rows, 0, {})
    record = {
        **vars(dataset.manifest),
        "counts": account,
        "splits": (("repeated", account),),
        "shards": tuple(type(first)(**{**first.to_dict(), "name": name, "blocks": first.blocks}) for name in names),
        "fingerprint": "",
    }
    Manifest(**record).write(folder)
    return str(folder)


PARTS = {"speed": speed, "memory": memory, "resume": resume}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2])
    elif sys.argv[1:2] == ["--side"]:
        side(*sys.argv[2:])
    else:
        main()

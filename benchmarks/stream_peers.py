"""Other streams that ``benchmarks/stream.py`` measures; their formats store each molecule as one frame of bytes.

A frame has n and b as uint32, atom features uint8 [n, 9], bonds uint16 [b, 2], bond features uint8 [b, 3], positions
float32 [n, 3], and the molecule's number as uint32.
"""

import io
import itertools
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch_geometric.data import Data

from molstream.pipeline.shards.columns import Columns
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.collate import collate

SHARD_MOLECULES = 8192
BUFFER = 2048
"""Size of webdataset's shuffle buffer in molecules, that of molstream's window."""


def frames(molecules: Sequence[Data]) -> list[bytes]:
    """Encode the molecules as frames of bytes."""
    return [_frame(data) for data in molecules]


def _frame(data: Data) -> bytes:
    counts = np.array([len(data.x), data.edge_index.shape[1] // 2], np.uint32)
    parts = (
        counts,
        data.x.numpy().astype(np.uint8),
        data.edge_index[:, 0::2].T.numpy().astype(np.uint16),
        data.edge_attr[0::2].numpy().astype(np.uint8),
        data.pos.numpy().astype(np.float32),
        data.index.numpy().astype(np.uint32),
    )
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


def collate_frames(batch: Sequence[bytes]) -> MoleculeBatch:
    """Collate frames to a batch: one pass over them, then molstream's own collation."""
    parts: tuple[list[np.ndarray], ...] = ([], [], [], [], [])
    num_atoms, num_bonds = np.empty(len(batch), np.int64), np.empty(len(batch), np.int64)
    for k, frame in enumerate(batch):
        n, b = np.frombuffer(frame, np.uint32, 2).tolist()
        num_atoms[k], num_bonds[k], at = n, b, 8
        for part, dtype, count, size in zip(
            parts,
            (np.uint8, np.uint16, np.uint8, np.float32, np.uint32),
            (9 * n, 2 * b, 3 * b, 3 * n, 1),
            (1, 2, 1, 4, 4),
        ):
            part.append(np.frombuffer(frame, dtype, count, at))
            at += count * size
    x, bonds, features, positions, index = (np.concatenate(part) for part in parts)
    atoms, edges = (np.concatenate([[0], np.cumsum(counts)]) for counts in (num_atoms, num_bonds))
    values = {
        "atom_features": x.reshape(-1, 9),
        "bond_index": bonds.reshape(-1, 2),
        "bond_features": features.reshape(-1, 3),
        "positions": positions.reshape(-1, 3),
        "targets": np.zeros(0, np.float32),
    }
    offsets = {
        "atom_features": atoms,
        "bond_index": edges,
        "bond_features": edges,
        "positions": atoms,
        "targets": np.zeros(len(batch) + 1, np.int64),
    }
    return collate(Columns(len(batch), values, offsets), index, np.zeros(len(batch), np.uint64))


def webdataset(packed: Sequence[bytes], folder: Path, batch: int) -> Iterator[MoleculeBatch]:
    """Stream by webdataset: tar files with a member per molecule, shuffled shards and a shuffle buffer."""
    import webdataset as wds

    if not folder.exists():
        folder.mkdir(parents=True)
        for shard, start in enumerate(range(0, len(packed), SHARD_MOLECULES)):
            with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
                for k, frame in enumerate(packed[start : start + SHARD_MOLECULES]):
                    member = tarfile.TarInfo(f"{start + k:09d}.bin")
                    member.size = len(frame)
                    tar.addfile(member, io.BytesIO(frame))
    urls = sorted(map(str, folder.glob("*.tar")))
    dataset = wds.WebDataset(urls, shardshuffle=100, empty_check=False).shuffle(BUFFER).to_tuple("bin")
    loader = dataset.batched(batch, collation_fn=lambda rows: collate_frames([row[0] for row in rows]), partial=False)
    return _endless(lambda: loader)


def streaming(packed: Sequence[bytes], folder: Path, batch: int) -> Iterator[MoleculeBatch]:
    """Stream by mosaicml-streaming: MDS shards with a column of bytes."""
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    # Otherwise the remains of a killed process would be taken for the state of this dataset.
    clean_stale_shared_memory()
    if not folder.exists():
        with MDSWriter(out=str(folder), columns={"molecule": "bytes"}) as writer:
            for frame in packed:
                writer.write({"molecule": frame})
    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=batch)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=batch, collate_fn=lambda rows: collate_frames([r["molecule"] for r in rows]), drop_last=True
    )
    return _endless(lambda: loader)


def litdata(packed: Sequence[bytes], folder: Path, batch: int) -> Iterator[MoleculeBatch]:
    """Stream by litdata: chunks of bytes."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    if not folder.exists():
        folder.mkdir(parents=True)
        writer = BinaryWriter(str(folder), chunk_size=SHARD_MOLECULES)
        for k, frame in enumerate(packed):
            writer[k] = frame
        writer.done()
        writer.merge()
    dataset = StreamingDataset(str(folder), shuffle=True, drop_last=True)
    loader = StreamingDataLoader(dataset, batch_size=batch, num_workers=0, collate_fn=collate_frames, drop_last=True)
    return _endless(lambda: loader)


PEERS: dict[str, Callable[[Sequence[bytes], Path, int], Iterator[MoleculeBatch]]] = {
    "streaming": streaming,
    "litdata": litdata,
    "webdataset": webdataset,
}


def _endless(loader: Callable) -> Iterator[MoleculeBatch]:
    return itertools.chain.from_iterable(loader() for _ in itertools.count())

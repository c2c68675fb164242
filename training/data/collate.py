"""Collates columns of molecules into one graph batch, by array operations without an object per molecule."""

from collections.abc import Sequence

import numpy as np
import torch

from molstream.errors import DataError
from molstream.pipeline.shards.codec import encode
from molstream.pipeline.shards.columns import Columns
from molstream.preprocessing.fields import MoleculeSample
from molstream.training.data.batch import MoleculeBatch

COLLATED_FIELDS = ("atom_features", "bond_index", "bond_features", "positions", "targets")
"""Stored fields that collation reads; the other fields (strings, provenance) are not decompressed."""


def collate(columns: Columns, index: np.ndarray, draw: np.ndarray) -> MoleculeBatch:
    """Collate all rows of ``columns`` into one batch.

    Args:
        columns: g molecules with the fields of :data:`COLLATED_FIELDS`.
        index: int64 [g], position of each molecule in the dataset.
        draw: uint64 [g], random bits; of a molecule with c conformers, conformer ``draw % c`` is used.
    """
    atom_offsets = columns.offsets["atom_features"]
    num_atoms = np.diff(atom_offsets)
    ptr = atom_offsets - atom_offsets[0]
    num_bonds = np.diff(columns.offsets["bond_index"])
    num_conformers = np.diff(columns.offsets["positions"]) // num_atoms
    edges = np.empty((2, 2 * int(num_bonds.sum())), np.int64)
    edges[0] = columns.values["bond_index"].reshape(-1)
    edges[0] += np.repeat(ptr[:-1], 2 * num_bonds)
    edges[1, 0::2], edges[1, 1::2] = edges[0, 1::2], edges[0, 0::2]
    return MoleculeBatch(
        x=torch.from_numpy(columns.values["atom_features"].astype(np.int64)),
        edge_index=torch.from_numpy(edges),
        edge_attr=torch.from_numpy(np.repeat(columns.values["bond_features"].astype(np.int64), 2, axis=0)),
        pos=torch.from_numpy(_positions(columns, num_atoms, num_conformers, draw)),
        has_pos=torch.from_numpy(num_conformers > 0),
        batch=torch.from_numpy(np.repeat(np.arange(len(num_atoms)), num_atoms)),
        ptr=torch.from_numpy(ptr.astype(np.int64)),
        y=torch.from_numpy(np.array(columns.values["targets"]).reshape(len(num_atoms), -1)),
        index=torch.from_numpy(np.array(index, np.int64)),
    )


def collate_samples(samples: Sequence[MoleculeSample], draw: np.ndarray | None = None) -> MoleculeBatch:
    """Collate featurized molecules that belong to no dataset; ``index`` numbers them from 0.

    Args:
        samples: g molecules, g >= 1, with the same number of targets.
        draw: uint64 [g]; of a molecule with c conformers, conformer ``draw % c`` is used. By default the first one.

    Raises:
        DataError: ``samples`` is empty, or the numbers of targets differ.
    """
    if len({len(sample.targets) for sample in samples}) != 1:
        found = sorted({len(sample.targets) for sample in samples})
        raise DataError(
            f"a batch of {len(samples)} molecules with {found} targets: expected at least one molecule, and the same "
            "number of targets for all."
        )
    draw = np.zeros(len(samples), np.uint64) if draw is None else draw
    return collate(Columns.from_batch(encode(samples), COLLATED_FIELDS), np.arange(len(samples)), draw)


def _positions(columns: Columns, num_atoms: np.ndarray, num_conformers: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """float32 [n, 3]: the chosen conformer of each molecule; zeros if it has none."""
    has = num_conformers > 0
    stored = columns.values["positions"]
    if (num_conformers > 1).any():
        chosen = (draw % np.maximum(num_conformers, 1).astype(np.uint64)).astype(np.int64)
        first = columns.offsets["positions"][:-1] - columns.offsets["positions"][0] + chosen * num_atoms
        first, counts = first[has], num_atoms[has]
        starts = np.cumsum(counts) - counts
        stored = stored[np.arange(counts.sum()) + np.repeat(first - starts, counts)]
    if has.all():
        return np.array(stored, np.float32)
    positions = np.zeros((int(num_atoms.sum()), 3), np.float32)
    positions[np.repeat(has, num_atoms)] = stored
    return positions

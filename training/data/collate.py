"""Collates columns of molecules into one graph batch, by array operations without an object per molecule."""

import hashlib
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import torch

from molstream.errors import DataError
from molstream.pipeline.shards.codec import encode
from molstream.pipeline.shards.columns import Columns
from molstream.preprocessing.drawing import PLAIN
from molstream.preprocessing.fields import MoleculeSample
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.images import Images, image_source

COLLATED_FIELDS = ("atom_features", "bond_index", "bond_features", "positions")
"""Stored fields that every batch is made of; the other fields (strings, provenance) are not decompressed."""
OPTIONAL_FIELDS = ("targets", "descriptors", "key")
"""Stored fields that are part of a batch where they are asked for: descriptors take as long to read as all others."""
HASH_BYTES = 8
"""Bytes of the hash of a key."""


def collated_fields(required: Collection[str]) -> tuple[str, ...]:
    """Stored fields to read for batches that shall have the fields ``required``, such as an objective's."""
    return (*COLLATED_FIELDS, *(name for name in OPTIONAL_FIELDS if name in required))


def collate(columns: Columns, index: np.ndarray, draw: np.ndarray, images: Images | None = None) -> MoleculeBatch:
    """Collate all rows of ``columns`` into one batch.

    Args:
        columns: g molecules with the fields of :func:`collated_fields`.
        index: int64 [g], position of each molecule in the dataset.
        draw: uint64 [g], random bits; of a molecule with c conformers, conformer ``draw % c`` is used.
        images: their drawings, if the batch shall have them.
    """
    pixels, is_drawn = (None, None) if images is None else map(torch.from_numpy, images)
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
        y=_table(columns, "targets"),
        descriptors=_table(columns, "descriptors"),
        index=torch.from_numpy(np.array(index, np.int64)),
        key_hash=torch.from_numpy(_hashes(columns.values.get("key", ()))),
        images=pixels,
        has_image=is_drawn,
    )


def collate_samples(
    samples: Sequence[MoleculeSample], draw: np.ndarray | None = None, image_size: int | None = None
) -> MoleculeBatch:
    """Collate featurized molecules that belong to no dataset; ``index`` numbers them from 0.

    Args:
        samples: g molecules, g >= 1, with the same number of targets, and of descriptors.
        draw: uint64 [g]; of a molecule with c conformers, conformer ``draw % c`` is used. By default the first one.
        image_size: height and width in pixels of the images that the batch shall have, drawn plainly.

    Raises:
        DataError: ``samples`` is empty, or the numbers of targets or descriptors differ.
    """
    for name in ("targets", "descriptors"):
        if len(found := sorted({len(getattr(sample, name)) for sample in samples})) != 1:
            raise DataError(
                f"a batch of {len(samples)} molecules with {found} {name}: expected at least one molecule, and the "
                f"same number of {name} for all."
            )
    draw = np.zeros(len(samples), np.uint64) if draw is None else draw
    source = image_source(image_size)
    images = source and source.draw([sample.smiles for sample in samples], [PLAIN] * len(samples))
    columns = Columns.from_batch(encode(samples), collated_fields(OPTIONAL_FIELDS))
    return collate(columns, np.arange(len(samples)), draw, images)


def _table(columns: Columns, name: str) -> torch.Tensor:
    """float32 [g, width]: a field with as many entries for every molecule; width 0 if it was not read."""
    values = columns.values.get(name, np.zeros(0, np.float32))
    return torch.from_numpy(np.array(values).reshape(columns.num_rows, -1))


def _hashes(keys: Iterable[str]) -> np.ndarray:
    """int64 [g]: the first bytes of BLAKE2b of each key."""
    digests = (hashlib.blake2b(key.encode(), digest_size=HASH_BYTES).digest() for key in keys)
    return np.frombuffer(bytearray(b"".join(digests)), "<i8").astype(np.int64)


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

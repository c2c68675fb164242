"""Records with valid dtypes and shapes and random content, for tests that only move data."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from molstream.pipeline.shards.codec import decode, encode
from molstream.pipeline.shards.columns import Columns
from molstream.pipeline.shards.manifest import Account, DroppedTable, Manifest
from molstream.pipeline.shards.manifest_shape import DROPPED_KINDS
from molstream.pipeline.shards.writer import write_shard
from molstream.pipeline.stages.summarize import summarize
from molstream.preprocessing.fields import FIELDS, ConformerStatus, MoleculeSample

NOTHING_DROPPED = {kind: DroppedTable(0, "0" * 64) for kind in DROPPED_KINDS}
"""Entries of a manifest for tables that are not written."""


def random_sample(rng: np.random.Generator, num_targets: int, row: int, num_descriptors: int = 0) -> MoleculeSample:
    """Draw a record of up to 12 atoms, some without bonds or conformers; values span the range of the dtype."""
    n, b, c = int(rng.integers(1, 13)), int(rng.integers(0, 13)), int(rng.integers(0, 4))
    return MoleculeSample(
        key=f"KEY-{rng.integers(1 << 60):x}",
        smiles="C" * n + "é" * int(rng.integers(0, 2)),
        source="molecules.csv",
        row=row,
        atom_features=rng.integers(0, 256, (n, 9)).astype(np.uint8),
        bond_index=rng.integers(0, 65536, (2, b)).astype(np.uint16),
        bond_features=rng.integers(0, 256, (b, 3)).astype(np.uint8),
        positions=rng.normal(0, 10, (c, n, 3)).astype(np.float32),
        conformer_energy=np.where(rng.random(c) < 0.3, np.nan, rng.normal(0, 100, c)).astype(np.float32),
        forces=rng.normal(0, 10, (c * int(rng.integers(0, 2)), n, 3)).astype(np.float32),
        conformer_status=int(ConformerStatus.ETKDG if c else ConformerStatus.NONE),
        targets=_incomplete(rng, num_targets),
        descriptors=_incomplete(rng, num_descriptors),
    )


def _incomplete(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw float32 [count], a third of them missing."""
    return np.where(rng.random(count) < 0.3, np.nan, rng.normal(size=count)).astype(np.float32)


def random_samples(seed: int, count: int, num_targets: int, num_descriptors: int = 0) -> list[MoleculeSample]:
    """Draw ``count`` records by ``seed``, numbered from row 0."""
    rng = np.random.default_rng(seed)
    return [random_sample(rng, num_targets, row, num_descriptors) for row in range(count)]


def varied(count: int) -> list[MoleculeSample]:
    """Draw ``count`` records with two targets by a fixed seed."""
    return random_samples(0, count, 2)


counts = st.integers(0, 3)
sample_lists = st.builds(random_samples, st.integers(0, 2**32), st.integers(1, 20), counts, counts)


def write_dataset(
    folder: Path, shards: Sequence[Sequence[MoleculeSample]], container: str = "webdataset", **values
) -> Path:
    """Commit a dataset of shards with two targets, in blocks of 8; ``values`` replace those of its manifest.

    Targets have no statistics if there are fewer than names. Descriptors are called ``d0``, ``d1``, ...; there are no
    tables of dropped rows.
    """
    folder.mkdir(exist_ok=True)
    found = [write_shard(folder, k, container, 8, [encode(samples)]) for k, samples in enumerate(shards)]
    written = tuple(shard for shard in found if shard is not None)
    first = next(chain(*shards))
    names = values.get("descriptor_names", tuple(f"d{k}" for k in range(len(first.descriptors))))
    targets = values.get("target_names", ("a", "b"))
    account = Account(sum(map(len, shards)), sum(map(len, shards)), 0, {})
    record = {
        "container": container,
        "block_rows": 8,
        "hydrogens": "heavy",
        "target_names": targets,
        "descriptor_names": names,
        "config": {},
        "versions": {},
        "counts": account,
        "splits": (("all", account),),
        "shards": written,
        "conformer_status": {},
        "changes": {},
        "left_out": {},
        "benchmarks": {},
        "dropped": NOTHING_DROPPED,
        "descriptor_statistics": summarize(folder, container, written, "descriptors", names),
        "target_statistics": summarize(folder, container, written, "targets", targets)
        if len(targets) == len(first.targets)
        else {},
        "histograms": {},
    }
    Manifest(**{**record, **values}).write(folder)
    return folder


def decoded(stream: bytes) -> list[MoleculeSample]:
    """Decode the records of all batches of an Arrow stream."""
    return [sample for batch in pa.ipc.open_stream(pa.py_buffer(stream)) for sample in decode(batch)]


def per_row(columns: Columns, names: Sequence[str]) -> list[dict[str, tuple]]:
    """Slice each molecule's fields in plain Python; returns dtype, shape and content, in which NaN equals NaN."""

    def cell(name: str, row: int) -> tuple:
        start, stop = columns.offsets[name][row : row + 2] if name in columns.offsets else (row, row + 1)
        part = columns.values[name][start:stop]
        return part.dtype.str, part.shape, part.tolist() if part.dtype == object else part.tobytes()

    return [{name: cell(name, row) for name in names} for row in range(columns.num_rows)]


def assert_same(found: MoleculeSample, expected: MoleculeSample) -> None:
    """Assert equality of every field in value, dtype and shape; NaN equals NaN."""
    for field in FIELDS:
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(b, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=field.name, strict=True)
        else:
            assert type(a) is type(b), field.name
            assert a == b, field.name


def assert_all_same(found: Sequence[MoleculeSample], expected: Sequence[MoleculeSample]) -> None:
    """Apply :func:`assert_same` to lists of equal length."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert_same(a, b)

"""Random records of the right dtypes and shapes, for what moves data and does not care about chemistry."""

import numpy as np
from hypothesis import strategies as st

from preprocessing.fields import FIELDS, ConformerStatus, MoleculeSample


def random_sample(rng: np.random.Generator, num_targets: int = 1, row: int = 0) -> MoleculeSample:
    """A record of up to 12 atoms; some have no bonds, some no conformer, values are anything the dtype allows."""
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
        conformer_status=int(ConformerStatus.ETKDG if c else ConformerStatus.NONE),
        targets=np.where(rng.random(num_targets) < 0.3, np.nan, rng.normal(size=num_targets)).astype(np.float32),
    )


def random_samples(seed: int, count: int, num_targets: int = 1) -> list[MoleculeSample]:
    """``count`` records that belong to ``seed``."""
    rng = np.random.default_rng(seed)
    return [random_sample(rng, num_targets, row) for row in range(count)]


sample_lists = st.builds(random_samples, st.integers(0, 2**32), st.integers(1, 20), st.integers(0, 3))


def assert_same(found: MoleculeSample, expected: MoleculeSample) -> None:
    """Equality of every field, in value, dtype and shape; NaN equals NaN."""
    for field in FIELDS:
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, err_msg=field.name, strict=True)
        else:
            assert type(a) is type(b), field.name
            assert a == b, field.name

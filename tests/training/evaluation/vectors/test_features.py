"""Vectors of other encoders, as people write them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.errors import DataError
from molstream.training.evaluation.vectors.features import read_vectors

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_vectors_of_others_are_read_from_all_that_people_write(tmp_path):
    np.save(tmp_path / "a.npy", VECTORS.astype(np.float64))
    assert (read_vectors(tmp_path / "a.npy", 4) == VECTORS).all()
    pq.write_table(
        pa.table({"name": list("abcd"), "x": VECTORS[:, 0], "y": VECTORS[:, 1].astype(int)}), tmp_path / "b.parquet"
    )
    assert (read_vectors(tmp_path / "b.parquet", 4) == VECTORS[:, :2]).all()
    rows = [VECTORS[0].tolist(), None, *VECTORS[2:].tolist()]
    pq.write_table(pa.table({"row": [0, 1, 2, 3], "embedding": rows}), tmp_path / "c.parquet")
    found = read_vectors(tmp_path / "c.parquet", 4)
    assert np.isnan(found[1]).all()
    assert (found[[0, 2, 3]] == VECTORS[[0, 2, 3]]).all()


def test_vectors_that_do_not_fit_are_refused(tmp_path):
    np.save(tmp_path / "short.npy", VECTORS[:3])
    np.save(tmp_path / "flat.npy", VECTORS[0])
    np.save(tmp_path / "texts.npy", np.array(["a"] * 4))
    np.save(tmp_path / "objects.npy", np.array([object()] * 4), allow_pickle=True)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"name": list("abcd")}), tmp_path / "names.parquet")
    for name, part in {
        "short.npy": "got 3 x 3 numbers",
        "flat.npy": "got 3 numbers",
        "texts.npy": "cannot be read",
        "objects.npy": "cannot be read",
        "cut.parquet": "cannot be read",
        "names.parquet": "got 0 x 0 numbers",
        "none.npy": "cannot be read",
    }.items():
        with pytest.raises(DataError, match=part) as caught:
            read_vectors(tmp_path / name, 4)
        assert "expected 4 vectors" in str(caught.value)

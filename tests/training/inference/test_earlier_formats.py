"""Exports of every earlier format version load, and give the vectors that they gave.

Each was written by ``molstream export`` of a commit of its time, the first with the golden road, the others of the
checkpoint of its run ``narrow``; ``vectors.npy`` is what the molstream of format 2 gave. Whoever raises the format
version adds one of the version before, as ``tests/golden/exports/format_N``, written before the change by
``molstream export run_dir=tests/golden/road/narrow output=tests/golden/exports/format_N purpose=test``.
"""

from pathlib import Path

import numpy as np
import pytest

from molstream import MoleculeEmbedder
from molstream.training.checkpoint.exported import FORMAT_VERSION, READABLE_VERSIONS, WEIGHTS_FILE, read_config
from molstream.training.checkpoint.load import initial_weights
from molstream.training.inference.export import load_export
from molstream.training.report.overview import overview
from tests.support.datasets import molecules
from tests.support.road import EMBEDDED, GOLDEN

EXPORTS = GOLDEN.parent / "exports"
EARLIER = READABLE_VERSIONS[:-1]


def export_of(version: int) -> Path:
    return GOLDEN / "export" if version == 1 else EXPORTS / f"format_{version}"


def test_every_version_up_to_this_one_can_be_read():
    assert tuple(range(1, FORMAT_VERSION + 1)) == READABLE_VERSIONS


@pytest.mark.parametrize("version", EARLIER)
def test_an_export_of_an_earlier_format_gives_the_vectors_that_it_gave(version):
    folder = export_of(version)
    assert read_config(folder)["format_version"] == version
    vectors = MoleculeEmbedder(folder, representation="2d", device="cpu").transform(molecules()[:EMBEDDED])
    golden = np.load(GOLDEN / "vectors.npy" if version == 1 else EXPORTS / "vectors.npy")[:, : vectors.shape[1]]
    np.testing.assert_allclose(vectors, golden, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version", EARLIER)
def test_an_export_of_an_earlier_format_is_inspected_and_begins_a_run(version):
    folder = export_of(version)
    assert "intact" in overview(folder)
    own = {f"encoders.{name}": tensor for name, tensor in load_export(folder).encoders.state_dict().items()}
    weights, told = initial_weights(own, str(folder))
    assert weights.keys() == own.keys()
    assert "of an export" in told
    assert (folder / WEIGHTS_FILE).stat().st_size < 2**17, "fixtures are kept small"

"""Given conformers that are not of their molecule: left out, counted in manifest, card and summary, or rejected."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from molstream.pipeline.reports.inspect import inspect_dataset
from molstream.pipeline.shards.manifest import read_manifest
from molstream.pipeline.shards.reader import ShardDataset
from tests.support.datasets import molstream

WATER = [[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]
TORN = [[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -5.0, -0.48]]
HALOMETHANE = [[0.0, 0.0, 0.0], [0.63, 0.63, 0.63], [-0.8, -0.8, 0.8], [1.02, -1.02, -1.02], [-1.12, 1.12, -1.12]]
MIRRORED = [[-x, y, z] for x, y, z in HALOMETHANE]

RECORDS = (
    {"smiles": "O", "numbers": [8, 1, 1], "positions": [WATER, TORN, TORN]},
    {"smiles": "FC(Cl)Br", "numbers": [6, 1, 9, 17, 35], "positions": [HALOMETHANE, MIRRORED]},
    {"smiles": "[2H]O", "numbers": [8, 1, 1], "positions": [TORN, TORN]},
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("left out")
    source, output = folder / "records.jsonl", folder / "dataset"
    source.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    molstream("preprocess", f"input={source}", f"output={output}", "max_rejected_fraction=0.5")
    return output


def test_left_out_conformers_are_counted_by_reason(dataset):
    manifest = read_manifest(dataset)
    assert manifest.left_out == {"bad_geometry": 2, "stereo_mismatch": 1}
    stored = ShardDataset(dataset).read_rows(np.arange(2), ("smiles", "conformer_energy"))
    assert stored.offsets["conformer_energy"].tolist() == [0, 1, 2]


def test_a_row_without_a_good_conformer_is_rejected(dataset):
    (row,) = pq.read_table(dataset / "rejected.parquet").to_pylist()
    assert (row["row"], row["stage"], row["reason"]) == (2, "parse", "geometry_mismatch")
    assert read_manifest(dataset).counts.rejected == {"geometry_mismatch": 1}


def test_card_and_summary_show_the_counts(dataset):
    assert "given conformers left out: bad_geometry 2, stereo_mismatch 1" in inspect_dataset(dataset)
    page = (dataset / "card.html").read_text()
    assert "Given conformers left out" in page
    assert "stereo_mismatch" in page

"""A dataset on one screen of text: what it says is what is stored, and it fits."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from molstream.pipeline.reports.inspect import SHARES, inspect_dataset, sparkline
from molstream.pipeline.shards.manifest import read_manifest
from molstream.pipeline.shards.reader import ShardDataset
from tests.support.samples import varied, write_dataset


@pytest.fixture(params=["nasty_dataset", "bare_dataset"])
def any_dataset(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_it_fits_one_screen_and_does_nothing_to_it(any_dataset):
    first, *lines = inspect_dataset(any_dataset).splitlines()
    assert first == f"dataset {any_dataset}: {read_manifest(any_dataset).num_rows} molecules"
    assert len(lines) < 40
    assert [line for line in lines if len(line) > 80] == []
    assert all(character.isprintable() for line in lines for character in line)


def test_accounts_and_reasons_are_told(nasty_dataset):
    text, manifest = inspect_dataset(nasty_dataset), read_manifest(nasty_dataset)
    counts = manifest.counts
    flat = " ".join(text.split())
    assert (
        f"rows in {counts.rows_in} = written {counts.written} + duplicates {counts.duplicates} "
        f"+ decontaminated {counts.decontaminated} + rejected {sum(counts.rejected.values())} "
    ) in flat
    assert "in benchmark set&1.smi: 3 decontaminated" in flat
    assert "changed by largest_fragment 2" in flat
    assert "targets: value" in flat
    assert "descriptors: 200, 0.0 % of their values missing" in flat
    rejected = pq.read_table(nasty_dataset / "rejected.parquet").to_pylist()
    for reason, count in counts.rejected.items():
        row = next(row for row in rejected if row["reason"] == reason)
        line = next(line for line in text.splitlines() if line.startswith(f"    {reason} {count} "))
        assert f":{row['row']} {row['text'][:10]}".rstrip() in line


def test_quantiles_are_those_of_the_molecules(nasty_dataset):
    dataset = ShardDataset(nasty_dataset)
    columns = dataset.read_rows(np.arange(dataset.num_rows), ("atom_features", "conformer_energy"))
    offsets = columns.offsets["atom_features"]
    heavy = [int((columns.values["atom_features"][a:b, 0] > 0).sum()) for a, b in pairwise(offsets)]
    expected = np.quantile(heavy, SHARES, method="inverted_cdf").astype(int).tolist()
    lines = inspect_dataset(nasty_dataset).splitlines()
    found = next(line for line in lines if line.startswith("  heavy atoms "))
    assert [int(value) for value in found.split()[-5:]] == expected
    first = columns.offsets["conformer_energy"][:-1][np.diff(columns.offsets["conformer_energy"]) > 0]
    energies = columns.values["conformer_energy"][first]
    bins = np.floor(energies[np.isfinite(energies)] / 10) * 10
    found = next(line for line in lines if line.startswith("  energy kcal/mol "))
    assert [int(v) for v in found.split()[-5:]] == np.quantile(bins, SHARES, method="inverted_cdf").astype(int).tolist()


def test_times_are_told_where_they_are_known(nasty_dataset, tmp_path):
    with_times = inspect_dataset(nasty_dataset)
    assert with_times.count("slowest: ") == 3
    other = Path(shutil.copytree(nasty_dataset, tmp_path / "other"))
    (other / "timing.json").unlink()
    without = inspect_dataset(other).splitlines()
    told = [line for line in with_times.splitlines()[1:] if "slowest: " not in line and "CPU time" not in line]
    assert without[1:] == told


def test_targets_are_named_with_the_share_of_missing_values(tmp_path):
    samples = varied(50)
    missing = np.isnan([sample.targets for sample in samples]).mean()
    text = inspect_dataset(write_dataset(tmp_path / "dataset", [samples]))
    assert f"  targets: a, b; {100 * missing:.1f} % of their values missing\n" in text
    before = inspect_dataset(write_dataset(tmp_path / "before", [samples], target_statistics={}))
    assert "  targets: a, b\n" in before


def test_a_dataset_without_anything_special(bare_dataset):
    text = inspect_dataset(bare_dataset)
    assert "conformers: none 7" in text
    assert "targets: none" in text
    assert "descriptors: none" in text
    assert "energy" not in text
    assert "with an example" not in text


def test_only_nothing_is_blank():
    assert sparkline([0, 1, 500, 1000]) == " ▁▅█"
    assert sparkline([0]) == " "
    assert sparkline([]) == ""

"""The manifest refuses what does not add up, what was edited, and what another version wrote."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from molstream.errors import DataError
from molstream.pipeline.shards.containers import Block, Blocks
from molstream.pipeline.shards.distributions import Distribution
from molstream.pipeline.shards.manifest import NAME, Account, DroppedTable, Manifest, Shard, read_manifest
from molstream.pipeline.shards.manifest_shape import DROPPED_KINDS
from tests.support.datasets import REPOSITORY

ONE = Account(6, 4, 1, {"unparsable": 1})
TWO = Account(3, 1, 0, {"no_atoms": 1, "unparsable": 1})
MANIFEST = Manifest(
    container="webdataset",
    block_rows=4,
    hydrogens="heavy",
    target_names=("gap",),
    descriptor_names=("TPSA", "qed"),
    config={"featurize": {"hydrogens": "heavy"}},
    versions={"rdkit": "1"},
    counts=Account(9, 5, 1, {"no_atoms": 1, "unparsable": 2}),
    splits=(("a.csv:0-5", ONE), ("a.csv:6-8", TWO)),
    shards=(Shard("shard-00000.tar", 5, 50, 999, "0" * 64, Blocks.of([Block(512, 100, 4), Block(1024, 50, 1)])),),
    conformer_status={"etkdg": 4, "none": 1},
    changes={"neutralise": 1},
    left_out={"bad_geometry": 2},
    benchmarks={},
    dropped={kind: DroppedTable(100, digit * 64) for kind, digit in zip(DROPPED_KINDS, "abc", strict=True)},
    histograms={"elements": {"C": 50}},
    descriptor_statistics={
        "TPSA": Distribution(4, 1, 1.5, 0.25, tuple(k / 128 for k in range(129))),
        "qed": Distribution(0, 5, None, None, ()),
    },
    target_statistics={"gap": Distribution(3, 2, 1.5, 0.25, tuple(k / 128 for k in range(129)))},
)


def edit(folder: Path, key: str, value: object) -> None:
    record = json.loads((folder / NAME).read_text())
    record[key] = value
    (folder / NAME).write_text(json.dumps(record))


def test_a_manifest_comes_back_and_its_fingerprint_covers_its_content(tmp_path):
    MANIFEST.write(tmp_path)
    read = read_manifest(tmp_path)
    assert replace(read, fingerprint="") == MANIFEST
    assert len(read.fingerprint) == 64
    statistics = {"gap": replace(MANIFEST.target_statistics["gap"], known=4)}
    for other in (replace(MANIFEST, target_names=("homo",)), replace(MANIFEST, target_statistics=statistics)):
        assert other.with_fingerprint().fingerprint != read.fingerprint
    assert (read.num_rows, read.num_with_conformer) == (5, 4)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (replace(MANIFEST, counts=replace(MANIFEST.counts, rows_in=10)), r"all splits: 10 rows in.*= 9"),
        (replace(MANIFEST, splits=((MANIFEST.splits[0][0], replace(ONE, duplicates=0)),)), "split a.csv:0-5: 6 rows"),
        (replace(MANIFEST, splits=MANIFEST.splits[:1]), "do not add up"),
        (replace(MANIFEST, shards=()), "5 rows written, but the shards hold 0"),
    ],
)
def test_what_does_not_add_up_is_not_committed(tmp_path, broken, message):
    with pytest.raises(DataError, match=message):
        broken.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_accounts_add_up_by_reason():
    assert Account.total([ONE, TWO]) == MANIFEST.counts
    assert Account.from_dict(ONE.to_dict()) == ONE


@pytest.mark.parametrize(("key", "value"), [("hydrogens", "all"), ("left_out", {}), ("block_rows", 5)])
def test_an_edited_manifest_is_refused(tmp_path, key, value):
    MANIFEST.write(tmp_path)
    edit(tmp_path, key, value)
    with pytest.raises(DataError, match="fingerprint"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("key", ["schema_version", "format_version"])
def test_another_version_is_named(tmp_path, key):
    MANIFEST.write(tmp_path)
    edit(tmp_path, key, 99)
    with pytest.raises(DataError, match=r"versions .*99.*this molstream reads"):
        read_manifest(tmp_path)


def test_a_dataset_of_the_version_before_is_refused_by_its_name(tmp_path):
    MANIFEST.write(tmp_path)
    edit(tmp_path, "format_version", 3)
    edit(tmp_path, "schema_version", 3)
    with pytest.raises(DataError, match=rf"{tmp_path} has format and schema versions \(3, 3\), .* reads \(4, 4\)"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("descriptor_names", ["TPSA", 3], r"descriptor_names\[1\]: expected a text"),
        ("descriptor_names", ["TPSA"], "descriptor_statistics are not those of descriptor_names"),
        ("descriptor_names", ["qed", "TPSA"], "descriptor_statistics are not those of descriptor_names"),
        ("descriptor_names", ["TPSA", "TPSA"], "each once"),
        ("descriptor_names", [str(k) for k in range(20_000)], "at most 16384"),
        ("descriptor_statistics", {"TPSA": {}, "qed": {}}, r"'descriptor_statistics.TPSA.known' is missing"),
        ("descriptor_statistics", {"TPSA": {"known": 1, "missing": 0, "mean": "1"}}, "TPSA.mean: expected a number"),
        ("target_names", ["homo"], "target_statistics are not those of target_names"),
        ("target_statistics", {}, "target_statistics are not those of target_names"),
        ("target_statistics", [], "target_statistics: expected a mapping"),
        ("target_statistics", {"gap": {"known": 1}}, "'target_statistics.gap.missing' is missing"),
        ("dropped", {}, "the key 'dropped.rejected' is missing"),
        ("dropped", {kind: {"bytes": -1, "sha256": "0" * 64} for kind in DROPPED_KINDS}, "at least 0"),
        ("dropped", {kind: {"bytes": 1, "sha256": "../x"} for kind in DROPPED_KINDS}, "sha256 of rejected.parquet"),
    ],
)
def test_statistics_and_dropped_tables_that_cannot_be_are_named(tmp_path, key, value, message):
    MANIFEST.write(tmp_path)
    edit(tmp_path, key, value)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize(("key", "name"), [("descriptor_statistics", "TPSA"), ("target_statistics", "gap")])
def test_a_distribution_that_cannot_be_is_named_with_its_number(tmp_path, key, name):
    MANIFEST.write(tmp_path)
    record = json.loads((tmp_path / NAME).read_text())
    record[key][name]["quantiles"][3] = float("nan")
    (tmp_path / NAME).write_text(json.dumps(record))
    with pytest.raises(DataError, match=rf"{key}\.{name}: a mean, deviation or quantile is no finite"):
        read_manifest(tmp_path)


def test_a_manifest_from_before_targets_were_counted_is_read(tmp_path):
    before = replace(MANIFEST, target_statistics={})
    before.write(tmp_path)
    assert "target_statistics" not in json.loads((tmp_path / NAME).read_text())
    assert replace(read_manifest(tmp_path), fingerprint="") == before
    # As another molstream wrote it.
    assert read_manifest(REPOSITORY / "tests" / "golden" / "road" / "dataset").target_statistics == {}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format_version": 1}', "null"])
def test_a_damaged_manifest_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    with pytest.raises(DataError, match=NAME):
        read_manifest(tmp_path)


def test_a_folder_without_manifest_is_no_dataset(tmp_path):
    with pytest.raises(DataError, match="not a committed dataset"):
        read_manifest(tmp_path)

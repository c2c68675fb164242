"""The dropped rows of many splits in one file."""

import re
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.errors import DataError
from molstream.pipeline.shards.manifest import Manifest, read_manifest
from molstream.pipeline.stages import merge
from molstream.pipeline.stages.dropped import DROPPED, DUPLICATES_SCHEMA
from tests.support.samples import varied, write_dataset


@pytest.mark.parametrize("sizes", [(), (0,), (1, 0, 1), (3,), (2, 2, 2), (1,) * 7, (10, 1), (0, 4, 9, 0, 2)])
def test_row_groups_do_not_show_how_the_rows_came(monkeypatch, sizes):
    monkeypatch.setattr(merge, "ROW_GROUP_ROWS", 3)
    rows = pa.table({"row": list(range(sum(sizes)))}, schema=pa.schema([("row", pa.int64())]))
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    groups = list(merge.row_groups(rows.slice(start, size) for start, size in zip(starts, sizes)))
    assert [group.num_rows for group in groups[:-1]] == [3] * (len(groups) - 1)
    assert all(0 < group.num_rows <= 3 and group.column("row").num_chunks == 1 for group in groups)
    assert [row for group in groups for row in group["row"].to_pylist()] == list(range(sum(sizes)))


@pytest.fixture
def base(tmp_path) -> Manifest:
    """A dataset with tables of dropped rows, all of them of the file a.csv."""
    folder = write_dataset(tmp_path / "dataset", [varied(3)], config={"sources": [{"name": "a.csv"}]})
    for kind, schema in DROPPED.items():
        rows = [{"source": "a.csv", "row": row} for row in range(1000)]
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / f"{kind}.parquet")
    dropped = {kind: merge.table_of(folder / f"{kind}.parquet") for kind in DROPPED}
    return replace(read_manifest(folder), dropped=dropped)


def test_an_append_gives_no_new_checksum_to_a_damaged_table(base, tmp_path):
    dataset, staged = tmp_path / "dataset", tmp_path / "staged"
    staged.mkdir()
    made = merge.merge_dropped([], staged, dataset, base)
    assert made == {kind: merge.table_of(staged / f"{kind}.parquet") for kind in DROPPED}
    file = dataset / "duplicates.parquet"
    data = bytearray(file.read_bytes())
    place = len(data) // 2
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match=rf"{re.escape(str(file))} is damaged: "):
        merge.merge_dropped([], staged, dataset, base)


def test_the_table_of_an_interrupted_append_is_no_damage(base, tmp_path):
    dataset, staged = tmp_path / "dataset", tmp_path / "staged"
    staged.mkdir()
    before = pq.read_table(dataset / "duplicates.parquet")
    later = pa.Table.from_pylist([{"source": "b.csv", "row": 0, "key": "K"}], DUPLICATES_SCHEMA)
    pq.write_table(pa.concat_tables([before, later]), dataset / "duplicates.parquet")
    merge.merge_dropped([], staged, dataset, base)
    assert pq.read_table(staged / "duplicates.parquet") == before

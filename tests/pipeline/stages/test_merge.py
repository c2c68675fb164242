"""The dropped rows of many splits in one file."""

import pyarrow as pa
import pytest

from molstream.pipeline.stages import merge


@pytest.mark.parametrize("sizes", [(), (0,), (1, 0, 1), (3,), (2, 2, 2), (1,) * 7, (10, 1), (0, 4, 9, 0, 2)])
def test_row_groups_do_not_show_how_the_rows_came(monkeypatch, sizes):
    monkeypatch.setattr(merge, "ROW_GROUP_ROWS", 3)
    rows = pa.table({"row": list(range(sum(sizes)))}, schema=pa.schema([("row", pa.int64())]))
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    groups = list(merge.row_groups(rows.slice(start, size) for start, size in zip(starts, sizes)))
    assert [group.num_rows for group in groups[:-1]] == [3] * (len(groups) - 1)
    assert all(0 < group.num_rows <= 3 and group.column("row").num_chunks == 1 for group in groups)
    assert [row for group in groups for row in group["row"].to_pylist()] == list(range(sum(sizes)))

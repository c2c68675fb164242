"""Parquet, Arrow and Feather: what a split reads of them, columns of any kind, and what is none of them."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.errors import DataError
from molstream.pipeline.readers.prepare import open_sources
from molstream.pipeline.readers.split import ReadConfig, cut, read_split
from tests.support.source_files import FORMATS, SMILES, read, shown


@pytest.mark.parametrize(("format", "start"), [("parquet", b"PAR1"), ("arrow", b"ARROW1")])
def test_a_split_needs_only_its_own_row_group_or_batch(tmp_path, format, start):
    file = tmp_path / f"m.{format}"
    file.write_bytes(FORMATS[format])
    splits = cut(open_sources([str(file)], tmp_path, ReadConfig()), 2)
    damaged = bytearray(FORMATS[format])
    place = FORMATS[format].index(SMILES[0].encode())
    damaged[place] ^= 0xFF
    file.write_bytes(damaged)
    assert shown(read_split(splits[-1])) == SMILES[-1:]
    assert shown(read_split(splits[-2])) == SMILES[4:6]
    with pytest.raises(DataError, match="changed while"):
        list(read_split(splits[0]))


def test_columns_of_any_kind_are_read_and_bad_cells_cost_one_row_each(tmp_path):
    file = tmp_path / "m.parquet"
    smiles = pa.array([b"C", b"\xff", None, b"N\tx"], pa.binary()).dictionary_encode()
    columns = {
        "b": pa.array([True, False, None, True]),
        "smiles": smiles,
        "s": ["1e3", "2", "x", "1\t2"],
        "d": pa.array([1, 2, None, 4]).cast(pa.decimal128(21, 2)),
        "f": pa.array([0.1, 2, 3, 4], pa.float32()),
        "nested": [[1], [2], [3], [4]],
    }
    pq.write_table(pa.table(columns), file)
    records = read(file, targets=["f", "b", "d"])
    assert shown(records) == ["C", "<undecodable_bytes>", "", "N\tx"]
    assert records[0].targets == (0.1, 1.0, 1.0)
    assert np.isnan(records[2].targets).tolist() == [False, True, True]
    assert shown(read(file, targets=["s"])) == ["C", "<undecodable_bytes>", "<bad_target>", "<bad_target>"]
    with pytest.raises(DataError, match=r"m.parquet: the column 'nested' holds list<.*expected numbers"):
        read(file, targets=["nested"])
    with pytest.raises(DataError, match=r"m.parquet: the column 'f' holds float, expected text"):
        read(file, column="f")
    with pytest.raises(DataError, match=r"no column 'gap' \(target\); its columns are b, smiles"):
        read(file, targets=["gap"])


def test_a_stream_whose_dictionaries_change_is_read(tmp_path):
    tables = [pa.table({"smiles": pa.array(s).dictionary_encode()}) for s in (["C", "N"], ["O"])]
    file = tmp_path / "m.arrow"
    with pa.ipc.new_stream(str(file), tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    assert shown(read(file, rows=2)) == ["C", "N", "O"]


@pytest.mark.parametrize("name", ["m.parquet", "m.arrow", "m.arrow.gz", "m.feather"])
@pytest.mark.parametrize("content", [b"no such thing at all", b"ARROW1 and then nothing", b"FEA1 of old"])
def test_what_is_no_columnar_file_is_an_error_that_names_it(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(DataError, match=r"m\.\w+.*(no Parquet file|no Arrow file|damaged|version 1)"):
        read(file)

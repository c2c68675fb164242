"""Splits: the same rows whatever the size, read back alone, of a file that has not changed."""

import gzip
import tracemalloc
from dataclasses import asdict

import msgpack
import pytest

from molstream.errors import DataError
from molstream.pipeline.readers import split as splits_module
from molstream.pipeline.readers.prepare import open_sources
from molstream.pipeline.readers.split import ReadConfig, cut, read_split
from tests.support.source_files import FORMATS, SMILES, TEXTS, read


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows", [1, 2, 4, 7, 8])
def test_any_split_size_gives_the_same_rows(tmp_path, format, rows):
    file = tmp_path / f"m.{format}"
    file.write_bytes(FORMATS[format])
    assert read(file, rows=rows) == read(file)


def test_a_split_is_a_few_strings_and_numbers(tmp_path):
    file = tmp_path / "m.csv"
    file.write_bytes(FORMATS["csv"])
    config = ReadConfig(target_columns=["value"])
    for split in cut(open_sources([str(file)], tmp_path, config), 3):
        assert len(msgpack.packb(asdict(split))) < 1000


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("marks", [1, 2, 3])
def test_rows_of_a_split_are_those_of_the_whole(tmp_path, monkeypatch, format, marks):
    monkeypatch.setattr(splits_module, "MARK_ROWS", marks)
    file = tmp_path / f"m.{format}"
    file.write_bytes(FORMATS[format])
    config = ReadConfig(target_columns=[] if format == "smi" else ["value"])
    for split in cut(open_sources([str(file)], tmp_path, config), 5):
        whole = list(map(repr, read_split(split)))
        for rows in (range(a, b) for a in range(split.rows) for b in range(a + 1, split.rows + 1)):
            assert list(map(repr, read_split(split, rows))) == whole[rows.start : rows.stop]


@pytest.mark.parametrize("format", ["smi", "csv", "tsv"])
def test_rows_are_read_without_those_before_and_behind_them(tmp_path, monkeypatch, format):
    """What is far away may even have changed."""
    monkeypatch.setattr(splits_module, "MARK_ROWS", 2)
    file = tmp_path / f"m.{format}"
    file.write_bytes(FORMATS[format])
    (split,) = cut(open_sources([str(file)], tmp_path, ReadConfig()), 10)
    middle = list(map(repr, read_split(split, range(2, 4))))
    data = bytearray(FORMATS[format])
    data[data.index(SMILES[0].encode())] ^= 1
    data[data.rindex(SMILES[-1].encode())] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"changed while"):
        list(read_split(split))
    assert list(map(repr, read_split(split, range(2, 4)))) == middle


@pytest.mark.parametrize("format", TEXTS)
def test_cutting_holds_no_file_in_memory(tmp_path, format):
    file = tmp_path / f"m.{format}.gz"
    head, *body = TEXTS[format].splitlines(keepends=True) if format in ("csv", "tsv") else ("", TEXTS[format])
    text = "".join(body)
    size = 10 << 20
    file.write_bytes(gzip.compress((head + text * (size // len(text))).encode(), 1))
    config = ReadConfig(smiles_column="smiles")
    tracemalloc.start()
    try:
        cut(open_sources([str(file)], tmp_path, config), 500)
        assert tracemalloc.get_traced_memory()[1] < size / 2, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


def test_a_file_that_changed_since_it_was_cut_is_an_error_that_names_it(tmp_path):
    file = tmp_path / "m.smi"
    for change in ("C\n" * 3, "N\n" * 7, ""):
        file.write_text("C\n" * 7)
        (split,) = cut(open_sources([str(file)], tmp_path, ReadConfig()), 10)
        file.write_text(change)
        with pytest.raises(DataError, match=r"m.smi changed while"):
            list(read_split(split))
    file.unlink()
    with pytest.raises(DataError, match=r"m.smi cannot be read on"):
        list(read_split(split))

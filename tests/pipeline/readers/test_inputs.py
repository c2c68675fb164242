"""From what a user names to the files that are read: folders, globs, links, options of a single input, the limit."""

import gzip
from pathlib import Path

import pytest

from molstream.compose import compose
from molstream.errors import ConfigError, DataError
from molstream.pipeline.config import PreprocessConfig
from molstream.pipeline.readers.discover import find_files
from molstream.pipeline.readers.prepare import open_sources
from molstream.pipeline.readers.split import ReadConfig, cut, read_split
from tests.support.datasets import REPOSITORY
from tests.support.source_files import FORMATS, SMILES, read, shown


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, b"") for name in ("e.csv", "e.smi", "e.sdf", "e.csv.gz", "e.parquet", "e.arrow")),
        ("h.csv", b"smiles,value\n"),
        ("e.smi.gz", gzip.compress(b"", mtime=0)),
        ("e.csv.gz", gzip.compress(b"", mtime=0)),
        ("blank.sdf", b"\n\n"),
    ],
)
def test_a_file_without_records_is_told_and_an_error_only_if_nothing_is_left(tmp_path, capsys, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"the input has no records \({name}\)"):
        read(tmp_path / name)
    (tmp_path / "z.smi").write_text("C\n")
    capsys.readouterr()
    assert shown(read(tmp_path)) == ["C"]
    assert f"{name} has no records\n" in capsys.readouterr().err


def test_every_input_may_have_options_of_its_own(tmp_path):
    (tmp_path / "a.csv").write_text("smiles,value\nC,1\n")
    (tmp_path / "b.csv").write_text("2\tCC\n3\tCCC\n")
    options = {"header": False, "delimiter": "tab", "smiles_column": 1, "target_columns": [0]}
    inputs = [str(tmp_path / "a.csv"), {"path": str(tmp_path / "b.csv"), **options}]
    config = ReadConfig(target_columns=["value"])
    first, second = open_sources(inputs, tmp_path, config)
    assert "options" not in first.record()
    assert second.record()["options"] == {**options, "smiles_column": "1", "target_columns": ["0"]}
    # The targets of a dataset have one set of names.
    with pytest.raises(DataError, match=r"different targets \(a.csv: value; b.csv: 0\)"):
        cut([first, second], 10)
    del options["target_columns"]
    inputs[1] = {"path": str(tmp_path / "b.csv"), **options}
    splits = cut(open_sources(inputs, tmp_path, ReadConfig()), 10)
    assert [record.text for split in splits for record in read_split(split)] == ["C", "CC", "CCC"]


def test_options_of_an_input_are_given_on_the_command_line_as_the_readme_says():
    given = "input=[a.csv,{path: b.txt, format: csv, delimiter: tab, header: false, smiles_column: 1}]"
    pages = "".join(page.read_text() for page in [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")])
    assert given in pages
    config = compose("preprocess", PreprocessConfig, [given, "output=x"])
    assert config.input == [
        "a.csv",
        {"path": "b.txt", "format": "csv", "delimiter": "tab", "header": "false", "smiles_column": "1"},
    ]


def test_an_unknown_option_of_an_input_is_an_error_that_names_the_known_ones(tmp_path):
    (tmp_path / "a.csv").write_text("smiles\nC\n")
    with pytest.raises(ConfigError, match=r"a.csv: unknown key 'delimitr'. Did you mean 'delimiter'"):
        find_files({"path": str(tmp_path / "a.csv"), "delimitr": "tab"}, ReadConfig())
    with pytest.raises(ConfigError, match=r"needs the key 'path'"):
        find_files([{"format": "csv"}], ReadConfig())
    with pytest.raises(ConfigError, match=r"format=cvs: expected auto, csv"):
        find_files([{"path": str(tmp_path / "a.csv"), "format": "cvs"}], ReadConfig())


def test_unknown_names_and_missing_files_are_errors(tmp_path):
    (tmp_path / "m.xyz").write_text("C")
    with pytest.raises(DataError, match=r"m.xyz: unknown format. Expected a name ending in .csv"):
        find_files([str(tmp_path / "m.xyz")], ReadConfig())
    for absent in ("no.csv", "*.csv", "."):
        with pytest.raises(DataError, match="no such file, and no file of a known format"):
            find_files([str(tmp_path / absent)], ReadConfig())
    with pytest.raises(DataError, match="empty list"):
        find_files([], ReadConfig())


def names(*inputs, **options) -> list[str]:
    return [Path(file.given).name for file in find_files(inputs, ReadConfig(**options))]


def test_folders_and_globs_stand_for_their_files_in_order_and_say_what_they_leave_out(tmp_path, capsys):
    for name in ("b.smi", "a.csv", "notes.md", "c.smi.gz"):
        (tmp_path / name).write_text("x")
    assert names(f"{tmp_path}/c*", f"{tmp_path}/*.smi") == ["c.smi.gz", "b.smi"]
    assert capsys.readouterr().err == ""
    for item in (str(tmp_path), f"{tmp_path}/*"):
        assert names(item) == ["a.csv", "b.smi", "c.smi.gz"]
        assert capsys.readouterr().err == f"{item}: 1 file(s) of another format left out: notes.md\n"
    # A format that is named holds for every file of a glob, and for those of a folder that look like it.
    assert names(f"{tmp_path}/*.md", format="smi") == ["notes.md"]
    assert names(str(tmp_path), format="smi") == ["b.smi", "c.smi.gz"]
    assert "2 file(s) of another format left out: a.csv, notes.md" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"b.smi more than once"):
        find_files([str(tmp_path), str(tmp_path / "b.smi")], ReadConfig())


def test_equal_names_in_two_folders_stay_apart(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.smi").write_text("C\n")
    records = read(tmp_path / "one" / "m.smi", tmp_path / "two" / "m.smi")
    assert [r.source for r in records] == ["one/m.smi", "two/m.smi"]


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (7, 7), (8, 8), (9, 9), (14, 14), (99, 14)])
def test_limit_counts_over_all_files(tmp_path, limit, expected):
    for name in ("a.smi", "b.smi"):
        (tmp_path / name).write_bytes(FORMATS["smi"])
    records = read(tmp_path, rows=3, limit=limit)
    assert shown(records) == (SMILES * 2)[:expected]


def test_the_format_may_be_named(tmp_path):
    file = tmp_path / "export.dat.gz"
    file.write_bytes(gzip.compress(b"smiles\nC\n"))
    assert shown(read(file, format="csv")) == ["C"]
    with pytest.raises(ConfigError, match=r"format=cvs: expected auto, csv, tsv.*qm9"):
        read(file, format="cvs")
    (tmp_path / "m.smi").write_text("C\n")
    with pytest.raises(DataError, match=r"m.smi has no column 'value' \(target\)"):
        read(tmp_path / "m.smi", targets=["value"])
    (tmp_path / "all.tar.gz").write_bytes(b"x")
    with pytest.raises(DataError, match=r"all.tar.gz: unknown format. It is an archive: unpack it first"):
        read(tmp_path / "all.tar.gz")


def test_a_link_is_called_and_read_by_its_own_name(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "5f3a").write_bytes(gzip.compress(b"smiles\nC\n"))
    (tmp_path / "m.csv.gz").symlink_to(tmp_path / "store" / "5f3a")
    assert [(r.source, r.text) for r in read(tmp_path / "m.csv.gz")] == [("m.csv.gz", "C")]
    (tmp_path / "n.csv.gz").symlink_to("m.csv.gz")
    with pytest.raises(DataError, match=r"m.csv.gz, .*n.csv.gz more than once"):
        read(tmp_path)

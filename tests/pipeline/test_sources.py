"""Files to records: the same rows whatever the format, compression and split size; no bad byte loses a neighbour."""

import bz2
import gzip
import io
import json
import lzma
import math
import tempfile
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather
from rdkit import Chem

from pipeline.config import compose
from pipeline.inputs import find_files
from pipeline.plan import PreprocessConfig
from pipeline.sources import ReadConfig, cut, open_sources, read_split
from preprocessing.errors import ConfigError, DataError
from preprocessing.fields import RawMolecule, Rejection
from tests.datasets import REPOSITORY

SMILES = ["CCO", "c1ccccc1", "C", "[Na+].[Cl-]", "C/C=C/C", "N", "O=C(O)c1ccccc1"]
COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def sdf(smiles: Sequence[str], values: Sequence[str]) -> str:
    """An SD file with the data item ``value``."""
    entries = [
        f"{Chem.MolToMolBlock(Chem.MolFromSmiles(s))}> <value>\n{value}\n\n> <name>\nx\n\n$$$$\n"
        for s, value in zip(smiles, values, strict=True)
    ]
    return "".join(entries)


VALUES = ["1.5", "", "-2", "1e3", "0", "7", "8"]
TABLE = pa.table({"name": ["n"] * 7, "smiles": SMILES, "value": [float(v) if v else None for v in VALUES]})


def columnar(write, **options) -> bytes:
    """The table as pyarrow writes it."""
    sink = io.BytesIO()
    write(TABLE, sink, **options)
    return sink.getvalue()


def ipc(new, table: pa.Table = TABLE) -> bytes:
    """The table in batches of two rows."""
    sink = io.BytesIO()
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


TEXTS = {
    "csv": "name,smiles,value\n" + "".join(f"n,{s},{v}\n" for s, v in zip(SMILES, VALUES)),
    "tsv": "name\tsmiles\tvalue\n" + "".join(f"n\t{s}\t{v}\n" for s, v in zip(SMILES, VALUES)),
    "smi": "".join(f"{s} name of {k}\n" for k, s in enumerate(SMILES)),
    "sdf": sdf(SMILES, VALUES),
    "jsonl": "".join(f'{{"smiles": "{s}", "value": {v or "null"}}}\n' for s, v in zip(SMILES, VALUES)),
}
FORMATS = {
    **{format: text.encode() for format, text in TEXTS.items()},
    "parquet": columnar(pq.write_table, row_group_size=3),
    "arrow": ipc(pa.ipc.new_file),
    "ipc": ipc(pa.ipc.new_stream),
    "feather": columnar(feather.write_feather, compression="lz4", chunksize=4),
}


def read(*files: Path | str, rows: int = 1000, targets: Sequence[str] = (), column=None, limit=None, **options):
    """All records of the files; compressed ones are unpacked beside the first."""
    config = ReadConfig(smiles_column=column, target_columns=list(targets), **options)
    work = Path(find_files([str(file) for file in files], config)[0].given).parent / "work"
    work.mkdir(exist_ok=True)
    splits = cut(open_sources([str(file) for file in files], work, config), rows, limit)
    assert all(0 < split.rows <= rows for split in splits)
    return [record for split in splits for record in read_split(split)]


def table(tmp_path: Path, body: bytes, rows: int = 1000, targets: Sequence[str] = ("value",)):
    """The records of a CSV with the columns smiles and value."""
    file = tmp_path / "t.csv"
    file.write_bytes(b"smiles,value\n" + body)
    return read(file, rows=rows, targets=targets)


def shown(records) -> list[str]:
    """A word per record: the text of a molecule, the reason of a rejection."""
    return [r.text if isinstance(r, RawMolecule) else f"<{r.reason}>" for r in records]


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_and_compression_gives_the_same_molecules(tmp_path, format, compression):
    file = tmp_path / f"m.{format}{compression}"
    file.write_bytes(COMPRESS[compression](FORMATS[format]))
    records = read(file, targets=() if format == "smi" else ["value"], rows=3)
    assert [(r.source, r.row) for r in records] == [(file.name, k) for k in range(7)]
    if format == "sdf":
        found = [Chem.MolToSmiles(Chem.MolFromMolBlock(r.text)) for r in records]
        assert found == [Chem.CanonSmiles(s) for s in SMILES]
    else:
        assert shown(records) == SMILES
    if format != "smi":
        assert [r.targets[0] for r in records[2:]] == [-2, 1000, 0, 7, 8]
        assert math.isnan(records[1].targets[0])


CELLS = st.sampled_from(
    [b"CCO,1", b"", b'"CCO",1', b'CC"O,1', b'"CCO,1', b'"a\nb",2', b'"a""b",3', b'x"y","z', b'"', b'""', b"C,1,2",
     b"\xff,1", b"C\r", b'"a,\n\nb",4', b'C,"5\n6"']
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(lines=st.lists(CELLS, min_size=1, max_size=12), rows=st.integers(1, 5), last=st.sampled_from([b"", b"\n"]))
def test_any_split_size_gives_the_same_rows_of_a_messy_table(tmp_path_factory, lines, rows, last):
    folder = tmp_path_factory.mktemp("t")
    body = b"\n".join(lines) + last
    if not body:
        return
    whole = table(folder, body)
    assert repr(table(folder, body, rows)) == repr(whole)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows", [1, 2, 4, 7, 8])
def test_any_split_size_gives_the_same_rows(tmp_path, format, rows):
    file = tmp_path / f"m.{format}"
    file.write_bytes(FORMATS[format])
    assert read(file, rows=rows) == read(file)


def test_a_quoted_record_may_span_lines(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text('smiles,note,value\nCCO,"two\nlines, ""quoted""",1\nC,x,2\n')
    records = read(file, targets=["value"])
    assert [(r.text, r.targets) for r in records] == [("CCO", (1.0,)), ("C", (2.0,))]


@pytest.mark.parametrize("stray", [b'"CCN,7', b'CC"N,7', b'CCN,"7', b'CCN,7"'])
@pytest.mark.parametrize("later", [b"", b'"CCO",5\n', b'CC"O,1\n'])
def test_a_stray_quote_costs_its_own_row_at_most(tmp_path, stray, later):
    good = b"".join(b"%s,1\n" % (b"C" * n) for n in range(1, 40))
    records = table(tmp_path, stray + b"\n" + good + later)
    assert shown(records)[1:40] == ["C" * n for n in range(1, 40)]
    assert [r.row for r in records] == list(range(len(records)))


@pytest.mark.parametrize("format", ["csv", "smi"])
def test_byte_order_mark_and_windows_line_ends_are_no_content(tmp_path, format):
    file = tmp_path / f"m.{format}"
    file.write_bytes(b"\xef\xbb\xbf" + FORMATS[format].replace(b"\n", b"\r\n"))
    targets = ["value"] if format == "csv" else []
    records = read(file, targets=targets)
    assert shown(records) == SMILES
    if targets:
        assert records[0].targets == (1.5,)


def test_an_sdf_with_windows_line_ends_is_read_with_its_values(tmp_path):
    file = tmp_path / "m.sdf"
    file.write_bytes(FORMATS["sdf"].replace(b"\n", b"\r\n"))
    records = read(file, targets=["value"])
    assert [Chem.MolFromMolBlock(r.text).GetNumAtoms() for r in records] == [3, 6, 1, 2, 4, 1, 9]
    assert records[3].targets == (1000.0,)


def test_blank_lines_are_rows(tmp_path):
    assert shown(table(tmp_path, b"C,1\n\nN,2\n\r\n")) == ["C", "", "N", ""]
    file = tmp_path / "m.smi"
    file.write_text("C\n\nN\n")
    assert shown(read(file)) == ["C", "", "N"]


def test_bad_cells_cost_one_row_each(tmp_path):
    records = table(tmp_path, b"C,1\n\xff\xfe,2\nN\nO,1,2\nCl,abc\nF,\nS,nan\n")
    assert shown(records) == [
        "C",
        "<undecodable_bytes>",
        "<malformed_row>",
        "<malformed_row>",
        "<bad_target>",
        "F",
        "S",
    ]
    rejected = [r for r in records if isinstance(r, Rejection)]
    assert {r.stage for r in rejected} == {"read"}
    assert [(r.row, r.text.strip()) for r in rejected][:2] == [(1, "\\xff\\xfe,2"), (2, "N")]
    assert "'abc'" in rejected[-1].detail


@pytest.mark.parametrize(
    ("header", "arguments", "message"),
    [
        ("id,structure_", {}, r"none of its columns \(id, structure_\).*smiles_column="),
        ("id,SMILES", {"column": "smi"}, r"no column 'smi' \(smiles_column\); its columns are id, SMILES"),
        ("id,SMILES", {"targets": ["gap"]}, r"no column 'gap' \(target_columns\); its columns are id, SMILES"),
    ],
)
def test_a_missing_column_is_an_error_that_lists_the_columns(tmp_path, header, arguments, message):
    file = tmp_path / "t.csv"
    file.write_text(f"{header}\n1,CCO\n")
    with pytest.raises(DataError, match=message):
        read(file, **arguments)


def test_the_smiles_column_is_guessed_whatever_its_case(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("id,Canonical_SMILES\n1,CCO\n")
    assert shown(read(file)) == ["CCO"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, b"") for name in ("e.csv", "e.smi", "e.sdf", "e.csv.gz", "e.parquet", "e.arrow")),
        ("h.csv", b"smiles,value\n"),
        ("e.smi.gz", gzip.compress(b"")),
        ("e.csv.gz", gzip.compress(b"")),
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


def test_a_mol_file_is_one_entry(tmp_path):
    (tmp_path / "m.mol").write_text(TEXTS["sdf"].split("$$$$")[0])
    (record,) = read(tmp_path / "m.mol")
    assert record.format == "molblock"
    assert record.text.startswith(TEXTS["sdf"].split("\n")[0])


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
    assert given in (REPOSITORY / "README.md").read_text()
    config = compose("preprocess", PreprocessConfig, [given, "output=x"])
    assert config.input == [
        "a.csv",
        {"path": "b.txt", "format": "csv", "delimiter": "tab", "header": False, "smiles_column": 1},
    ]


def test_an_unknown_option_of_an_input_is_an_error_that_names_the_known_ones(tmp_path):
    (tmp_path / "a.csv").write_text("smiles\nC\n")
    with pytest.raises(ConfigError, match=r"a.csv': unknown key 'delimitr'. Did you mean 'delimiter'"):
        find_files({"path": str(tmp_path / "a.csv"), "delimitr": "tab"}, ReadConfig())
    with pytest.raises(ConfigError, match=r"needs the key 'path'"):
        find_files([{"format": "csv"}], ReadConfig())
    with pytest.raises(ConfigError, match=r"format=cvs: expected auto, csv"):
        find_files([{"path": str(tmp_path / "a.csv"), "format": "cvs"}], ReadConfig())


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_a_damaged_compressed_file_is_an_error_and_leaves_nothing(tmp_path, compression, damage):
    file = tmp_path / f"m.csv{compression}"
    data = bytearray(COMPRESS[compression](FORMATS["csv"] * 50))
    if damage == "truncated":
        del data[-20:]
    else:
        data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"truncated or damaged.*fetch the file again"):
        read(file)
    assert list((tmp_path / "work").iterdir()) == []


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


def test_an_sdf_entry_that_is_cut_short_is_one_rejection(tmp_path):
    file = tmp_path / "m.sdf"
    whole = TEXTS["sdf"]
    file.write_text(whole.removesuffix("$$$$\n"))
    assert [type(r) for r in read(file)] == [RawMolecule] * 7
    file.write_text(whole[: whole.rindex("M  END")])
    records = read(file)
    assert [type(r) for r in records] == [RawMolecule] * 6 + [Rejection]
    assert "M  END" in records[-1].detail
    file.write_text("broken\n$$$$\n" + whole + "\n\n")
    assert [type(r) for r in read(file)] == [Rejection] + [RawMolecule] * 7


def test_parts_of_a_compressed_file_are_read_one_after_the_other(tmp_path):
    for ending, compress in COMPRESS.items():
        file = tmp_path / f"m.smi{ending}"
        file.write_bytes(compress(b"C\n") + compress(b"N\n"))
        assert shown(read(file)) == ["C", "N"]


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
    with pytest.raises(DataError, match=r"no column 'gap' \(target_columns\); its columns are b, smiles"):
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


def test_lines_of_json_give_geometry_or_smiles(tmp_path):
    file = tmp_path / "m.jsonl"
    lines = [
        '{"e": 3, "positions": [[[0, 0, 0]]], "numbers": [6], "smiles": "C", "more": 1}',
        '{"smiles": " CC ", "e": true}',
        '{"smiles": 3}',
        "[1]",
        "{",
        "",
        '{"smiles": "N", "e": "much"}',
        "[" * 100_000,
    ]
    file.write_text("\n".join(lines))
    records = read(file, targets=["e"])
    assert shown(records)[1:] == ["CC", *["<malformed_row>"] * 3, "", "<bad_target>", "<malformed_row>"]
    assert [(r.format, r.targets) for r in records[:2]] == [("geometry", (3.0,)), ("smiles", (1.0,))]
    assert json.loads(records[0].text) == {"smiles": "C", "numbers": [6], "positions": [[[0, 0, 0]]]}


def test_a_guessed_column_is_told_once_a_named_one_never(tmp_path, capsys):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("id,SMILES\n1,C\n2,N\n3,O\n")
    read(tmp_path, rows=1)
    expected = [f"{name}: SMILES are read from the column 'SMILES'" for name in ("a.csv", "b.csv")]
    assert capsys.readouterr().err.splitlines() == expected
    read(tmp_path, column="SMILES")
    assert capsys.readouterr().err == ""


def test_a_table_without_header_or_with_other_delimiters_is_read_when_told_so(tmp_path):
    file = tmp_path / "m.csv"
    file.write_text("CCO\t1.5\nCN(C)C\t2\n")
    with pytest.raises(DataError, match=r"delimiter=tab\. .*header=false and smiles_column=0"):
        read(file)
    records = read(file, column="0", targets=["1"], delimiter="tab", header=False)
    assert [(r.row, r.text, r.targets) for r in records] == [(0, "CCO", (1.5,)), (1, "CN(C)C", (2.0,))]
    with pytest.raises(DataError, match=r"2 columns without names.*smiles_column=0 to 1"):
        read(file, delimiter="tab", header=False)
    with pytest.raises(DataError, match=r"no column 'smiles' \(smiles_column\); its columns are 0, 1"):
        read(file, column="smiles", delimiter="tab", header=False)
    file.write_text('smiles;note\n"C";"a;b\nc"\n')
    assert shown(read(file, delimiter=";")) == ["C"]
    file.write_text("C\nN\n")
    assert shown(read(file, header=False)) == ["C", "N"]
    with pytest.raises(ConfigError, match=r"delimiter=tabs: expected a character or one of tab,"):
        ReadConfig(delimiter="tabs")


def test_a_stray_quote_in_the_header_costs_no_row(tmp_path):
    file = tmp_path / "m.csv"
    file.write_text('smiles,"note\nC,1\nN,2\n')
    assert shown(read(file)) == ["C", "N"]


def test_the_format_may_be_named(tmp_path):
    file = tmp_path / "export.dat.gz"
    file.write_bytes(gzip.compress(b"smiles\nC\n"))
    assert shown(read(file, format="csv")) == ["C"]
    with pytest.raises(ConfigError, match=r"format=cvs: expected auto, csv, tsv.*qm9"):
        read(file, format="cvs")
    (tmp_path / "m.smi").write_text("C\n")
    with pytest.raises(DataError, match=r"m.smi has no column 'value' \(target_columns\)"):
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


def test_a_split_is_a_few_strings_and_numbers(tmp_path):
    file = tmp_path / "m.csv"
    file.write_bytes(FORMATS["csv"])
    config = ReadConfig(target_columns=["value"])
    for split in cut(open_sources([str(file)], tmp_path, config), 3):
        assert len(json.dumps(asdict(split))) < 1000


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


def test_real_broken_sdf_loses_only_its_broken_entry(shared_data):
    file = shared_data / "nasty" / "datamol_TUBB3-observations-last-broken.sdf.gz"
    records = read_readonly(file)
    assert len(records) == 10
    assert all(isinstance(r, RawMolecule) for r in records[:9])


def read_readonly(file: Path):
    """:func:`read` for a file in a folder that is not ours."""
    with tempfile.TemporaryDirectory() as work:
        splits = cut(open_sources([str(file)], Path(work), ReadConfig()), 4)
        return [record for split in splits for record in read_split(split)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pretrain_smiles/pubchem_substances_100k_standardize_sm.csv.gz", {"delimiter": "tab", "header": False}),
        ("nasty/100kPCS/100kPCS_validate.csv.gz", {"delimiter": "tab", "header": False}),
        ("nasty/100kPCS/100kPCS_metals.csv.gz", {"delimiter": "tab", "header": False}),
        ("nasty/micro_ZINC_corrupt.csv", {"smiles_column": "SMILES1"}),
    ],
)
def test_the_error_of_an_odd_table_names_the_options_that_read_it(shared_data, name, options):
    """Following the messages, one after the other, must lead to molecules."""
    file = shared_data / name
    with tempfile.TemporaryDirectory() as work:

        def molecules(**options: Any) -> list[Any]:
            sources = open_sources(str(file), Path(work), ReadConfig(**options))
            return [record for split in cut(sources, 100, 100) for record in read_split(split)]

        with pytest.raises(DataError) as caught:
            molecules()
        for key, value in options.items():
            if key != "smiles_column":
                assert f"{key}={str(value).lower()}" in str(caught.value)
        if "header" in options:
            with pytest.raises(DataError, match=r"without names \(header=false\).*smiles_column=0 to 1"):
                molecules(**options)
            options = {**options, "smiles_column": "0"}
        else:
            assert "smiles_column=" in str(caught.value)
            assert "SMILES1" in str(caught.value)
        records = molecules(**options)
        assert len(records) == 100
        assert all(isinstance(record, RawMolecule) for record in records)

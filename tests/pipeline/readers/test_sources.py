"""Files to records: the same rows whatever the format, compression and split size; no bad byte loses a neighbour."""

import csv
import gzip
import json
import math
import tempfile
import tracemalloc
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from molstream.errors import ConfigError, DataError
from molstream.pipeline.readers import split as splits_module
from molstream.pipeline.readers.prepare import open_sources
from molstream.pipeline.readers.split import ReadConfig, cut, read_split
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import RawMolecule, Rejection
from tests.support.source_files import COMPRESS, FORMATS, SMILES, TEXTS, ipc, read, sdf, shown, table


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
        ("id,SMILES", {"targets": ["gap"]}, r"no column 'gap' \(target\); its columns are id, SMILES"),
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
    ("names", "chosen"),
    [
        ("canonical_smiles,isomeric_smiles", 1),
        ("IsomericSMILES,CanonicalSMILES", 0),
        ("ConnectivitySMILES,SMILES", 1),
        ("smiles,Isomeric SMILES", 1),
        ("canonical_smiles,smiles", 1),
        ("connectivity_smiles,isosmiles", 1),
        ("mol,smi", 1),
    ],
)
def test_the_column_with_stereochemistry_is_guessed(tmp_path, names, chosen, capsys):
    (tmp_path / "t.csv").write_text(f"{names}\n{'CC,C[C@H](N)C(=O)O' if chosen else 'C[C@H](N)C(=O)O,CC'}\n")
    assert shown(read(tmp_path / "t.csv")) == ["C[C@H](N)C(=O)O"]
    assert f"SMILES are read from the column '{names.split(',')[chosen]}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("smiles,p,smiles,p", {}, r"has 2 columns called 'smiles' \(SMILES\), numbers 1 and 3: rename"),
        ("smiles,p,smiles,p", {"column": "smiles"}, r"2 columns called 'smiles' \(smiles_column\), numbers 1 and 3"),
        ("smiles,p,x,p", {"targets": ["p"]}, r"2 columns called 'p' \(target\), numbers 2 and 4"),
        (
            "SMILES,p,smiles,q",
            {},
            r"several columns that may hold the SMILES, 'SMILES' and 'smiles': choose, smiles_co",
        ),
        ("iso_smiles,isomeric_smiles,p,q", {}, r"several columns .*'iso_smiles' and 'isomeric_smiles'"),
    ],
)
@pytest.mark.parametrize("format", ["csv", "parquet", "arrow"])
def test_columns_that_cannot_be_told_apart_are_an_error_that_names_them(tmp_path, format, names, options, message):
    file = tmp_path / f"t.{format}"
    columns = names.split(",")
    found = pa.Table.from_arrays([pa.array([text]) for text in ("CCO", "5", "CCCCC", "9")], columns)
    if format == "csv":
        file.write_text(f"{names}\nCCO,5,CCCCC,9\n")
    elif format == "parquet":
        pq.write_table(found, file)
    else:
        file.write_bytes(ipc(pa.ipc.new_file, found))
    with pytest.raises(DataError, match=message):
        read(file, **options)


def test_a_name_that_occurs_twice_among_columns_that_are_not_read_does_no_harm(tmp_path):
    (tmp_path / "t.csv").write_text("p,smiles,p\n1,CCO,2\n")
    assert shown(read(tmp_path / "t.csv")) == ["CCO"]


def test_a_value_that_is_given_twice_is_refused(tmp_path):
    file = tmp_path / "m.sdf"
    entry = TEXTS["sdf"].split("> <value>")[0]
    file.write_text(f"{entry}> <value>\n1\n\n> <value>\n2\n\n$$$$\n{entry}> <value>\n1\n2\n\n$$$$\n")
    assert shown(read(file, targets=["value"])) == ["<bad_target>", "<bad_target>"]
    assert [type(r) for r in read(file)] == [RawMolecule] * 2
    (tmp_path / "m.jsonl").write_text(
        '{"smiles": "C", "e": 1, "e": 2}\n{"smiles": "C", "smiles": "N"}\n{"smiles": "O"}\n'
    )
    assert shown(read(tmp_path / "m.jsonl", targets=["e"])) == ["<malformed_row>", "<malformed_row>", "O"]
    with pytest.raises(ConfigError, match=r"target_columns=\[e,e\]: a column is named twice"):
        ReadConfig(target_columns=["e", "e"])


INFINITE = ["inf", "-inf", "Infinity", "1e39", "-3.5e38", "1e400", "1_000"]


@pytest.mark.parametrize("value", INFINITE)
@pytest.mark.parametrize("format", ["csv", "tsv", "sdf", "jsonl", "parquet", "arrow"])
def test_a_target_that_float32_cannot_hold_is_refused(tmp_path, format, value):
    file = tmp_path / f"m.{format}"
    values, smiles = [value, "3.4e38", "nan", ""], SMILES[:4]
    rows = list(zip(smiles, values, strict=True))
    if format in ("csv", "tsv"):
        tab = "," if format == "csv" else "\t"
        file.write_text(f"smiles{tab}value\n" + "".join(f"{s}{tab}{v}\n" for s, v in rows))
    elif format == "sdf":
        file.write_text(sdf(smiles, values))
    elif format == "jsonl":
        # Python's own JSON has numbers that are no JSON, as much software writes them.
        given = [float(value) if "_" not in value else value, 3.4e38, float("nan"), None]
        file.write_text("".join(json.dumps({"smiles": s, "value": v}) + "\n" for s, v in zip(smiles, given)))
    else:
        found = pa.table({"smiles": smiles, "value": values})
        file.write_bytes(ipc(pa.ipc.new_file, found)) if format == "arrow" else pq.write_table(found, file)
    records = read(file, targets=["value"])
    assert [getattr(r, "reason", "") for r in records] == ["bad_target", "", "", ""]
    assert records[1].targets == (3.4e38,)
    assert all(math.isnan(record.targets[0]) for record in records[2:])


def test_infinite_numbers_of_a_column_of_numbers_are_refused(tmp_path):
    found = pa.table({"smiles": SMILES[:3], "value": pa.array([math.inf, 1e39, 1.5], pa.float64())})
    pq.write_table(found, tmp_path / "m.parquet")
    records = read(tmp_path / "m.parquet", targets=["value"])
    assert [getattr(r, "reason", "") for r in records] == ["bad_target", "bad_target", ""]


EXTENSIONS = [
    ("C1CCCC=CCC1 |t:4|", "C1CCCC=CCC1 |t:4|", r"C1=C/CCCCCC/1"),
    ("C1CCCC=CCC1\t|c:4|\tcis-cyclooctene", "C1CCCC=CCC1 |c:4|", r"C1=C\CCCCCC/1"),
    ("C |^1:0| methyl radical", "C |^1:0|", "[CH3]"),
    ("C   |^1:0|methyl", "C |^1:0|", "[CH3]"),
    ("CC |$first atom;$| two words", "CC |$first atom;$|", "<indefinite_structure>"),
    ("C || name", "C ||", "C"),
    ("CCO |racemic| batch 7", "CCO", "CCO"),
    ("CCO a|b|c", "CCO", "CCO"),
    ("CCO ethanol |t:4|", "CCO", "CCO"),
    ("CCO | old", "CCO", "CCO"),
    ("C1CCCC=CCC1 |t:4", "C1CCCC=CCC1 |t:4", "<unparsable>"),
    ("C |nosuch:4|", "C |nosuch:4|", "<unparsable>"),
]


@pytest.mark.parametrize(("line", "text", "smiles"), EXTENSIONS)
def test_a_cxsmiles_extension_is_a_part_of_the_molecule(tmp_path, line, text, smiles):
    """What begins as an extension is one, or refused; what does not is a name."""
    (tmp_path / "m.smi").write_text(f"{line}\n")
    (record,) = read(tmp_path / "m.smi")
    assert record.text == text
    found = featurize(record)
    assert (f"<{found.reason}>" if isinstance(found, Rejection) else found.smiles) == smiles


@pytest.mark.parametrize("format", ["csv", "parquet", "jsonl"])
def test_a_mol_block_where_smiles_are_expected_is_read_as_one(tmp_path, format):
    blocks = [Chem.MolToMolBlock(Chem.MolFromSmiles(s)) for s in ("CCO", "c1ccccc1")]
    blocks[1] = blocks[1].replace("\n", "\r\n")
    file = tmp_path / f"m.{format}"
    if format == "csv":
        with file.open("w", newline="") as stream:
            csv.writer(stream).writerows([["smiles", "value"], *([block, 1] for block in blocks), ["CCN", 2]])
    elif format == "parquet":
        pq.write_table(pa.table({"smiles": [*blocks, "CCN"], "value": [1, 1, 2]}), file)
    else:
        file.write_text("".join(json.dumps({"smiles": text, "value": 1}) + "\n" for text in [*blocks, "CCN"]))
    records = read(file, targets=["value"])
    assert [record.format for record in records] == ["molblock", "molblock", "smiles"]
    assert [featurize(record).smiles for record in records] == ["CCO", "c1ccccc1", "CCN"]


def test_a_mol_file_is_one_entry(tmp_path):
    (tmp_path / "m.mol").write_text(TEXTS["sdf"].split("$$$$")[0])
    (record,) = read(tmp_path / "m.mol")
    assert record.format == "molblock"
    assert record.text.startswith(TEXTS["sdf"].split("\n")[0])


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


def test_an_entry_without_data_items_is_a_molecule(tmp_path):
    file = tmp_path / "m.sdf"
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    file.write_text(f"{block}$$$$\n{block}> <value>\n3\n\n$$$$\n{block}")
    assert [record.targets for record in read(file)] == [(), (), ()]
    first, second, third = (record.targets[0] for record in read(file, targets=["value"]))
    assert math.isnan(first)
    assert second == 3
    assert math.isnan(third)

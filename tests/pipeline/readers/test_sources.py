"""Files to records: the same rows whatever the format, compression and split size; no bad byte loses a neighbour."""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from molstream.errors import ConfigError, DataError
from molstream.pipeline.readers.prepare import open_sources
from molstream.pipeline.readers.split import ReadConfig, cut, read_split
from molstream.preprocessing.fields import RawMolecule, Rejection
from tests.support.source_files import COMPRESS, FORMATS, SMILES, TEXTS, read, shown, table


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

"""Columns and cells: which is the molecule, which are targets, and what each of them may hold."""

import csv
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from molstream.errors import ConfigError, DataError
from molstream.pipeline.readers.split import ReadConfig
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import RawMolecule, Rejection
from tests.support.source_files import SMILES, TEXTS, ipc, read, sdf, shown, table


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


def test_a_guessed_column_is_told_once_a_named_one_never(tmp_path, capsys):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("id,SMILES\n1,C\n2,N\n3,O\n")
    read(tmp_path, rows=1)
    expected = [f"{name}: SMILES are read from the column 'SMILES'" for name in ("a.csv", "b.csv")]
    assert capsys.readouterr().err.splitlines() == expected
    read(tmp_path, column="SMILES")
    assert capsys.readouterr().err == ""

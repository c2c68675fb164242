"""Files to records: the same rows whatever the format, compression and split size; no bad byte loses a neighbour."""

import bz2
import gzip
import lzma
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from pipeline.sources import cut, find_files, open_sources, read_split
from preprocessing.errors import DataError
from preprocessing.fields import RawMolecule, Rejection

SMILES = ["CCO", "c1ccccc1", "C", "[Na+].[Cl-]", "C/C=C/C", "N", "O=C(O)c1ccccc1"]
COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def sdf(smiles: Sequence[str], values: Sequence[str]) -> str:
    """An SD file with the data item ``value``."""
    entries = [
        f"{Chem.MolToMolBlock(Chem.MolFromSmiles(s))}> <value>\n{value}\n\n> <name>\nx\n\n$$$$\n"
        for s, value in zip(smiles, values, strict=True)
    ]
    return "".join(entries)


VALUES = ["1.5", "", "-2", "1e3", "0", "7", "8"]
FORMATS = {
    "csv": "name,smiles,value\n" + "".join(f"n,{s},{v}\n" for s, v in zip(SMILES, VALUES)),
    "tsv": "name\tsmiles\tvalue\n" + "".join(f"n\t{s}\t{v}\n" for s, v in zip(SMILES, VALUES)),
    "smi": "".join(f"{s} name of {k}\n" for k, s in enumerate(SMILES)),
    "sdf": sdf(SMILES, VALUES),
}


def read(*files: Path | str, rows: int = 1000, targets: Sequence[str] = (), column=None, limit=None):
    """All records of the files; compressed ones are unpacked beside the first."""
    found = find_files([str(file) for file in files])
    work = found[0].parent / "work"
    work.mkdir(exist_ok=True)
    splits = cut(open_sources(found, work), rows, column, targets, limit)
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
    file.write_bytes(COMPRESS[compression](FORMATS[format].encode()))
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


@pytest.mark.parametrize("format", ["smi", "sdf"])
@pytest.mark.parametrize("rows", [1, 2, 4, 7, 8])
def test_any_split_size_gives_the_same_rows(tmp_path, format, rows):
    file = tmp_path / f"m.{format}"
    file.write_text(FORMATS[format])
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
    file.write_bytes(b"\xef\xbb\xbf" + FORMATS[format].replace("\n", "\r\n").encode())
    targets = ["value"] if format == "csv" else []
    records = read(file, targets=targets)
    assert shown(records) == SMILES
    if targets:
        assert records[0].targets == (1.5,)


def test_an_sdf_with_windows_line_ends_is_read_with_its_values(tmp_path):
    file = tmp_path / "m.sdf"
    file.write_bytes(FORMATS["sdf"].replace("\n", "\r\n").encode())
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


@pytest.mark.parametrize("name", ["e.csv", "e.smi", "e.sdf", "e.csv.gz"])
def test_an_empty_file_is_an_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=f"{name} is empty"):
        read(tmp_path / name)


@pytest.mark.parametrize(("name", "content"), [("h.csv", b"smiles,value\n"), ("e.smi.gz", gzip.compress(b""))])
def test_a_file_without_records_is_an_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} has no records"):
        read(tmp_path / name)


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz"])
@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_a_damaged_compressed_file_is_an_error_and_leaves_nothing(tmp_path, compression, damage):
    file = tmp_path / f"m.csv{compression}"
    data = bytearray(COMPRESS[compression](FORMATS["csv"].encode() * 50))
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
        find_files([str(tmp_path / "m.xyz")])
    for absent in ("no.csv", "*.csv", "."):
        with pytest.raises(DataError, match="no such file, and no file of a known format"):
            find_files([str(tmp_path / absent)])
    with pytest.raises(DataError, match="empty list"):
        find_files([])


def test_folders_and_globs_stand_for_their_files_in_order(tmp_path):
    for name in ("b.smi", "a.csv", "notes.md", "c.smi.gz"):
        (tmp_path / name).write_text("x")
    assert [f.name for f in find_files([str(tmp_path)])] == ["a.csv", "b.smi", "c.smi.gz"]
    assert [f.name for f in find_files([f"{tmp_path}/c*", f"{tmp_path}/*.smi"])] == ["c.smi.gz", "b.smi"]
    with pytest.raises(DataError, match=r"b.smi more than once"):
        find_files([str(tmp_path), str(tmp_path / "b.smi")])


def test_equal_names_in_two_folders_stay_apart(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.smi").write_text("C\n")
    records = read(tmp_path / "one" / "m.smi", tmp_path / "two" / "m.smi")
    assert [r.source for r in records] == ["one/m.smi", "two/m.smi"]


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (7, 7), (8, 8), (9, 9), (14, 14), (99, 14)])
def test_limit_counts_over_all_files(tmp_path, limit, expected):
    for name in ("a.smi", "b.smi"):
        (tmp_path / name).write_text(FORMATS["smi"])
    records = read(tmp_path, rows=3, limit=limit)
    assert shown(records) == (SMILES * 2)[:expected]


def test_an_sdf_entry_that_is_cut_short_is_one_rejection(tmp_path):
    file = tmp_path / "m.sdf"
    whole = FORMATS["sdf"]
    file.write_text(whole.removesuffix("$$$$\n"))
    assert [type(r) for r in read(file)] == [RawMolecule] * 7
    file.write_text(whole[: whole.rindex("M  END")])
    records = read(file)
    assert [type(r) for r in records] == [RawMolecule] * 6 + [Rejection]
    assert "M  END" in records[-1].detail
    file.write_text("broken\n$$$$\n" + whole + "\n\n")
    assert [type(r) for r in read(file)] == [Rejection] + [RawMolecule] * 7


def test_a_file_that_changed_since_it_was_cut_is_an_error_that_names_it(tmp_path):
    file = tmp_path / "m.smi"
    for change in ("C\n" * 3, "N\n" * 7, ""):
        file.write_text("C\n" * 7)
        (split,) = cut(open_sources([file], tmp_path), 10, None, (), None)
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
        splits = cut(open_sources([file], Path(work)), 4, None, (), None)
        return [record for split in splits for record in read_split(split)]

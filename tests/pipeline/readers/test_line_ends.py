"""Every record of a text file is found, whichever characters end its lines."""

import io

import pytest

from molstream.pipeline.readers.lines import LineReader
from tests.support.source_files import SMILES, TEXTS, read, shown

ENDS = {"unix": "\n", "windows": "\r\n", "mac": "\r", "text mode": "\r\r\n"}


@pytest.mark.parametrize("rows", [1, 2, 1000])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("format", TEXTS)
def test_records_do_not_depend_on_the_line_ends(tmp_path, format, end, rows):
    file = tmp_path / f"m.{format}"
    file.write_bytes(TEXTS[format].replace("\n", end).encode())
    targets = [] if format == "smi" else ["value"]
    whole = tmp_path / f"whole.{format}"
    whole.write_text(TEXTS[format])
    found, expected = read(file, rows=rows, targets=targets), read(whole, targets=targets)
    assert len(found) == len(SMILES)
    assert [str(record.targets) for record in found] == [str(record.targets) for record in expected]
    if format != "sdf":
        assert shown(found) == SMILES


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"smiles\nCCO\nCCCl\rCCN\nC\n", ["CCO", "CCCl", "CCN", "C"]),
        (b"smiles\rCCO\nCCCl\r\nCCN", ["CCO", "CCCl", "CCN"]),
        (b"smiles\r\rCCO\r", ["", "CCO"]),
        (b'smiles,name\rCCO,"a\rb"\rCC,c\r', ["CCO", "CC"]),
        (b'smiles,name\rCCO,"a\rCC,c\r', ["CCO", "CC"]),
    ],
)
def test_line_ends_may_be_mixed(tmp_path, content, expected):
    file = tmp_path / "m.csv"
    file.write_bytes(content)
    assert shown(read(file, rows=1)) == expected


def test_lines_are_the_bytes_of_the_file_and_can_be_put_back():
    content = bytes(range(256)) * 600 + b"\r\r\n" * 3 + b"\r"
    assert b"".join(LineReader(io.BytesIO(content))) == content
    lines = LineReader(io.BytesIO(b"a\rb\nc"))
    first, second = next(lines), next(lines)
    lines.put_back([first, second])
    assert list(lines) == [b"a\r", b"b\n", b"c"]


def test_an_extension_of_a_smiles_is_kept_and_a_name_is_not(tmp_path):
    file = tmp_path / "m.smi"
    names = ["C |^1:0|", "C |^1:0| name", "C\t|^1:0|\tname |x|", "C name |^1:0|", "C |name", "C"]
    file.write_text("\n".join(names))
    assert shown(read(file)) == ["C |^1:0|"] * 3 + ["C"] * 3


@pytest.mark.parametrize("value", ["inf", "-inf", "1e39", "-1e300", "Infinity"])
def test_a_target_that_cannot_be_stored_costs_its_row(tmp_path, value):
    file = tmp_path / "m.csv"
    file.write_text(f"smiles,y\nC,1\nCC,{value}\nCCC,3.4e38\nCCCC,nan\n")
    assert shown(read(file, targets=["y"])) == ["C", "<bad_target>", "CCC", "CCCC"]


def test_a_mol_block_in_a_cell_is_one(tmp_path):
    block = TEXTS["sdf"].split("M  END")[0] + "M  END\n"
    file = tmp_path / "m.csv"
    file.write_text(f'smiles,y\n"{block}",1\nCCO,2\n')
    first, second = read(file)
    assert (first.format, first.text) == ("molblock", block)
    assert (second.format, second.text) == ("smiles", "CCO")

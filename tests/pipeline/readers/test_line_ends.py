"""Line ends: a lone carriage return ends a line like any other, so that no row hides behind the one before it."""

import gzip
import io
import itertools
import re

import pytest
from rdkit import Chem

from molstream.compose import compose
from molstream.pipeline.config import DryRunConfig
from molstream.pipeline.readers import line_ends as module
from molstream.pipeline.readers.line_ends import Lines, split_lines
from molstream.pipeline.reports.estimate import estimate
from molstream.preprocessing.fields import RawMolecule
from tests.support.source_files import FORMATS, SMILES, TEXTS, read, shown, table

ENDS = {"\\r": b"\r", "\\r\\n": b"\r\n", "\\r\\r\\n": b"\r\r\n", "mixed": None}


def ended(text: bytes, end: bytes | None) -> bytes:
    """The text with other line ends; None takes all three in turn, none of which makes one end with that before it."""
    if end is not None:
        return text.replace(b"\n", end)
    turn = itertools.cycle((b"\n", b"\r", b"\r\n"))
    lines = text.split(b"\n")
    return b"".join(
        line + (b"\n" if (given := next(turn)) == b"\r" and not following else given)
        for line, following in itertools.pairwise(lines)
    )


@pytest.mark.parametrize("compression", ["", ".gz"])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("format", TEXTS)
def test_every_line_end_gives_the_same_records(tmp_path, format, end, compression):
    file = tmp_path / f"m.{format}{compression}"
    content = ended(FORMATS[format], ENDS[end])
    file.write_bytes(gzip.compress(content) if compression else content)
    targets = [] if format == "smi" else ["value"]
    records = read(file, targets=targets, rows=2)
    assert [r.row for r in records] == list(range(7))
    if format == "sdf":
        assert [Chem.MolToSmiles(Chem.MolFromMolBlock(r.text)) for r in records] == [
            Chem.CanonSmiles(s) for s in SMILES
        ]
    else:
        assert shown(records) == SMILES
    if targets:
        assert [r.targets[0] for r in records[2:]] == [-2, 1000, 0, 7, 8]


@pytest.mark.parametrize("last", [b"", b"\r", b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 64])
def test_lines_are_the_same_whatever_is_read_at_a_time(monkeypatch, size, last):
    monkeypatch.setattr(module, "BLOCK_BYTES", size)
    content = b"a\rbb\r\n\r\r\nccc\n\n\rd\r" + b"e" * 100 + last
    expected = re.findall(rb"[^\r\n]*(?:\r?\r\n|\r|\n)|[^\r\n]+", content)
    assert list(split_lines(io.BytesIO(content))) == expected
    source = Lines(io.BytesIO(content))
    taken = [next(source), next(source)]
    source.put_back(taken)
    assert list(source) == expected


def test_a_stray_carriage_return_loses_no_row(tmp_path):
    """The rows are those that a spreadsheet shows."""
    (tmp_path / "one.csv").write_bytes(b"smiles\nCCO\nCCCl\rCCN\nc1ccccc1\n")
    assert shown(read(tmp_path / "one.csv")) == ["CCO", "CCCl", "CCN", "c1ccccc1"]
    assert shown(table(tmp_path, b"C,1\rN,2\nO\r,3\nF,4\r")) == ["C", "N", "<malformed_row>", "", "F"]
    (tmp_path / "m.smi").write_bytes(b"CCO ethanol\rCCN\r\nC\n\rN")
    assert shown(read(tmp_path / "m.smi")) == ["CCO", "CCN", "C", "", "N"]
    (tmp_path / "m.jsonl").write_bytes(b'{"smiles": "C"}\r{"smiles": "N"}\n{"smiles":\r"O"}\n')
    assert shown(read(tmp_path / "m.jsonl")) == ["C", "N", "<malformed_row>", "<malformed_row>"]


def test_a_carriage_return_in_quotes_belongs_to_its_cell(tmp_path):
    file = tmp_path / "t.csv"
    file.write_bytes(b'smiles,note,value\rCCO,"two\rlines, ""quoted""\r\n",1\r"C",x,2\rN,"open,3\rO,y,4\r')
    records = read(file, targets=["value"])
    assert shown(records) == ["CCO", "C", "<malformed_row>", "O"]
    assert records[1].targets == (2.0,)


def test_a_line_far_longer_than_a_block_is_one_record(tmp_path):
    (tmp_path / "m.smi").write_bytes(b"C " + b"x" * 1_000_000 + b"\rN\r")
    assert shown(read(tmp_path / "m.smi")) == ["C", "N"]


def test_the_dry_run_finds_the_columns_of_a_file_with_carriage_returns(tmp_path):
    for format in ("sdf", "jsonl"):
        file = tmp_path / f"m.{format}"
        file.write_bytes(ended(FORMATS[format], b"\r"))
        found = estimate(compose("preprocess", DryRunConfig, [f"input={file}", f"output={tmp_path / 'out'}"]))
        assert found.columns.others == ("value",), format
    assert isinstance(read(tmp_path / "m.sdf")[0], RawMolecule)

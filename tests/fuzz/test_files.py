"""Damaged files of molecules: an error that names the file, or every record of it, read or rejected with a reason."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from molstream.errors import MolstreamError
from molstream.preprocessing.fields import RawMolecule, Rejection
from tests.fuzz.cases import case, numbered
from tests.fuzz.damage import damaged, flipped, text_damaged
from tests.support.source_files import COMPRESS, FORMATS, SMILES, TABLE, TEXTS, read

TEXT_FORMATS = tuple(TEXTS)
COLUMNAR = tuple(name for name in FORMATS if name not in TEXTS)


def records_or_error(file: Path) -> list[RawMolecule | Rejection] | str:
    """The records of a file, or the message why it cannot be used."""
    try:
        return read(file)
    except MolstreamError as error:
        message = str(error)
        assert file.name in message, message
        return message


def assert_records(found: list[RawMolecule | Rejection]) -> None:
    """Every record is one molecule, or says why it is none; rows are numbered without a gap."""
    assert [record.row for record in found] == list(range(found[0].row, found[0].row + len(found)))
    for record in found:
        if isinstance(record, Rejection):
            assert record.reason
            assert record.detail
        else:
            assert record.text.strip()


@numbered(150)
def test_a_damaged_text_file_is_an_error_or_all_of_its_records(numbers, tmp_path):
    for number in numbers:
        with case("text files", number) as random:
            format = random.choice(TEXT_FORMATS)
            text = text_damaged(TEXTS[format], random).encode("utf-8", "surrogatepass")
            content = random.choice([text, damaged(TEXTS[format].encode(), random)])
            file = tmp_path / f"{number}.{format}"
            file.write_bytes(content)
            found = records_or_error(file)
            if not isinstance(found, str):
                assert_records(found)


@numbered(100)
def test_a_csv_has_as_many_records_as_a_spreadsheet_shows(numbers, tmp_path):
    for number in numbers:
        with case("spreadsheets", number) as random:
            rows = [
                [random.choice(SMILES), random.choice(["a", 'say "b"', "c, d", "e\nf", "g\rh", ""])] for _ in range(9)
            ]
            sink = io.StringIO(newline="")
            # With all cells quoted: Python leaves a line feed bare where lines end otherwise.
            writer = csv.writer(sink, lineterminator=random.choice(["\n", "\r\n", "\r"]), quoting=csv.QUOTE_ALL)
            writer.writerow(["smiles", "name"])
            writer.writerows(rows)
            file = tmp_path / f"{number}.csv"
            file.write_text(sink.getvalue(), newline="")
            found = read(file, rows=random.choice([1, 2, 1000]))
            assert [record.text for record in found] == [smiles for smiles, _ in rows], sink.getvalue()


@numbered(50)
def test_a_damaged_compressed_file_is_an_error_or_all_of_its_records(numbers, tmp_path):
    """Compressions have checksums, but for those of raw streams: what is read whole is what was written."""
    for number in numbers:
        with case("compressed files", number) as random:
            ending = random.choice([ending for ending in COMPRESS if ending])
            whole = TEXTS["csv"].encode()
            file = tmp_path / f"{number}.csv{ending}"
            file.write_bytes(damaged(COMPRESS[ending](whole), random))
            found = records_or_error(file)
            if not isinstance(found, str) and ending in (".gz", ".bz2", ".xz"):
                assert [record.text for record in found][: len(SMILES)] == SMILES


READER = """
import sys
from pathlib import Path
from tests.fuzz.test_files import records_or_error
for name in sys.argv[1:]:
    found = records_or_error(Path(name))
    print(name, "error" if isinstance(found, str) else len(found), flush=True)
"""


@numbered(100)
def test_a_damaged_columnar_file_never_ends_the_process(numbers, tmp_path):
    """In a process of its own, so that a crash of pyarrow fails this test and not the worker that runs it."""
    files = []
    for number in numbers:
        with case("columnar files", number) as random:
            format = random.choice(COLUMNAR)
            files.append(tmp_path / f"{number}.{format}")
            files[-1].write_bytes(random.choice([flipped, damaged])(FORMATS[format], random))
    ended = subprocess.run(
        [sys.executable, "-c", READER, *map(str, files)], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == len(files)


@numbered(20)
def test_a_flipped_bit_of_a_parquet_file_with_checksums_is_an_error_or_harmless(numbers, tmp_path):
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, write_page_checksum=True)
    whole = sink.getvalue()
    for number in numbers:
        with case("pages", number) as random:
            file = tmp_path / f"{number}.parquet"
            file.write_bytes(flipped(whole, random))
            found = records_or_error(file)
            if not isinstance(found, str):
                assert [record.text for record in found] == SMILES

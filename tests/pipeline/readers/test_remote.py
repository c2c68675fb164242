"""Inputs on a real object store: fetched once, streaming, told apart by what the server says of them."""

import gzip
import io
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.errors import ConfigError, DataError
from molstream.io import remote
from molstream.pipeline.readers.discover import find_files
from molstream.pipeline.readers.prepare import open_sources
from molstream.pipeline.readers.source import describe_sources
from molstream.pipeline.readers.split import ReadConfig, cut, read_split
from molstream.preprocessing.fields import RawMolecule
from tests.support.datasets import REPOSITORY, molstream
from tests.support.object_store import Store, serving

SMILES = [f"{'C' * n}O" for n in range(1, 9)]
CSV = "smiles,value\n" + "".join(f"{s},{k}\n" for k, s in enumerate(SMILES))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with serving(tmp_path_factory.mktemp("moto")) as store:
        yield store


@pytest.fixture
def closed_port() -> int:
    """A port of the loopback on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def read(inputs: list[str], work: Path, **options) -> list[RawMolecule]:
    """The molecules of the inputs; nothing is rejected."""
    config = ReadConfig(**options)
    splits = cut(open_sources(inputs, work, config), 3)
    records = [record for split in splits for record in read_split(split)]
    assert all(isinstance(r, RawMolecule) for r in records)
    return records  # pyright: ignore[reportReturnType]


def parquet() -> bytes:
    """The table in row groups of three."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"smiles": SMILES, "value": range(len(SMILES))}), sink, row_group_size=3)
    return sink.getvalue()


def test_objects_are_read_as_files_are_and_fetched_once(store, tmp_path):
    store.put("a/m.csv.gz", gzip.compress(CSV.encode()))
    store.put("a/n.parquet", parquet())
    inputs = ["s3://data/a/m.csv.gz", "s3://data/a/n.parquet"]
    records = read(inputs, tmp_path, target_columns=["value"])
    assert [r.text for r in records] == SMILES * 2
    assert [r.targets for r in records] == [(k,) for k in range(8)] * 2
    assert [r.source for r in records] == ["m.csv.gz"] * 8 + ["n.parquet"] * 8
    before = [store.fetched(name) for name in ("a/m.csv.gz", "a/n.parquet")]
    assert all(count >= 1 for count in before)
    assert read(inputs, tmp_path, target_columns=["value"]) == records
    assert [store.fetched(name) for name in ("a/m.csv.gz", "a/n.parquet")] == before


def found(*inputs: str) -> list[str]:
    return [file.given for file in find_files(inputs, ReadConfig())]


def test_globs_and_folders_stand_for_their_objects(store, capsys):
    for name in ("b/2.smi", "b/1.csv", "b/notes.md", "b/deeper/3.smi"):
        store.put(name, b"x")
    assert found("s3://data/b") == ["s3://data/b/1.csv", "s3://data/b/2.smi"]
    assert found("s3://data/b/*.smi", "s3://data/b/1.csv") == ["s3://data/b/2.smi", "s3://data/b/1.csv"]
    with pytest.raises(DataError, match=r"input=s3://data/b/\*.sdf: no such file"):
        found("s3://data/b/*.sdf")
    with pytest.raises(DataError, match=r"s3://data/b/2.smi more than once"):
        found("s3://data/b", "s3://data/b/2.smi")
    assert "s3://data/b: 1 file(s) of another format left out: notes.md" in capsys.readouterr().err


def test_a_changed_object_is_noticed_and_an_unchanged_one_not_fetched(store, tmp_path):
    store.put("c.smi", b"C\n")
    config = ReadConfig()
    (first,) = describe_sources(find_files(["s3://data/c.smi"], config), tmp_path / "one")
    known = [{**first.record(), "identity": first.identity}]
    count = store.fetched("c.smi")
    (again,) = describe_sources(find_files(["s3://data/c.smi"], config), tmp_path / "two", known)
    assert (again.record(), store.fetched("c.smi")) == (first.record(), count)
    assert not (tmp_path / "two").exists()
    store.put("c.smi", b"N\n")
    (other,) = describe_sources(find_files(["s3://data/c.smi"], config), tmp_path / "two", known)
    assert other.record()["sha256"] != first.record()["sha256"]
    assert store.fetched("c.smi") > count


def test_an_object_that_changes_while_it_is_fetched_is_an_error(store, tmp_path):
    store.put("d.smi", b"C\n")
    identity = remote.identity("s3://data/d.smi")
    store.put("d.smi", b"NN\n")
    with pytest.raises(DataError, match=r"s3://data/d.smi changed while it was downloaded"):
        remote.fetch("s3://data/d.smi", identity, tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_an_error_that_names_the_url(store, tmp_path):
    for url in ("s3://data/no.csv", "s3://no-such-bucket-1/m.csv"):
        with pytest.raises(DataError, match=f"{url} does not exist"):
            read([url], tmp_path)


def test_qm9_finds_its_table_beside_it_on_the_store(store, tmp_path):
    store.put("q/gdb9.sdf", b"gdb_1\n\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n$$$$\n")
    store.put("q/gdb9.sdf.csv", b"mol_id,gap\ngdb_1,0.5\n")
    (record,) = read(["s3://data/q"], tmp_path, format="qm9")
    assert record.targets == (0.5,)
    config = ReadConfig(format="qm9")
    (source,) = describe_sources(find_files(["s3://data/q/gdb9.sdf"], config), tmp_path)
    known = [{**source.record(), "identity": source.identity}]
    (again,) = describe_sources(find_files(["s3://data/q/gdb9.sdf"], config), tmp_path / "new", known)
    assert again.record() == source.record()
    assert not (tmp_path / "new").exists()


def test_the_command_prepares_from_a_store_and_does_not_fetch_twice(store, tmp_path):
    store.put("e/m.csv.gz", gzip.compress(CSV.encode()))
    arguments = (
        *("preprocess", "input=s3://data/e/m.csv.gz", f"output={tmp_path / 'd'}", "ray.num_cpus=1"),
        "featurize.conformers.num_conformers=0",
    )
    assert "8" in molstream(*arguments).stdout
    count = store.fetched("e/m.csv.gz")
    assert "nothing to do" in molstream(*arguments).stderr
    assert store.fetched("e/m.csv.gz") == count
    store.put("e/m.csv.gz", gzip.compress(CSV.replace(",7", ",8").encode()))
    changed = molstream(*arguments, check=False)
    assert changed.returncode == 2
    assert "sha256" in changed.stderr


def test_a_server_that_does_not_answer_is_an_error_that_names_the_url(closed_port, tmp_path):
    url = f"http://user:secret@127.0.0.1:{closed_port}/m.csv?token=secret"
    with pytest.raises(DataError, match=rf"http://127.0.0.1:{closed_port}/m.csv (cannot be|does not exist)") as caught:
        read([url], tmp_path)
    assert "secret" not in str(caught.value)


def test_a_missing_backend_is_an_error_that_says_what_to_install():
    code = """
import sys
sys.modules["s3fs"] = None
from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers.discover import find_files
find_files(["s3://data/m.csv"], ReadConfig())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert re.search(r"ConfigError: s3://data/m.csv: .*pip install 'molstream\[s3\]'", done.stderr)
    with pytest.raises(ConfigError, match=r"nosuch://m.csv: fsspec cannot open it \(Protocol not known"):
        find_files(["nosuch://m.csv"], ReadConfig())


def test_every_other_file_system_of_fsspec_works(tmp_path):
    system = fsspec.filesystem("memory")
    system.pipe_file("/folder/m.smi", b"C\n")
    assert [(r.source, r.text) for r in read(["memory://folder/m.smi"], tmp_path / "w")] == [("m.smi", "C")]
    assert [r.text for r in read(["memory://folder"], tmp_path / "w")] == ["C"]
    system.pipe_file("/folder/m.smi", b"N\n")
    assert [r.text for r in read(["memory://folder/*.smi"], tmp_path / "w")] == ["N"]
    (tmp_path / "n.smi").write_text("O\n")
    mixed = read(["memory://folder/m.smi", str(tmp_path / "n.smi")], tmp_path / "w")
    assert len({r.source for r in mixed}) == 2

"""``molstream preprocess --dry-run``: what it says is what the job then does, and it leaves nothing."""

import bz2
import gzip
import json
import lzma
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.compose import compose
from molstream.pipeline.config import DryRunConfig
from molstream.pipeline.plan import cut_sources, plan_sources
from molstream.pipeline.readers import sampling
from molstream.pipeline.readers.sampling import Columns, Rows
from molstream.pipeline.reports.estimate import Estimate, Sample, estimate
from molstream.pipeline.shards.manifest import read_manifest
from tests.support.datasets import molecules, molstream

QUICK = ("featurize.conformers.num_conformers=0",)


def tried(source: Path, *arguments: str) -> Estimate:
    """The estimate of a job on one file, in this process."""
    values = (f"input={source}", f"output={source.parent / 'no such folder'}", *QUICK, *arguments)
    return estimate(compose("preprocess", DryRunConfig, values))


def zstd(data: bytes) -> bytes:
    """In several blocks, as a large file is."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        for start in range(0, len(data), 4096):
            stream.write(data[start : start + 4096])
            stream.flush()
    return sink.getvalue().to_pybytes()


def without_times(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.split()[0] not in ("work", "time", "slowest")]


def test_a_sample_of_everything_tells_what_the_job_then_does(nasty_source, nasty_dataset, tmp_path):
    output = tmp_path / "output"
    arguments = (f"input={nasty_source}", "target_columns=[value]", "rows_per_shard=20", "max_rejected_fraction=0.3")
    done = molstream("preprocess", "--dry-run", *arguments, f"output={output}", "sample=500")
    assert not output.exists()
    counts = read_manifest(nasty_dataset).counts
    text = done.stdout
    written = counts.rows_in - sum(counts.rejected.values())
    assert f"{counts.rows_in} of {counts.rows_in} rows were tried" in text
    assert f"rows       {counts.rows_in}, counted" in text
    assert re.search(rf"molecules  about {written} .* less duplicates, which a sample cannot tell", text)
    for reason, count in counts.rejected.items():
        assert f"    {reason} about {count}, as <b>nasty & co.csv:" in text
    assert "\x1b" not in text
    assert "SMILES     from the column 'smiles'" in text
    assert "targets    value\n" in text
    assert "could be targets, too: logp\n" in text
    assert re.search(r"shards     4, of up to 20 rows", text)
    assert re.search(r"slowest    [\d.]+ (us|ms|s): \S+", text)
    assert text.splitlines()[-2] == "start it with"
    assert shlex.split(text.splitlines()[-1]) == ["molstream", "preprocess", *arguments, f"output={output}"]


def test_too_many_rejections_exit_1_and_say_what_to_do(nasty_source, tmp_path):
    arguments = (f"input={nasty_source}", f"output={tmp_path / 'output'}", *QUICK)
    done = molstream("preprocess", *arguments, "--dry-run", check=False)
    assert done.returncode == 1
    assert "start it with" in done.stdout
    assert re.search(r"error: 9 of the 73 rows that were tried are rejected.*max_rejected_fraction=0.05", done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sampel=3",), "unknown key 'sampel'. Did you mean 'sample'"),
        (("sample=0",), "sample=0: expected at least 1"),
        (("container=zip",), "expected one of webdataset, arrow"),
        (("decontaminate=[bbbp]",), "benchmark_folder"),
        (("output={parent}",), "holds other files"),
    ],
)
def test_a_wrong_configuration_fails_as_in_the_job(nasty_source, arguments, message):
    values = [argument.format(parent=nasty_source.parent) for argument in arguments]
    base = [f"input={nasty_source}", f"output={nasty_source.parent / 'new'}"]
    done = molstream("preprocess", "--dry-run", *base, *values, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stdout == ""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 rows that differ, so that they do not vanish when they are compressed."""
    file = tmp_path_factory.mktemp("table") / "table.csv"
    cells = molecules()
    rows = (f"{cells[k * 7919 % len(cells)]},{math.sin(k):.15f},{k}\n" for k in range(2000))
    file.write_text("smiles,wave,number\n" + "".join(rows))
    return file


def test_a_sample_is_even_and_always_the_same(table, tmp_path):
    config = compose("preprocess", DryRunConfig, [f"input={table}", "output=x", "rows_per_shard=300"])
    splits = cut_sources(plan_sources(config), config, tmp_path)
    rows, chosen = sampling.choose(splits, {}, 50, None)
    assert rows == Rows(2000, ())
    assert [record.row for record in chosen] == list(range(0, 2000, 40))
    assert [record.row for record in sampling.choose(splits, {}, 50, 500)[1]] == list(range(0, 500, 10))
    first, second = tried(table, "sample=20"), tried(table, "sample=20")
    assert without_times(first.text("x")) == without_times(second.text("x"))


@pytest.mark.parametrize(
    ("ending", "compress", "head"),
    [
        (".gz", gzip.compress, 20_000),
        (".xz", lzma.compress, 20_000),
        (".bz2", bz2.compress, 1 << 20),
        (".zst", zstd, 20_000),
    ],
)
def test_rows_of_a_compressed_file_are_estimated_from_its_head(
    table, monkeypatch, ending: str, compress: Callable[[bytes], bytes], head: int
):
    packed = table.with_name(f"table.csv{ending}")
    packed.write_bytes(compress(table.read_bytes()))
    monkeypatch.setattr(sampling, "HEAD_BYTES", head)
    whole = packed.stat().st_size < head
    found = tried(packed, "sample=40")
    assert found.rows.estimated == (() if whole else (packed.name,))
    assert found.rows.total == (2000 if whole else pytest.approx(2000, rel=0.1))
    assert found.sample.rows == 40
    assert ("counted" in found.text("x")) == whole
    assert ("estimated from the beginning of table.csv" in found.text("x")) == (not whole)


def test_columns_of_numbers_are_named(table):
    assert tried(table, "sample=5").columns == Columns("smiles", (), ("wave", "number"))


@pytest.mark.parametrize("ending", ["parquet", "feather", "jsonl", "csv", "tsv"])
def test_columns_are_found_in_every_format(tmp_path, ending):
    columns = {"name": ["a", "b"], "smiles": ["CCO", "CCN"], "x": [1.5, None], "y": [1, 2], "nothing": ["", ""]}
    table, file = pa.table(columns), tmp_path / f"m.{ending}"
    if ending == "parquet":
        pq.write_table(table, file)
    elif ending == "feather":
        with pa.ipc.new_file(str(file), table.schema) as writer:
            writer.write_table(table)
    elif ending == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        rows = [columns, *zip(*columns.values())]
        character = "," if ending == "csv" else "\t"
        text = "".join(character.join("" if v is None else str(v) for v in row) + "\n" for row in rows)
        file.write_text(text)
    smiles = None if ending == "jsonl" else "smiles"
    assert tried(file, "target_columns=[y]").columns == Columns(smiles, ("y",), ("x",))


def test_columns_without_names_have_numbers(tmp_path):
    (tmp_path / "m.csv").write_text("1.5,CCO,a\n2.5,CCN,b\n")
    found = tried(tmp_path / "m.csv", "header=false", "smiles_column=1")
    assert found.columns == Columns("1", (), ("0",))
    assert found.sample.written == 2


def test_data_items_of_an_sdf_are_named(tmp_path):
    block = "water\n  x\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n    0.0000    0.0000    0.0000 O   0  0\nM  END\n"
    entry = f"{block}> <ID>\nno number\n\n> <energy>\n-1.5\n\n$$$$\n"
    (tmp_path / "water.sdf").write_text(entry * 3)
    found = tried(tmp_path / "water.sdf", "sample=3")
    assert found.columns == Columns(None, (), ("energy",))
    assert found.sample.written == 3


def test_cost_grows_with_rows_and_falls_with_cores_but_a_task_is_not_divided():
    config = compose("preprocess", DryRunConfig, ["input=x", "output=y"])
    sample = Sample(rows=100, written=100, times=(0.04,) * 100, bytes_per_molecule=500.0)
    found = Estimate(config, Rows(1_000_000, ()), 500, Columns(None, (), ()), sample)
    work, error = found.core_seconds()
    assert work == pytest.approx(40_000)
    assert error == pytest.approx(0, abs=1e-6)
    assert found.wall_seconds(1) == pytest.approx(10 * found.wall_seconds(10))
    assert found.num_tasks == 31_250
    assert found.wall_seconds(31_250) == found.wall_seconds(100_000) == pytest.approx(32 * 0.04 / 0.9)
    assert "about 476.8 MiB" in found.text("x")
    assert "have nothing to do" not in found.text("x")
    few = replace(found, rows=Rows(100, ()), splits=1)
    assert "more than 4 core(s) have nothing to do" in few.text("x")
    assert few.wall_seconds(2) == pytest.approx(few.wall_seconds(1) / 2)

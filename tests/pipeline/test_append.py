"""Appending to a dataset, and leaving out of it, on a real Ray: the same bytes as preparing all files at once."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from molstream.pipeline.build import _publish
from molstream.pipeline.shards.manifest import NAME, read_manifest
from tests.conftest import REPOSITORY
from tests.support.datasets import molecules, molstream

SETTINGS = ("rows_per_shard=10", "featurize.conformers.force_field=none", "ray.num_cpus=2")


def write(path: Path, smiles: list[str]) -> Path:
    path.write_text("smiles\n" + "\n".join(smiles) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Old molecules, new ones (some of them old, in another spelling, or broken), and a benchmark set."""
    folder, known = tmp_path_factory.mktemp("files"), molecules()
    old = write(folder / "old.csv", known[:32])
    new = write(folder / "new.csv", ["OCC", *known[28:50], "junk", "OC(=O)c1ccccc1OC(C)=O", *known[50:54]])
    return old, new, write(folder / "benchmark.csv", [known[3], known[30], known[40], "junk"])


def prepare(output: Path, inputs: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return molstream("preprocess", f"input={inputs}", f"output={output}", *SETTINGS, *arguments, check=False)


def append(output: Path, inputs: Path | str) -> subprocess.CompletedProcess[str]:
    return molstream("append", f"input={inputs}", f"output={output}", "ray.num_cpus=2", check=False)


@pytest.fixture(scope="module")
def at_once(files) -> Path:
    old, new, benchmark = files
    output = old.parent / "at_once"
    done = prepare(output, f"[{old},{new}]", f"decontaminate=[{benchmark}]")
    assert done.returncode == 0, done.stderr
    assert "benchmark benchmark.csv: 3 molecules read of 4 rows" in done.stderr
    assert "in benchmark benchmark.csv: 4 decontaminated" in done.stdout
    return output


@pytest.fixture(scope="module")
def begun(files) -> Path:
    old, _, benchmark = files
    output = old.parent / "begun"
    done = prepare(output, str(old), f"decontaminate=[{benchmark}]")
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture
def dataset(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "dataset"))


def content(folder: Path) -> dict[str, object]:
    """All that must not depend on how the dataset came about."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in ("timing.json", "card.html")}


def test_the_result_is_that_of_preparing_all_files_at_once(files, at_once, dataset):
    before = read_manifest(dataset)
    done = append(dataset, files[1])
    assert done.returncode == 0, done.stderr
    assert content(dataset) == content(at_once)
    assert read_manifest(dataset).fingerprint != before.fingerprint
    assert molstream("verify", dataset, check=False).returncode == 0

    times = {p.name: p.stat().st_mtime_ns for p in dataset.iterdir()}
    again = append(dataset, files[1])
    assert again.returncode == 0
    assert "holds these files already: nothing to do" in again.stderr
    assert {p.name: p.stat().st_mtime_ns for p in dataset.iterdir()} == times


@pytest.mark.slow
def test_killed_at_a_random_moment_it_goes_on_and_the_dataset_is_readable_all_the_time(files, at_once, dataset):
    before = read_manifest(dataset)
    command = [sys.executable, "-m", "molstream.cli.main", "append", f"input={files[1]}", f"output={dataset}"]
    pattern, pause = random.choice(["*.keys.npy", "*.commit.json"]), random.uniform(0, 0.3)
    print(f"kill {pause:.2f} s after the first {pattern}")
    with subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}) as job:
        while job.poll() is None and not list((dataset / "work").glob(pattern)):
            time.sleep(0.02)
        time.sleep(pause)
        job.send_signal(signal.SIGKILL)
    if job.returncode:
        assert read_manifest(dataset) == before
    other = write(files[0].parent / "other.csv", ["CCCCO"])
    if (dataset / "append.json").exists():
        refused = append(dataset, other)
        assert refused.returncode == 2
        assert "another append is unfinished" in refused.stderr
    assert append(dataset, files[1]).returncode == 0
    assert content(dataset) == content(at_once)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """All that a reader of a dataset looks at."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "append.json"}


@pytest.mark.slow
def test_a_file_without_a_new_molecule_is_accounted_for(dataset, tmp_path):
    before = read_manifest(dataset)
    done = append(dataset, write(tmp_path / "again.csv", molecules()[4:7]))
    assert done.returncode == 0, done.stderr
    after = read_manifest(dataset)
    assert after.shards == before.shards
    assert after.counts.rows_in == before.counts.rows_in + 3
    assert after.counts.duplicates == before.counts.duplicates + 3
    verified = molstream("verify", dataset)
    assert "is intact" in verified.stdout
    assert verified.stderr == ""


@pytest.mark.slow
def test_an_unfinished_append_is_no_damage_and_is_named(dataset, tmp_path):
    """Whether it ended before its files were moved into the dataset, or just before the manifest was written."""
    before, manifest = bytes_of(dataset), read_manifest(dataset)
    more = write(tmp_path / "more.csv", ["CCCCCCCCCCCCC", "junk", "C(", "CC)"])
    done = append(dataset, more)
    assert done.returncode == 1
    assert "3 of 4 rows were rejected" in done.stderr
    assert bytes_of(dataset) == before
    for moved in (False, True):
        if moved:
            _publish(dataset / "work" / "staged", dataset)
            assert bytes_of(dataset).keys() - before.keys() == {"shard-00004.tar"}
        verified = molstream("verify", dataset, check=False)
        assert verified.returncode == 0, verified.stderr
        assert "is intact" in verified.stdout
        assert verified.stderr.startswith("unfinished: an append is unfinished")
        assert "an append is unfinished" in molstream("inspect", dataset).stdout
        assert read_manifest(dataset) == manifest
    (dataset / "shard-00002.tar.copy").write_text("x")
    assert "shard-00002.tar.copy is a shard" in molstream("verify", dataset, check=False).stderr
    (dataset / "shard-00002.tar.copy").unlink()

    done = molstream("append", f"input={more}", f"output={dataset}", "ray.num_cpus=2", "max_rejected_fraction=1")
    assert read_manifest(dataset).counts.rows_in == manifest.counts.rows_in + 4
    verified = molstream("verify", dataset)
    assert verified.stderr == ""
    assert {path.name for path in dataset.iterdir()} == {*before, "shard-00004.tar"}


def test_a_file_of_a_known_name_is_refused(files, dataset, tmp_path):
    done = append(dataset, write(tmp_path / "old.csv", ["CCCCCCO"]))
    assert done.returncode == 1
    assert "has molecules of a file named old.csv already" in done.stderr
    assert not (dataset / "append.json").exists()


def test_other_versions_are_refused(files, dataset):
    plan = json.loads((dataset / "plan.json").read_text())
    plan["versions"]["rdkit"] = "2020.03.1"
    (dataset / "plan.json").write_text(json.dumps(plan))
    done = append(dataset, files[1])
    assert done.returncode == 2
    assert "versions.rdkit: '2020.03.1' -> " in done.stderr


def test_only_a_finished_dataset_can_be_appended_to(files, tmp_path):
    (tmp_path / "empty").mkdir()
    done = append(tmp_path / "empty", files[1])
    assert done.returncode == 1
    assert "not a committed dataset" in done.stderr


# --- what is left out -----------------------------------------------------------------------------------------------


def test_decontaminated_rows_are_accounted_for(at_once, files):
    manifest = read_manifest(at_once)
    rows = pq.read_table(at_once / "decontaminated.parquet").to_pylist()
    assert manifest.counts.decontaminated == len(rows) == 4
    assert manifest.benchmarks == {"benchmark.csv": 4}
    known = molecules()
    texts = {path.name: path.read_text().splitlines()[1:] for path in files[:2]}
    assert {texts[r["source"]][r["row"]] for r in rows} == {known[3], known[30], known[40]}
    assert all(row["sets"] == ["benchmark.csv"] for row in rows)


@pytest.mark.slow
def test_a_benchmark_is_found_by_the_name_of_its_task(tmp_path):
    write(tmp_path / "BBBP.csv", ["CCO"])
    source, output = write(tmp_path / "a.csv", ["OCC", "CCN"]), tmp_path / "output"
    done = prepare(output, str(source), "decontaminate=[bbbp]", f"benchmark_folder={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert read_manifest(output).benchmarks == {"bbbp": 1}


@pytest.mark.slow
def test_decontamination_by_scaffold_leaves_out_whole_families(tmp_path):
    source = write(tmp_path / "a.csv", ["Cc1ccccc1", "CCO", "OC(=O)C1CCNCC1", "c1ccc2ccccc2c1", "CCc1ccccc1O"])
    benchmark = write(tmp_path / "b.csv", ["Clc1ccccc1", "CCN"])
    output = tmp_path / "output"
    done = prepare(output, str(source), f"decontaminate=[{benchmark}]", "decontaminate_by=scaffold")
    assert done.returncode == 0, done.stderr
    # Acyclic molecules share no scaffold, although both have an empty one.
    assert [r["row"] for r in pq.read_table(output / "decontaminated.parquet").to_pylist()] == [0, 4]


@pytest.mark.slow
def test_decontamination_by_connectivity_ignores_stereochemistry_and_isotopes(tmp_path):
    source = write(tmp_path / "a.csv", ["C[C@H](N)C(=O)O", "[2H]C(Cl)Cl", "CCO", "C[C@@H](N)C(=O)O"])
    benchmark = write(tmp_path / "b.csv", ["C[C@@H](N)C(=O)O", "ClCCl"])
    for by, left_out in (("connectivity", [0, 1, 3]), ("key", [3])):
        output = tmp_path / by
        done = prepare(output, str(source), f"decontaminate=[{benchmark}]", f"decontaminate_by={by}")
        assert done.returncode == 0, done.stderr
        assert [r["row"] for r in pq.read_table(output / "decontaminated.parquet").to_pylist()] == left_out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "dropped"),
    [
        ("connectivity", [1, 2]),
        pytest.param("key", [1], marks=pytest.mark.slow),
        pytest.param("smiles", [], marks=pytest.mark.slow),
        pytest.param("none", [], marks=pytest.mark.slow),
    ],
)
def test_what_makes_duplicates_is_an_option(tmp_path, option, dropped):
    # A molecule, a tautomer that shares its InChIKey, an isotopologue that shares the first block.
    source = write(tmp_path / "a.csv", ["Oc1ccccn1", "O=c1cccc[nH]1", "[2H]c1cccnc1O", "CCO"])
    output = tmp_path / "output"
    assert prepare(output, str(source), f"duplicates={option}").returncode == 0
    assert [r["row"] for r in pq.read_table(output / "duplicates.parquet").to_pylist()] == dropped
    assert read_manifest(output).num_rows == 4 - len(dropped)
    assert (output / NAME).exists()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("decontaminate=[bbbp]", "benchmark_folder"),
        ("decontaminate=[bbbp] benchmark_folder=.", "looked for bbbp.csv"),
        ("decontaminate=[imagenet] benchmark_folder=.", "the tasks are bace, bbbp"),
        ("duplicates=name", "expected one of key, connectivity, smiles, none"),
        ("decontaminate_by=inchi", "expected one of key, connectivity, scaffold"),
    ],
)
def test_options_that_cannot_be_are_usage_errors(files, tmp_path, argument, message):
    done = prepare(tmp_path / "output", str(files[0]), *argument.split())
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "output").exists()


@pytest.mark.slow
def test_a_benchmark_set_may_have_reading_options_of_its_own(tmp_path):
    source = write(tmp_path / "a.csv", ["CCO", "CCN"])
    (tmp_path / "odd.csv").write_text("1;OCC\n2;CCCC\n")
    options = "delimiter: semicolon, header: false, smiles_column: '1'"
    done = prepare(tmp_path / "output", str(source), f"decontaminate=[{{path: {tmp_path / 'odd.csv'}, {options}}}]")
    assert done.returncode == 0, done.stderr
    assert read_manifest(tmp_path / "output").benchmarks == {"odd.csv": 1}


@pytest.mark.slow
def test_a_damaged_table_of_dropped_rows_is_named(tmp_path):
    source = write(tmp_path / "a.csv", ["CCO", "OCC"])
    output = tmp_path / "output"
    assert prepare(output, str(source), "conformers=none").returncode == 0
    file = output / "duplicates.parquet"
    file.write_bytes(file.read_bytes()[:-60] + b"?" * 60)
    done = molstream("append", f"input={write(tmp_path / 'b.csv', ['CCCC'])}", f"output={output}", check=False)
    assert done.returncode == 1
    assert f"error: {file} is damaged: " in done.stderr
    assert "Traceback" not in done.stderr

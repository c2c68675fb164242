"""`molstream preprocess` as a user runs it, on a real Ray: accounts, restarts after SIGKILL, refusals, verify."""

import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from molstream.pipeline.shards.codec import SCHEMA, decode
from molstream.pipeline.shards.containers import CONTAINERS
from molstream.pipeline.shards.manifest import NAME, Account, read_manifest
from molstream.pipeline.shards.manifest_shape import DROPPED_KINDS
from molstream.pipeline.shards.verify import verify
from molstream.preprocessing.fields import MoleculeSample
from tests.conftest import REPOSITORY
from tests.support.datasets import molecules, molstream
from tests.support.samples import assert_all_same

REJECTED = {
    "junk": "unparsable",
    "CN(C)(C)(C)C": "unsanitizable",
    "": "empty_input",
    "*CC": "dummy_atom",
    "C" * 300: "too_many_atoms",
    "C" * 2001: "too_long",
}
SETTINGS = (
    "target_columns=[value]",
    "rows_per_shard=12",
    "block_rows=5",
    "ray.num_cpus=2",
    "max_rejected_fraction=0.2",
)


def rows() -> list[str]:
    """Cells of the SMILES column: good ones, each kind of bad one, and duplicates in other spellings and files."""
    good = molecules()[:40]
    return [*good[:20], *REJECTED, "OCC", *good[20:], "C(C)O", good[3], "[Na+].[O-]C(=O)C"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("source") / "molecules.csv"
    body = b"".join(f"{smiles},{k / 10}\n".encode() for k, smiles in enumerate(rows()))
    file.write_bytes(b"smiles,value\n" + body + b"\xff\xfe,1\nCCO,much\n\nCCO\n")
    return file


@pytest.fixture(scope="module")
def finished(source: Path) -> Path:
    """The undisturbed run; tests that change it work on a copy."""
    output = source.parent / "finished"
    done = molstream("preprocess", f"input={source}", f"output={output}", *SETTINGS)
    assert re.search(r"^conformers  splits 5/5  molecules 54/54", done.stderr, re.MULTILINE)
    assert "rows in 54 = written" in done.stdout
    assert not re.search(r"warning|Traceback|INFO", done.stderr, re.IGNORECASE), done.stderr
    return output


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def again(source: Path, output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command on the same input, whatever its exit code; later arguments win."""
    return molstream("preprocess", f"input={source}", f"output={output}", *SETTINGS, *arguments, check=False)


def stored(folder: Path) -> list[MoleculeSample]:
    """All molecules, read by the block index."""
    manifest = read_manifest(folder)
    found = []
    for shard in manifest.shards:
        data = (folder / shard.name).read_bytes()
        for block in shard.blocks:
            part = data[block.offset : block.offset + block.bytes]
            found += decode(CONTAINERS[manifest.container].decode(part, SCHEMA, SCHEMA.names))
    return found


def committed_bytes(folder: Path) -> dict[str, bytes]:
    """What must not depend on how the run went."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in ("timing.json", "card.html")}


# --- one run --------------------------------------------------------------------------------------------------------


def test_every_row_is_accounted_for_in_every_split(finished):
    manifest = read_manifest(finished)
    assert manifest.counts.rows_in == 54
    assert Account.total([account for _, account in manifest.splits]) == manifest.counts
    rejected = pq.read_table(finished / "rejected.parquet").to_pylist()
    duplicates = pq.read_table(finished / "duplicates.parquet").to_pylist()
    written = [(sample.source, sample.row) for sample in stored(finished)]
    found = [*written, *((r["source"], r["row"]) for r in rejected + duplicates)]
    assert sorted(found) == [("molecules.csv", row) for row in range(54)]
    for name, account in manifest.splits:
        first, last = map(int, name.rsplit(":", 1)[1].split("-"))
        inside = [row for _, row in written if first <= row <= last]
        assert len(inside) == account.written, name
        assert sum(account.rejected.values()) == sum(first <= r["row"] <= last for r in rejected)


def test_rejected_rows_are_data_with_text_and_reason(finished):
    rejected = pq.read_table(finished / "rejected.parquet").to_pylist()
    assert [r["row"] for r in rejected] == sorted(r["row"] for r in rejected)
    by_text = {r["text"].strip(): r["reason"] for r in rejected}
    assert {text: by_text[text] for text in REJECTED} == REJECTED
    assert by_text["\\xff\\xfe,1"] == "undecodable_bytes"
    assert by_text["CCO,much"] == "bad_target"
    assert by_text["CCO"] == "malformed_row"
    assert all(r["stage"] for r in rejected)
    times = json.loads((finished / "timing.json").read_text())["rejected_s"]
    assert times.keys() == set(read_manifest(finished).counts.rejected)
    assert Counter(r["reason"] for r in rejected) == read_manifest(finished).counts.rejected


def test_the_first_spelling_of_a_molecule_is_kept(finished):
    cells = rows()
    duplicates = pq.read_table(finished / "duplicates.parquet").to_pylist()
    ethanol = "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"
    same = [k for k, cell in enumerate(cells) if cell in ("CCO", "OCC", "C(C)O")]
    assert [sample.row for sample in stored(finished) if sample.key == ethanol] == same[:1]
    assert [d["row"] for d in duplicates if d["key"] == ethanol] == same[1:]
    keys = [sample.key for sample in stored(finished)]
    assert len(set(keys)) == len(keys)


def test_the_finished_folder_holds_nothing_else(finished):
    shards = [f"shard-{k:05d}.tar" for k in range(5)]
    tables = ["decontaminated.parquet", "duplicates.parquet", "rejected.parquet"]
    names = [NAME, *tables, "card.html", "plan.json", "timing.json", *shards]
    assert sorted(p.name for p in finished.iterdir()) == sorted(names)


def test_values_follow_their_molecules(finished):
    for sample in stored(finished):
        assert sample.targets.tolist() == pytest.approx([sample.row / 10])


# --- the same command again -----------------------------------------------------------------------------------------


def test_a_second_run_does_nothing_and_says_so(source, copied):
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in copied.iterdir()}
    done = again(source, copied)
    assert done.returncode == 0
    assert "finished already: nothing to do" in done.stderr
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in copied.iterdir()} == before


def test_a_second_run_on_a_damaged_dataset_names_the_shard(source, copied):
    (copied / "shard-00002.tar").unlink()
    done = again(source, copied)
    assert done.returncode == 1
    assert "shard-00002.tar is missing" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("block_rows=6", "settings.block_rows: 5 -> 6"),
        ("featurize.hydrogens=all", "settings.featurize.hydrogens: 'heavy' -> 'all'"),
        ("target_columns=[]", "settings.target_columns"),
    ],
)
def test_other_settings_are_refused_by_name(source, copied, change, message):
    before = committed_bytes(copied)
    done = again(source, copied, change)
    assert done.returncode == 2
    assert message in done.stderr
    assert "new output folder" in done.stderr
    assert committed_bytes(copied) == before


def test_another_input_is_refused(source, copied, tmp_path):
    other = tmp_path / source.name
    other.write_bytes(source.read_bytes() + b"CCCCCCCCCCC,1\n")
    done = again(other, copied)
    assert done.returncode == 2
    assert "sources" in done.stderr


# --- refusals -------------------------------------------------------------------------------------------------------


def test_a_folder_with_other_files_is_left_alone(source, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    done = again(source, tmp_path)
    assert done.returncode == 2
    assert "thesis.tex" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("existing", [False, True])
def test_an_unusable_input_leaves_nothing(source, tmp_path, existing):
    cut_short = tmp_path / "m.csv.gz"
    cut_short.write_bytes(gzip.compress(source.read_bytes())[:-9])
    output = tmp_path / "deep" / "output"
    if existing:
        output.mkdir(parents=True)
    done = again(cut_short, output)
    assert done.returncode == 1
    assert "m.csv.gz is truncated or damaged" in done.stderr
    assert output.exists() == existing
    assert not existing or list(output.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("rows_per_shrad=3", "unknown key 'rows_per_shrad'. Did you mean 'rows_per_shard'"),
        ("rows_per_shard=0", "rows_per_shard=0: expected at least 1"),
        ("container=zip", "expected one of webdataset, arrow"),
        ("ray.num_cpus=0", "ray.num_cpus=0: expected at least 1"),
        ("max_rejected_fraction=2", "max_rejected_fraction=2: expected at most 1"),
        ("featurize.hydrogens=some", "hydrogens"),
        ("ray.address=127.0.0.1:1", "ray.address=127.0.0.1:1: no Ray cluster answers"),
    ],
)
def test_usage_errors_exit_2_and_say_what_to_do(source, tmp_path, argument, message):
    done = again(source, tmp_path / "output", argument)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# --- verify ---------------------------------------------------------------------------------------------------------


def test_verify_accepts_what_was_written_and_names_a_shard_with_one_changed_byte(copied):
    assert molstream("verify", copied, check=False).returncode == 0
    file = copied / "shard-00003.tar"
    data = bytearray(file.read_bytes())
    data[random.Random(0).randrange(len(data))] ^= 1
    file.write_bytes(data)
    done = molstream("verify", copied, check=False)
    assert done.returncode == 1
    assert "shard-00003.tar" in done.stderr
    assert "shard-00002.tar" not in done.stderr


@pytest.mark.parametrize("damage", ["missing", "stranger", "rejected", "manifest"])
def test_verify_names_other_damage(copied, damage):
    if damage == "missing":
        (copied / "shard-00000.tar").unlink()
        expected = "shard-00000.tar: the file is missing"
    elif damage == "stranger":
        shutil.copy(copied / "shard-00000.tar", copied / "shard-00009.tar")
        expected = "shard-00009.tar"
    elif damage == "rejected":
        (copied / "rejected.parquet").write_bytes(b"PAR1")
        expected = "rejected.parquet"
    else:
        record = json.loads((copied / NAME).read_text())
        record["counts"]["written"] += 1
        (copied / NAME).write_text(json.dumps(record))
        expected = "fingerprint"
    done = molstream("verify", copied, check=False)
    assert done.returncode == 1
    assert expected in done.stderr


@pytest.mark.parametrize("kind", DROPPED_KINDS)
def test_verify_names_a_table_of_dropped_rows_with_one_changed_byte(copied, kind):
    file = copied / f"{kind}.parquet"
    data = bytearray(file.read_bytes())
    data[6] ^= 1
    file.write_bytes(data)
    (problem,) = verify(copied)
    assert problem.startswith(f"{kind}.parquet ")


# --- more runs ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_too_many_rejections_fail_loudly_and_a_larger_bound_finishes_without_work(source, finished, tmp_path):
    output = tmp_path / "output"
    done = again(source, output, "container=arrow", "max_rejected_fraction=0.1")
    assert done.returncode == 1
    assert re.search(r"of 54 rows were rejected \(.*unparsable 1.*max_rejected_fraction=0.1", done.stderr)
    assert not (output / NAME).exists()
    times = {p.name: p.stat().st_mtime_ns for p in output.glob("shard-*")}
    assert pq.read_metadata(output / "rejected.parquet").num_rows == 10

    done = again(source, output, "container=arrow")
    assert done.returncode == 0, done.stderr
    assert "splits" not in done.stderr
    assert {p.name: p.stat().st_mtime_ns for p in output.glob("shard-*")} == times
    assert_all_same(stored(output), stored(finished))


def start(source: Path, output: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "molstream.cli.main",
        "preprocess",
        f"input={source}",
        f"output={output}",
        *SETTINGS,
        *arguments,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=pipe, stderr=pipe, text=True)


def wait_for(output: Path, pattern: str, count: int, job: subprocess.Popen[str]) -> None:
    """Until the work folder holds ``count`` files of a kind, or the job has ended."""
    while job.poll() is None and len(list((output / "work").glob(pattern))) < count:
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_twice_at_random_moments_the_result_is_the_same_bytes(source, finished, tmp_path):
    moments = random.Random()
    output = tmp_path / "output"
    for pattern, most in (("*.keys.npy", 5), ("*.commit.json", 4)):
        count, pause = moments.randint(0, most), moments.uniform(0, 0.3)
        print(f"kill after {count} of {pattern} and {pause:.2f} s")
        with start(source, output) as job:
            wait_for(output, pattern, count, job)
            time.sleep(pause)
            job.kill()
        assert not (output / NAME).exists() or job.returncode == 0
    done = again(source, output)
    assert done.returncode == 0, done.stderr
    assert committed_bytes(output) == committed_bytes(finished)
    assert sorted(p.name for p in output.iterdir()) == sorted(p.name for p in finished.iterdir())


@pytest.mark.slow
def test_a_shard_killed_half_way_goes_on_from_its_parts_to_the_same_bytes(tmp_path):
    """One shard, whose parts are done by both cores; what was done of it stays done."""
    esters = [f"{'C' * acid}C(=O)O{'C' * alkyl}" for acid in range(1, 21) for alkyl in range(1, 21)]
    source, output = tmp_path / "esters.csv", tmp_path / "output"
    source.write_text("smiles,value\n" + "".join(f"{smiles},1\n" for smiles in [*esters, *esters[:9], "junk"]))
    whole = ("rows_per_shard=2048",)
    undisturbed = again(source, tmp_path / "undisturbed", *whole)
    assert undisturbed.returncode == 0, undisturbed.stderr
    for pattern, stage in (("*.describe-*", "describe"), ("*.embed-*", "conformers")):
        with start(source, output, *whole) as job:
            wait_for(output, pattern, 2, job)
            job.kill()
        assert not (output / NAME).exists(), stage
    kept = len(list((output / "work").glob("*.embed-*")))
    assert kept >= 2
    done = again(source, output, *whole)
    assert done.returncode == 0, done.stderr
    assert committed_bytes(output) == committed_bytes(tmp_path / "undisturbed")
    assert not (output / "work").exists()


def test_a_stopped_job_says_how_to_go_on_and_a_second_one_waits_its_turn(tmp_path):
    # Alkyl esters of alkyl acids: far more work than the second one needs to find the first.
    esters = [f"{'C' * acid}C(=O)O{'C' * alkyl}" for acid in range(1, 60) for alkyl in range(1, 60)]
    source, output = tmp_path / "esters.csv", tmp_path / "output"
    source.write_text("smiles,value\n" + "".join(f"{smiles},1\n" for smiles in esters))
    with start(source, output) as job:
        wait_for(output, "*.keys.npy", 1, job)
        rival = again(source, output)
        assert rival.returncode == 1
        assert "is locked by another process" in rival.stderr
        job.send_signal(signal.SIGTERM)
        _, stderr = job.communicate(timeout=60)
    assert job.returncode == 130, stderr
    assert "run the same command again to continue" in stderr
    assert "Traceback" not in stderr

"""Files that are damaged: each gives one message that names the file."""

import bz2
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.cli.main import main
from tests.support.command_lines import FAILED, USAGE, assert_one_message, copy_of, refused
from tests.support.datasets import molecules, write_csv

# --- damaged input files ----------------------------------------------------------------------------------------------


def parquet() -> bytes:
    """A Parquet file of some row groups."""
    sink = pa.BufferOutputStream()
    table = pa.table({"smiles": ["CCO", "CCC"] * 500, "value": [1.0, 2.0] * 500})
    pq.write_table(table, sink, row_group_size=100)
    return sink.getvalue().to_pybytes()


def arrow(stream: bool) -> bytes:
    """An Arrow IPC file or stream."""
    sink = pa.BufferOutputStream()
    table = pa.table({"smiles": ["CCO", "CCC"] * 500})
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_hole(content: bytes, begin: int) -> bytes:
    return content[:begin] + b"\xff" * 300 + content[begin + 300 :]


BINARY = bytes(range(256)) * 20
TEXT = b"smiles,value\n" + b"".join(b"%s,%d\n" % (b"C" * (k % 30 + 1), k) for k in range(2000))

FILES: list[tuple[Any, ...]] = [
    ("empty.csv", lambda: b"", "the input has no records (empty.csv)"),
    ("header.csv", lambda: b"smiles,value\n", "the input has no records (header.csv)"),
    ("binary.csv", lambda: BINARY, "binary.csv: none of its columns"),
    ("zeros.csv", lambda: bytes(3000), "zeros.csv: none of its columns"),
    ("nameless.csv", lambda: b"CCO,1\nCCC,2\n", "nameless.csv: none of its columns (CCO, 1) is called smiles"),
    ("cut.csv.gz", lambda: half(gzip.compress(TEXT)), "HERE/cut.csv.gz is truncated or damaged"),
    ("hole.csv.gz", lambda: with_hole(gzip.compress(TEXT), 500), "HERE/hole.csv.gz is truncated or damaged"),
    ("plain.csv.gz", lambda: TEXT, "HERE/plain.csv.gz is truncated or damaged: Not a gzipped file"),
    ("plain.csv.zst", lambda: TEXT, "HERE/plain.csv.zst is truncated or damaged"),
    ("cut.csv.bz2", lambda: half(bz2.compress(TEXT)), "HERE/cut.csv.bz2 is truncated or damaged"),
    ("cut.parquet", lambda: half(parquet()), "cut.parquet is no Parquet file, or damaged"),
    ("page.parquet", lambda: with_hole(parquet(), 100), "page.parquet is damaged behind record 0"),
    ("footer.parquet", lambda: with_hole(parquet(), -600), "footer.parquet is no Parquet file, or damaged"),
    ("text.parquet", lambda: TEXT, "text.parquet is no Parquet file, or damaged"),
    ("cut.arrow", lambda: half(arrow(stream=False)), "cut.arrow is no Arrow file, or damaged"),
    ("hole.arrow", lambda: with_hole(arrow(stream=False), 2000), "hole.arrow is damaged behind record 0"),
    ("stream.arrow", lambda: half(arrow(stream=True)), "HERE/stream.arrow is truncated or damaged"),
    ("text.arrow", lambda: TEXT, "HERE/text.arrow is truncated or damaged"),
    ("archive.tar.gz", lambda: gzip.compress(b"x"), "input=HERE/archive.tar.gz: unknown format", "unpack it first"),
    ("molecules.xyz", lambda: b"1\n\nC 0 0 0\n", "input=HERE/molecules.xyz: unknown format", ".csv, .tsv"),
]


@pytest.mark.parametrize("command", ["embed", "preprocess"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file[0])
def test_an_input_that_is_damaged_is_named(places, capfd, command, file):
    name, content, *parts = file
    (places.HERE / name).write_bytes(content())
    begin = {"embed": "embed export=EXPORT representation=2d", "preprocess": "preprocess"}[command]
    refused(places, capfd, f"{begin} input=HERE/{name} output=HERE/out.parquet", FAILED, *parts)
    assert sorted(path.name for path in places.HERE.iterdir()) == [name]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("cut.csv.gz", half(gzip.compress(TEXT)), "ended before the end-of-stream marker"),
        ("plain.csv.gz", TEXT, "Not a gzipped file"),
        ("binary.csv", BINARY, "none of its columns"),
        ("latin.csv", "smiles,välue\n".encode("latin-1"), "has no column 'value'"),
        ("empty.csv", b"", "the input has no records (empty.csv)"),
        ("header.csv", b"smiles,value\n", "the input has no records (header.csv)"),
        ("reversed.csv", b"value,smiles\n1\n", "reversed.csv: target 'value' has no known value in 1 rows"),
        ("infinite.csv", b"value,smiles\ninf,C\n", "row 0, cannot be evaluated: bad_target"),
        ("few.csv", b"smiles,value\nCC,1\nC,2\n", "few.csv: target 'value' is known for 2 rows"),
        ("smiles.csv", b"smiles,value\n" + b"CC(,1\nCCC(,2\n" * 20, "'value' has no known value in 0 molecules"),
    ],
)
def test_evaluate_names_a_damaged_table(places, capfd, name, content, part):
    (places.HERE / name).write_bytes(content)
    code = main(places.words(f"evaluate vectors export=EXPORT input=HERE/{name} target=value num_cpus=1"))
    out, err = capfd.readouterr()
    assert_one_message(code, out, err, FAILED, ())
    assert part.lower() in err.lower()


def test_a_damaged_record_is_a_row_of_the_result_and_no_error(places, capfd):
    (places.HERE / "cut.sdf").write_text("ethanol\n\n\n  3  2  0  0  0  0  0  0  0  0999 V2000\n    0.0 0.0")
    assert main(places.words("embed export=EXPORT input=HERE/cut.sdf output=HERE/v.parquet")) == 0
    assert "0 of 1 molecules embedded, 1 failed" in capfd.readouterr().err


# --- damaged datasets, runs, checkpoints and exports ------------------------------------------------------------------

Change = Callable[[Any], None]


def edited(change: Change) -> Callable[[bytes], bytes]:
    """The same JSON with a change."""

    def edit(content: bytes) -> bytes:
        value = json.loads(content)
        change(value)
        return json.dumps(value).encode()

    return edit


SOMETHING_ELSE: dict[str, tuple[bytes, str]] = {
    "cut": (b'{"a": ', "it is not JSON (line 1, column"),
    "empty": (b"", "it is empty"),
    "binary": (b"\xff\xfe\x00", "it is not JSON"),
    "list": (b"[1]", "expected a mapping, got a list"),
    "number": (b"3", "expected a mapping, got a whole number"),
    "keys": (b'{"a": 1}', "is missing"),
}
"""What a file of JSON may hold instead, and what is said of it."""

STEP = "checkpoints/step_00000006"
SYNC = "sync run_dir=HERE/copy loggers=[tensorboard] timeout_s=5"
JSON_FILES = [
    ("DATASET", "manifest.json", "inspect HERE/copy", FAILED),
    ("DATASET", "manifest.json", "verify HERE/copy", FAILED),
    ("DATASET", "plan.json", "append input=CSV output=HERE/copy", USAGE),
    ("DATASET", "timing.json", "inspect HERE/copy", FAILED),
    ("RUN", "dataset.json", "inspect HERE/copy", FAILED),
    ("RUN", "dataset.json", "export run_dir=HERE/copy", FAILED),
    ("RUN", "dataset.json", "report HERE/copy", FAILED),
    ("RUN", "environment.json", "report HERE/copy", FAILED),
    ("RUN", "environment.json", SYNC, FAILED),
    ("RUN", "loggers/tensorboard.json", SYNC, FAILED),
    ("RUN", "eval.json", "report HERE/copy", FAILED),
    ("RUN", "diagnostics.json", "report HERE/copy", FAILED),
    ("RUN", "conformers.json", "report HERE/copy", FAILED),
    ("RUN", "bonds.json", "report HERE/copy", FAILED),
    ("RUN", f"{STEP}/COMPLETE", f"inspect HERE/copy/{STEP}", FAILED),
    ("RUN", f"{STEP}/COMPLETE", "export run_dir=HERE/copy step=6", FAILED),
    ("EXPORT", "config.json", "inspect HERE/copy", FAILED),
    ("EXPORT", "config.json", "embed export=HERE/copy input=CSV output=HERE/v.parquet", FAILED),
]


@pytest.mark.parametrize("content", SOMETHING_ELSE)
@pytest.mark.parametrize("case", JSON_FILES, ids=lambda case: f"{case[1]}, {case[2].split()[0]}")
def test_damaged_json_is_named_with_what_was_expected(places, capfd, case, content):
    what, name, line, code = case
    written, found = SOMETHING_ELSE[content]
    (copy_of(places, what) / name).write_bytes(written)
    refused(places, capfd, line, code, "HERE/copy/", Path(name).name, found)


SHARD, PLAN = "shard-00000.tar", "plan.json"
INSPECT, VERIFY, APPEND = "inspect HERE/copy", "verify HERE/copy", "append input=CSV output=HERE/copy"
EXPORT, REPORT = "export run_dir=HERE/copy", "report HERE/copy"
EMBED_COPY = "embed export=HERE/copy input=CSV output=HERE/v.parquet"
DIAGNOSE = "diagnose run_dir=RUN dataset=HERE/copy"
WEIGHTS = f"{STEP}/weights-00000-of-00001.safetensors"


class Damage(NamedTuple):
    """A file of a dataset, run or export, and what a command says when it is damaged."""

    name: str
    content: bytes | Callable[[bytes], bytes] | None
    """Instead of what the file has; None for no file."""
    line: str
    parts: tuple[str, ...]
    code: int = FAILED


DAMAGED_DATASETS = [
    Damage("manifest.json", edited(lambda m: m.update(format_version=9)), VERIFY, ("versions (9, ",)),
    Damage("manifest.json", edited(lambda m: m.update(counts=3)), VERIFY, ("counts: expected a mapping",)),
    Damage("manifest.json", edited(lambda m: m.update(block_rows=9)), VERIFY, ("manifest.json was changed",)),
    Damage("manifest.json", edited(lambda m: m.update(more=9)), VERIFY, ("manifest.json", "'more'")),
    Damage(SHARD, half, DIAGNOSE, (SHARD, "bytes, expected")),
    Damage(SHARD, lambda c: with_hole(c, 6000), DIAGNOSE, (SHARD, "its sha256 is")),
    Damage(SHARD, None, DIAGNOSE, (SHARD, "is missing")),
    Damage(PLAN, edited(lambda p: p["settings"].update(nosuch=3)), APPEND, ("plan.json: unknown key 'nosuch'",), USAGE),
]
DAMAGED_RUNS = [
    Damage("config.yaml", b"{a: [", INSPECT, ("HERE/copy/config.yaml cannot be read as YAML",), USAGE),
    Damage("config.yaml", b"\xff\xfe\x00", INSPECT, ("HERE/copy/config.yaml cannot be read as YAML",), USAGE),
    Damage("config.yaml", b"", INSPECT, ("HERE/copy/config.yaml", "got nothing"), USAGE),
    Damage("config.yaml", b"[1]", REPORT, ("HERE/copy/config.yaml", "got a list"), USAGE),
    Damage("config.yaml", b"some text", EXPORT, ("HERE/copy/config.yaml", "'some text'"), USAGE),
    Damage("config.yaml", b"steps: 3", EXPORT, ("config.yaml: the key 'run_dir' is missing",), USAGE),
    Damage("config.yaml", b"run_dir: a\nstepps: 3", EXPORT, ("config.yaml: unknown key 'stepps'",), USAGE),
    Damage("config.yaml", lambda c: c.replace(b"\nsteps: ", b"\nsteps: -"), EXPORT, ("steps=-6: expected",), USAGE),
    Damage("config.yaml", b"objective:\n  name: x", INSPECT, ("older molstream", "'log'"), USAGE),
    Damage("config.yaml", b"run_dir: a\nobjective: 3", INSPECT, ("objective=3: expected a mapping",), USAGE),
    Damage("dataset.json", None, EXPORT, ("HERE/copy/dataset.json cannot be read: No such file",)),
    Damage("dataset.json", edited(lambda d: d["counts"].pop("written")), EXPORT, ("'counts.written' is missing",)),
    Damage("launches.json", b"{", INSPECT, ("HERE/copy/launches.json", "not JSON", "or remove it")),
    Damage("launches.json", b"{}", REPORT, ("HERE/copy/launches.json", "expected a list")),
    Damage("launches.json", b"[3]", SYNC, ("HERE/copy/launches.json", "[0]: expected a mapping")),
    Damage("launches.json", edited(lambda entries: entries[0].pop("host")), SYNC, ("'[0].host' is missing",)),
    Damage("metrics.jsonl", b'{"step": 1}\n[]\n', INSPECT, ("HERE/copy/metrics.jsonl, line 2,", "got a list")),
    Damage("metrics.jsonl", b"\xff\xfe\n", REPORT, ("HERE/copy/metrics.jsonl, line 1,", "not JSON")),
    Damage("metrics.jsonl", b"{}\n", SYNC, ("HERE/copy/metrics.jsonl", "the key 'step' is missing")),
    Damage("metrics.jsonl", b"", REPORT, ("HERE/copy has no recorded step",)),
    Damage("metrics.jsonl", None, SYNC, ("HERE/copy has no recorded step",)),
    Damage("conformers.sdf", b"x\n", REPORT, ("HERE/copy/conformers.sdf, molecule 1",)),
    Damage(f"{STEP}/COMPLETE", b"{}", f"inspect HERE/copy/{STEP}", ("marker", "'state.json' is missing")),
    Damage(f"{STEP}/COMPLETE", edited(lambda m: m.update(a=3)), f"{EXPORT} step=6", ("a: expected a mapping",)),
    Damage(f"{STEP}/state.json", b"{", f"inspect HERE/copy/{STEP}", (STEP, "state.json has 1 bytes")),
    Damage(f"{STEP}/state.json", None, f"{EXPORT} step=6", (STEP, "state.json is missing")),
    Damage(WEIGHTS, half, f"{EXPORT} step=6", (STEP, "weights-00000", "bytes, expected")),
]
DAMAGED_EXPORTS = [
    Damage("config.json", edited(lambda c: c.update(format_version=7)), INSPECT, ("format version 7",)),
    Damage("config.json", edited(lambda c: c["featurizer"].update(schema_version=1)), INSPECT, ("schema version 1",)),
    Damage("config.json", edited(lambda c: c.pop("purpose")), INSPECT, ("config.json", "'purpose' is missing")),
    Damage("config.json", edited(lambda c: c.pop("training")), INSPECT, ("config.json", "'training' is missing")),
    Damage("config.json", edited(lambda c: c.update(model=3)), INSPECT, ("config.json", "model: expected a mapping")),
    Damage("config.json", edited(lambda c: c["model"].update(nosuch={})), INSPECT, ("model: unknown key 'nosuch'",)),
    Damage("config.json", edited(lambda c: c["model"].clear()), INSPECT, ("weights do not match the model",)),
    Damage("config.json", edited(lambda c: c["model"]["graph_transformer"].update(hidden=32)), INSPECT, ("has shape",)),
    Damage("model.safetensors", b"", EMBED_COPY, ("HERE/copy/model.safetensors cannot be read",)),
    Damage("model.safetensors", half, EMBED_COPY, ("HERE/copy/model.safetensors cannot be read",)),
    Damage("model.safetensors", None, INSPECT, ("HERE/copy/model.safetensors is missing",)),
]
DAMAGES = [
    (what, damage)
    for what, found in (("DATASET", DAMAGED_DATASETS), ("RUN", DAMAGED_RUNS), ("EXPORT", DAMAGED_EXPORTS))
    for damage in found
]


@pytest.mark.parametrize(("what", "damage"), DAMAGES, ids=lambda each: getattr(each, "name", each))
def test_damage_is_named(places, capfd, what, damage):
    file = copy_of(places, what) / damage.name
    if damage.content is None:
        file.unlink()
    else:
        file.write_bytes(damage.content(file.read_bytes()) if callable(damage.content) else damage.content)
    refused(places, capfd, damage.line, damage.code, *damage.parts)


def test_a_run_without_a_whole_checkpoint_says_so(places, capfd):
    folder = copy_of(places, "RUN")
    for state in folder.glob("checkpoints/*/state.json"):
        state.write_text("x")
    refused(places, capfd, "export run_dir=HERE/copy", FAILED, "HERE/copy has no intact checkpoint")
    shutil.rmtree(folder / "checkpoints")
    refused(places, capfd, EMBED_COPY, FAILED, "HERE/copy has no intact checkpoint")
    refused(places, capfd, "diagnose run_dir=HERE/copy", FAILED, "HERE/copy has no intact checkpoint")


def test_a_run_without_a_history_can_be_reported(places, capfd):
    (copy_of(places, "RUN") / "launches.json").unlink()
    assert main(places.words("report HERE/copy")) == 0
    assert main(places.words("inspect HERE/copy")) == 0
    capfd.readouterr()


def test_verify_lists_every_damage(places, capfd):
    folder = copy_of(places, "DATASET")
    (folder / "rejected.parquet").write_text("x")
    (folder / "shard-00000.tar").unlink()
    assert main(places.words("verify HERE/copy")) == FAILED
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == ["damaged"] * 2
    assert "shard-00000.tar: the file is missing" in err
    assert "rejected.parquet cannot be read" in err


QUICK = "folds=random untrained_seeds=1 num_cpus=1 output=HERE/eval.json"


def test_evaluate_takes_a_run_as_well_as_its_export(places, capfd, csv):
    file = write_csv(places.HERE / "molecules.csv", molecules())
    assert main(places.words(f"evaluate vectors export=RUN input={file} target=value {QUICK}")) == 0
    fingerprint = json.loads((places.RUN / "dataset.json").read_text())["fingerprint"]
    result = json.loads((places.HERE / "eval.json").read_text())
    assert result["dataset_fingerprint"] == fingerprint
    capfd.readouterr()

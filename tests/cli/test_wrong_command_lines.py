"""Command lines that cannot work: each gives one message in the one style and the right exit code, never a traceback.

Words in capitals stand for folders and files: DATASET, RUN and EXPORT are intact, CSV has molecules, HERE is a new
folder. Most lines run in this process, by the function that the console script calls.
"""

import bz2
import gzip
import json
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.cli.main import main
from tests.support.datasets import molecules, molstream, write_csv

FAILED, USAGE = 1, 2
TINY = "model=tiny data.lanes=2 data.micro_batch=8 steps=1"

FOREIGN = ("Traceback", "LexerNoViableAlt", "mismatched input", "omegaconf", "hydra", "pydantic", "validation error")
FOREIGN += ("override", "exception", "jsondecodeerror", "keyerror", "typeerror", "object has no attribute", ".writing-")
"""Words of the libraries behind, which say nothing to a user, in lower case."""

NOTE = re.compile(
    r"warning: .*|.*: SMILES are read from the column .*|.* has no records|embedded \d+ .*|(samples|batches)  .*"
)
"""Lines that a command may print before it fails."""


class Places(NamedTuple):
    """What the words in capitals stand for."""

    DATASET: Path
    RUN: Path
    EXPORT: Path
    CSV: Path
    HERE: Path

    def words(self, line: str) -> list[str]:
        """The words of a command line."""
        pattern = re.compile(rf"\b({'|'.join(self._fields)})\b")
        return [pattern.sub(lambda found: str(getattr(self, found[0])), word) for word in shlex.split(line)]


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("csv") / "molecules.csv", molecules()[:6])


@pytest.fixture
def places(dataset: Path, small_run: Path, export: Path, csv: Path, tmp_path: Path) -> Places:
    return Places(dataset, small_run, export, csv, tmp_path)


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """Commands that set handlers of signals do so for their process, which is this one."""
    kept = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, kept)


def assert_one_message(code: int, out: str, err: str, expected: int, parts: tuple[str, ...]) -> None:
    """The command has failed as it should: with the exit code, nothing on stdout, one message that has all parts."""
    *notes, message = err.rstrip("\n").split("\n")
    assert code == expected, err
    assert out == ""
    assert message.startswith("error: "), err
    assert not [note for note in notes if not NOTE.fullmatch(note)], err
    assert message.endswith(".") or re.search(r"Did you mean '[^?]*\?$", message), message
    assert message.isprintable()
    assert "  " not in message, message
    assert ".." not in message.replace("...", ""), message
    for word in FOREIGN:
        assert word.lower() not in message.lower(), message
    for part in parts:
        assert part in message, message


def refused(places: Places, capfd: Any, line: str, expected: int, *parts: str) -> None:
    """Run a command line in this process, and assert that it fails as it should."""
    code = main(places.words(line))
    out, err = capfd.readouterr()
    assert_one_message(code, out, err, expected, tuple(place_in(places, part) for part in parts))


def place_in(places: Places, text: str) -> str:
    return re.sub(rf"\b({'|'.join(places._fields)})\b", lambda found: str(getattr(places, found[0])), text)


# --- what is wrong on the line itself ---------------------------------------------------------------------------------

WRITE = "output=HERE/out"
PREPROCESS = f"preprocess input=CSV {WRITE}"
PRETRAIN = "pretrain run_dir=HERE/run data.path=DATASET"
EMBED = "embed export=EXPORT input=CSV output=HERE/v.parquet"
GENERATE = "generate conformers run_dir=RUN input=CSV output=HERE/g.sdf"

USAGE_LINES = [
    # Commands.
    ("pretain", "unknown command 'pretain'", "Did you mean 'pretrain'?", "Choose one of preprocess,"),
    ("embde export=a", "unknown command 'embde'", "Did you mean 'embed'?"),
    ("''", "unknown command ''"),
    ("--verison", "unknown command '--verison'"),
    ("help pretrian", "unknown command 'pretrian'", "'pretrain'"),
    ("generate", "expected conformers or bonds", "got nothing"),
    ("generate conformer run_dir=RUN", "expected conformers or bonds", "got 'conformer'"),
    ("evaluate bons run_dir=RUN", "unexpected argument 'bons'", "key=value"),
    ("supervise restarts=3", "no job is given", "deepspeed"),
    ("supervise deepspeed", "expected `deepspeed", "got: nothing"),
    ("supervise deepspeed nosuch.py a=b", "training/pretrain.py", "got: nosuch.py a=b"),
    ("supervise restart=3 deepspeed x.py", "unknown key 'restart'", "'restarts'"),
    # Words that are no key=value.
    ("pretrain --steps 10", "unknown option '--steps'", "key=value"),
    ("pretrain --steps=10", "unknown option '--steps=10'", "key=value"),
    ("doctor --cfgg", "unknown option '--cfgg'"),
    (f"{PREPROCESS} --dryrun", "unknown option '--dryrun'"),
    ("pretrain +model=base", "'+model=base'", "plain key"),
    ("pretrain ++steps=3", "'++steps=3'", "plain key"),
    ("pretrain ~model", "'~model'", "key=value"),
    ("pretrain data.path", "unexpected argument 'data.path'"),
    ("doctor gpus", "unexpected argument 'gpus'"),
    ("pretrain =3", "'=3'", "plain key"),
    ("pretrain 'model@x=base'", "'model@x=base'", "plain key"),
    ("verify DATASET RUN", "unexpected argument 'RUN'", "expected one dataset"),
    ("inspect a b", "unexpected argument 'b'", "expected one path"),
    # Keys and sections.
    ("pretrain run_dir=a stepps=3", "unknown key 'stepps'", "'steps'"),
    ("pretrain run_dir=a optm.lr=1", "unknown key 'optm.lr'", "'optim.lr'"),
    ("pretrain run_dir=a optim.lrr=1", "unknown key 'optim.lrr'", "'optim.lr'"),
    ("pretrain run_dir=a lr=1", "unknown key 'lr'", "'optim.lr'"),
    ("pretrain run_dir=a model/encoder_4d=gin", "unknown key 'model/encoder_4d'", "'model/encoder_3d'"),
    ("pretrain run_dir=a 'optim={lrr: 3}'", "unknown key 'optim.lrr'", "'optim.lr'"),
    ("pretrain run_dir=a 'data.mix=[{path: a, wieght: 3}]'", "'data.mix[0].wieght'", "'data.mix[0].weight'"),
    ("pretrain run_dir=a 'data.mix=[{weight: 3}]'", "data.mix[0].path is missing"),
    ("pretrain run_dir=a 'data.mix=[a,b]'", "data.mix[0]=a", "expected a mapping"),
    ("pretrain run_dir=a model.gin.hidden=3", "model.gin is not part of this configuration", "graph_transformer"),
    (f"{PREPROCESS} featurize.conformer.given=keep", "'featurize.conformer.given'", "'featurize.conformers.given'"),
    ("preprocess 'input=[{path: a.csv, formt: csv}]' output=b", "input a.csv", "unknown key 'formt'", "'format'"),
    ("preprocess 'input=[{pth: a.csv}]' output=b", "needs the key 'path'"),
    ("append input=CSV output=DATASET limit=3", "unknown key 'limit'", "Known keys: input, output"),
    ("preprocess --help featurise", "unknown key 'featurise'", "'featurize'"),
    ("pretrain -h nosuch", "unknown key 'nosuch'", "Known keys: run_dir"),
    # Missing keys, and keys without a value.
    ("pretrain", "run_dir is missing", "run_dir=VALUE"),
    ("preprocess input=CSV", "output is missing"),
    ("embed input=a output=b", "export is missing"),
    ("evaluate", "export is missing", "input is missing", "target is missing"),
    ("generate bonds", "run_dir is missing", "output is missing"),
    ("verify", "dataset is missing"),
    ("report", "no run is named"),
    ("preprocess input=CSV output=", "output= has no value"),
    ("pretrain run_dir=a optim.lr=", "optim.lr= has no value"),
    # Options of config groups.
    ("pretrain run_dir=a model=bas", "model=bas: no such option", "'base'", "large"),
    ("pretrain run_dir=a model/encoder_2d=gni", "model/encoder_2d=gni", "'gin'", "graph_transformer"),
    ("pretrain run_dir=a objective=moleculsde", "no such option", "'moleculesde'"),
    ("pretrain run_dir=a objective=[moleculesde,moleculesde]", "named twice"),
    ("pretrain run_dir=a model=[tiny,base]", "expected one of", "got 2 names"),
    ("pretrain run_dir=a experiment=papr", "experiment=papr", "'paper'"),
    ("pretrain run_dir=a deepspeed=zero4", "deepspeed=zero4", "zero3"),
    (f"{PREPROCESS} conformers=eleven", "conformers=eleven", "none, one or ten"),
    ("doctor objective=nosuch", "objective=nosuch", "moleculesde"),
    # Types.
    (f"{PRETRAIN} steps=ten", "steps=ten: expected a whole number"),
    (f"{PRETRAIN} steps=1.5", "steps=1.5: expected a whole number"),
    (f"{PRETRAIN} steps=null", "steps=null: expected a whole number"),
    (f"{PRETRAIN} 'steps=[1,2]'", "steps=[1,2]: expected a whole number"),
    (f"{PRETRAIN} optim.lr=fast", "optim.lr=fast: expected a number"),
    (f"{PRETRAIN} optim=5", "optim=5: expected a mapping"),
    (f"{PRETRAIN} compile=maybe", "compile=maybe: expected true or false"),
    (f"{PREPROCESS} header=2", "header=2: expected true or false"),
    (f"{PREPROCESS} target_columns=[value", "target_columns=[value", "cannot be read as a list"),
    ("pretrain run_dir=a data.mix=[{path:", "data.mix=[{path:", "cannot be read as a list"),
    ("pretrain run_dir=a 'data.mix={path: {1'", "cannot be read as a list"),
    # Ranges.
    (f"{PREPROCESS} limit=-5", "limit=-5: expected at least 1"),
    (f"{PREPROCESS} max_rejected_fraction=1.5", "max_rejected_fraction=1.5: expected at most 1"),
    (f"{PREPROCESS} max_rejected_fraction=nan", "max_rejected_fraction=nan: expected a finite number"),
    (f"{PREPROCESS} log_interval_s=0", "log_interval_s=0: expected a number above 0"),
    (f"{PREPROCESS} sandbox.memory_mib=1", "sandbox.memory_mib=1: expected at least 1024"),
    (f"{PREPROCESS} featurize.max_atoms=3000", "featurize.max_atoms=3000: expected at most", "2000"),
    (f"{PREPROCESS} --dry-run sample=0", "sample=0: expected at least 1"),
    (f"{PRETRAIN} seed=-1", "seed=-1: expected at least 0"),
    (f"{PRETRAIN} steps=0", "steps=0: expected at least 1"),
    (f"{PRETRAIN} optim.lr=nan", "optim.lr=nan: expected a finite number"),
    (f"{PRETRAIN} optim.lr=-inf", "optim.lr=-inf: expected a finite number"),
    (f"{PRETRAIN} optim.lr=-1", "optim.lr=-1: expected a number above 0"),
    (f"{PRETRAIN} optim.beta1=1", "optim.beta1=1: expected a number below 1"),
    (f"{PRETRAIN} deepspeed.zero_stage=4", "deepspeed.zero_stage=4: expected at most 3"),
    (f"{PRETRAIN} deepspeed.offload=all", "deepspeed.offload=all needs deepspeed.zero_stage=3"),
    (f"{PRETRAIN} model.graph_transformer.hidden=65", "hidden=65: expected a multiple of num_heads=4"),
    ("pretrain run_dir=a 'data.mix=[{path: a, weight: -3}]'", "data.mix[0].weight=-3: expected a number above 0"),
    (f"{EMBED} batch_size=-1", "batch_size=-1: expected at least 1"),
    (f"{GENERATE} repeats=0", "repeats=0: expected at least 1"),
    (f"{GENERATE} sampler.eps=1", "sampler.eps=1: expected a number below 1"),
    ("diagnose run_dir=RUN batch_size=1", "batch_size=1: expected at least 2"),
    ("diagnose run_dir=RUN step=-5", "step=-5: expected at least 0"),
    ("evaluate conformers run_dir=RUN dataset=DATASET threshold=0", "threshold=0: expected a number above 0"),
    ("sync run_dir=RUN timeout_s=0", "timeout_s=0: expected a number above 0"),
    ("supervise host_timeout_s=2 deepspeed x.py", "host_timeout_s=2: expected at least 6"),
    ("doctor gpus=0", "gpus=0: expected at least 1"),
    # Choices.
    (f"{PRETRAIN} optim.name=adam", "optim.name=adam: expected one of adamw, muon"),
    (f"{PRETRAIN} deepspeed.precision=fp64", "expected one of fp32, bf16, fp16"),
    (f"{PREPROCESS} container=tar", "container=tar: expected one of webdataset, arrow"),
    (f"{PREPROCESS} format=xml", "format=xml: expected auto, csv"),
    (f"{PREPROCESS} delimiter=ab", "delimiter=ab: expected a character"),
    (f"{EMBED} representation=4d", "representation=4d: expected one of 2d, 3d, both"),
    (f"{EMBED} device=tpu", "device=tpu: expected auto, cpu, cuda"),
    (f"{GENERATE} sampler.name=eular", "sampler.name=eular: expected one of", "euler_maruyama"),
    ("doctor precision=fp8", "precision=fp8: expected one of fp32, bf16, fp16"),
    ("sync run_dir=RUN loggers=[mlfow]", "'mlfow'", "tensorboard, mlflow, wandb"),
    # Folders that are something else.
    ("export run_dir=HERE/nosuch", "HERE/nosuch is not a run directory", "config.yaml"),
    ("export run_dir=DATASET", "DATASET is not a run directory"),
    ("report CSV", "CSV is not a run directory"),
    ("generate bonds run_dir=EXPORT input=CSV output=HERE/a.sdf", "EXPORT is not a run directory"),
    ("export run_dir=RUN output=DATASET", "output=DATASET holds other files", "manifest.json"),
    ("preprocess input=CSV output=RUN", "output=RUN holds other files", "give a new folder"),
    ("preprocess input=CSV output=CSV", "output=CSV is a file", "expected a folder"),
    ("preprocess input=nosuch://a/b.csv output=HERE/o", "nosuch://a/b.csv", "s3://"),
    (f"{PREPROCESS} decontaminate=[bbbp]", "decontaminate=bbbp", "benchmark_folder"),
    ("diagnose run_dir=RUN batch_size=1000", "fewer than one global batch", "1000"),
    ("report RUN RUN evaluation=CSV", "belong to one run, but 2 runs are named"),
]


@pytest.mark.parametrize("line", USAGE_LINES, ids=lambda line: line[0])
def test_a_line_that_cannot_be_run_exits_with_2(places, capfd, line):
    refused(places, capfd, line[0], USAGE, *line[1:])


# --- files that are not there, or are something else ------------------------------------------------------------------

FILE_LINES = [
    (f"preprocess input=HERE/nosuch.csv {WRITE}", "input=HERE/nosuch.csv: no such file"),
    (f"preprocess 'input=HERE/*.csv' {WRITE}", "input=HERE/*.csv: no such file"),
    (f"preprocess input=[] {WRITE}", "input is an empty list"),
    (f"{PREPROCESS} decontaminate=[HERE/nosuch.csv]", "decontaminate=HERE/nosuch.csv: no such file"),
    (f"{PREPROCESS} smiles_column=smile", "molecules.csv has no column 'smile'", "smiles, value"),
    (f"{PREPROCESS} target_columns=[valu]", "molecules.csv has no column 'valu'", "smiles, value"),
    ("preprocess input=CSV output=CSV/o", "CSV/o/work: not a directory"),
    ("preprocess input=CSV output=/proc/o", "/proc/o: no such file or directory"),
    ("append input=CSV output=HERE/nosuch", "HERE/nosuch: no such file or directory"),
    ("append input=CSV output=RUN", "RUN is not a committed dataset"),
    ("append input=HERE/nosuch.csv output=DATASET", "input=HERE/nosuch.csv: no such file"),
    ("verify HERE/nosuch", "HERE/nosuch is not a committed dataset", "manifest.json"),
    ("verify CSV", "CSV is not a committed dataset"),
    ("inspect HERE/nosuch", "HERE/nosuch is not written by molstream", "config.json"),
    ("inspect CSV", "CSV is not written by molstream"),
    ("export run_dir=RUN step=4", "has no checkpoint of step 4", "[3, 6]"),
    ("export run_dir=RUN output=CSV", "CSV: not a directory"),
    ("export run_dir=RUN output=CSV/e", "CSV/e: not a directory"),
    ("export run_dir=RUN output=/proc/e", "/proc/e: no such file or directory"),
    ("embed export=HERE/nosuch input=CSV output=HERE/v", "HERE/nosuch is neither an export nor a run", "config.json"),
    ("embed export=CSV input=CSV output=HERE/v", "CSV is neither an export nor a run"),
    ("embed export=EXPORT input=HERE/nosuch.csv output=HERE/v", "input=HERE/nosuch.csv: no such file"),
    ("embed export=EXPORT input=EXPORT output=HERE/v", "input=EXPORT: no such file, and no file of a known format"),
    ("embed export=EXPORT input=CSV output=HERE", "HERE: is a directory", "path of a file"),
    ("embed export=EXPORT input=CSV output=CSV/v", "CSV: file exists", "a folder is expected"),
    ("embed export=EXPORT input=CSV output=/proc/v", "/proc/v: no such file or directory"),
    (f"{EMBED} smiles_column=nosuch", "molecules.csv has no column 'nosuch'"),
    ("generate conformers run_dir=RUN input=HERE/nosuch.csv output=HERE/g.sdf", "input=HERE/nosuch.csv: no such file"),
    ("generate conformers run_dir=RUN input=CSV output=HERE limit=1", "HERE: is a directory"),
    ("generate conformers run_dir=RUN input=CSV output=CSV/g.sdf", "CSV: file exists"),
    ("evaluate export=EXPORT input=CSV target=nosuch", "CSV has no column 'nosuch'", "smiles, value"),
    ("evaluate export=EXPORT input=CSV target=smiles", "CSV, column 'smiles'", "expected numbers"),
    ("evaluate export=EXPORT input=HERE/nosuch.csv target=a", "input=HERE/nosuch.csv: no such file"),
    ("evaluate export=EXPORT input=DATASET target=a", "input=DATASET: expected a", "got a folder"),
    ("evaluate export=HERE input=CSV target=value", "HERE is neither an export nor a run"),
    ("evaluate bonds run_dir=RUN dataset=RUN", "RUN is not a committed dataset"),
    ("diagnose run_dir=RUN dataset=HERE/nosuch", "HERE/nosuch is not a committed dataset"),
    ("doctor dataset=HERE/nosuch", "HERE/nosuch is not a committed dataset"),
    ("report RUN evaluation=HERE/nosuch", "evaluation=HERE/nosuch: no such file", "molstream evaluate"),
    ("report RUN evaluation=CSV", "CSV cannot be read: it is not JSON (line 1, column 1", "molstream evaluate"),
    ("report RUN embeddings=HERE/nosuch", "embeddings=HERE/nosuch: no such file", "molstream embed"),
    ("report RUN embeddings=CSV", "embeddings=CSV is not what `molstream embed` writes"),
    ("report RUN embeddings=DATASET/duplicates.parquet", "expected 'failure' among them"),
    ("report RUN output=CSV/r.html", "CSV: file exists"),
    ("report RUN output=HERE", "HERE: is a directory"),
    ("report RUN output=/proc/r.html", "/proc/r.html: no such file or directory"),
]


@pytest.mark.parametrize("line", FILE_LINES, ids=lambda line: line[0])
def test_a_file_that_cannot_be_used_exits_with_1(places, capfd, line):
    refused(places, capfd, line[0], FAILED, *line[1:])


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
    refused(places, capfd, f"{begin} input=HERE/{name} output=HERE/out", FAILED, *parts)
    assert sorted(path.name for path in places.HERE.iterdir()) == [name]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("cut.csv.gz", half(gzip.compress(TEXT)), "ended before the end-of-stream marker"),
        ("plain.csv.gz", TEXT, "Not a gzipped file"),
        ("binary.csv", BINARY, "expected a csv in utf-8"),
        ("latin.csv", "smiles,välue\n".encode("latin-1"), "expected a csv in utf-8"),
        ("empty.csv", b"", "has no column 'smiles'; its columns are none"),
        ("header.csv", b"smiles,value\n", "has no rows"),
        ("reversed.csv", b"value,smiles\n1\n", "row 1: it ends before the column 'smiles'"),
        ("smiles.csv", b"smiles,value\nCC(,1\n", "RDKit cannot read the SMILES 'CC('"),
    ],
)
def test_evaluate_names_a_damaged_table(places, capfd, name, content, part):
    (places.HERE / name).write_bytes(content)
    code = main(places.words(f"evaluate export=EXPORT input=HERE/{name} target=value"))
    out, err = capfd.readouterr()
    assert_one_message(code, out, err, FAILED, ())
    assert part.lower() in err.lower()


def test_a_damaged_record_is_a_row_of_the_result_and_no_error(places, capfd):
    (places.HERE / "cut.sdf").write_text("ethanol\n\n\n  3  2  0  0  0  0  0  0  0  0999 V2000\n    0.0 0.0")
    assert main(places.words("embed export=EXPORT input=HERE/cut.sdf output=HERE/v.parquet")) == 0
    assert "0 of 1 molecules embedded, 1 failed" in capfd.readouterr().out


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
    ("EXPORT", "config.json", "embed export=HERE/copy input=CSV output=HERE/v", FAILED),
]


def copy_of(places: Places, what: str) -> Path:
    """A copy in HERE."""
    target = places.HERE / "copy"
    shutil.copytree(getattr(places, what), target)
    return target


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
EMBED_COPY = "embed export=HERE/copy input=CSV output=HERE/v"
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
    Damage("manifest.json", edited(lambda m: m.update(format_version=9)), VERIFY, ("versions (9, 2)",)),
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
    refused(
        places, capfd, "embed export=HERE/copy input=CSV output=HERE/v", FAILED, "HERE/copy has no intact checkpoint"
    )
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


def test_evaluate_takes_a_run_as_well_as_its_export(places, capfd, csv):
    file = write_csv(places.HERE / "molecules.csv", molecules())
    assert main(places.words(f"evaluate export=RUN input={file} target=value output=HERE/eval.json")) == 0
    fingerprint = json.loads((places.RUN / "dataset.json").read_text())["fingerprint"]
    assert json.loads((places.HERE / "eval.json").read_text())["dataset_fingerprint"] == fingerprint
    capfd.readouterr()


# --- disks ------------------------------------------------------------------------------------------------------------

WRITERS = {
    "embed": "embed export=EXPORT input=CSV output={}/v.parquet",
    "export": "export run_dir=RUN output={}/export",
    "generate": "generate conformers run_dir=RUN input=CSV output={}/g.sdf limit=1 sampler.num_steps=2",
    "report": "report RUN output={}/report.html",
    "evaluate": "evaluate export=EXPORT input=HERE/many.csv target=value output={}/eval.json",
}


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_disk_that_cannot_be_written_to_is_named_and_nothing_is_left(places, capfd, disk, command, state):
    write_csv(places.HERE / "many.csv", molecules())
    name = WRITERS[command].rpartition("{}/")[2].split()[0]
    if state == "full":
        # A file system without any page cannot be made full.
        (disk.folder / "filler").write_bytes(bytes(1 << 14))
        disk.fill()
        parts = ("no space left on device", "Make room there and run the same command again")
    else:
        disk.protect()
        parts = ("read-only file system", "Choose a place that can be written to")
    refused(places, capfd, WRITERS[command].format(disk.folder), FAILED, f"{disk.folder}/{name}: ", *parts)
    left = [path.name for path in disk.folder.rglob("*") if path.is_file() and path.stat().st_size]
    assert left in ([], ["filler"])


# --- through a process of its own -------------------------------------------------------------------------------------

INIT_FROM = f"{PRETRAIN} {TINY} init_from=HERE/copy"
PROCESS_LINES = [
    ("pretain", USAGE, "Did you mean 'pretrain'?"),
    (f"pretrain run_dir=HERE/run data.path=HERE/nosuch {TINY}", FAILED, "HERE/nosuch is not a committed dataset"),
    (f"pretrain run_dir=CSV/run data.path=DATASET {TINY}", FAILED, "CSV/run: not a directory"),
    (INIT_FROM, FAILED, "HERE/copy/model.safetensors cannot be read"),
    ("preprocess input=HERE/nosuch.csv output=HERE/out", FAILED, "input=HERE/nosuch.csv: no such file"),
]


@pytest.mark.parametrize("line", PROCESS_LINES, ids=lambda line: line[0])
def test_the_console_script_does_the_same(places, line):
    words, code, part = line
    (copy_of(places, "EXPORT") / "model.safetensors").write_bytes(b"x")
    result = molstream(*places.words(words), check=False)
    assert_one_message(result.returncode, result.stdout, result.stderr, code, (place_in(places, part),))


# --- names with any character -----------------------------------------------------------------------------------------


def test_names_may_have_any_character(places, capfd):
    folder = places.HERE / "a folder, (my) [data]=é {x} 50% #1"
    folder.mkdir()
    source = write_csv(folder / "möl=ecules (1), [a]{b}: c.csv", molecules()[:12])
    dataset, vectors = folder / "data=set, [1]", folder / "vec tors (é),=.parquet"
    molstream("preprocess", f"input={source}", f"output={dataset}", "ray.num_cpus=1")
    assert main(["inspect", str(dataset)]) == 0
    assert main(["verify", str(dataset)]) == 0
    export = folder / "ex=port, {2}"
    shutil.copytree(places.EXPORT, export)
    assert main(["embed", f"export={export}", f"input={source}", f"output={vectors}"]) == 0
    assert pq.read_metadata(vectors).num_rows == 12
    run = folder / "run, (3)=[x]"
    shutil.copytree(places.RUN, run)
    assert main(["export", f"run_dir={run}", f"output={folder / 'new, (export)'}"]) == 0
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").stat().st_size > 10_000
    capfd.readouterr()

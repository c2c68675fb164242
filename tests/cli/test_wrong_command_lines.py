"""Command lines that cannot work: each gives one message in the one style and the right exit code, never a traceback.

Words in capitals stand for folders and files: DATASET, RUN and EXPORT are intact, CSV has molecules, HERE is a new
folder. Most lines run in this process, by the function that the console script calls.
"""

import shutil

import pyarrow.parquet as pq
import pytest

from molstream.cli.main import main
from tests.support.command_lines import FAILED, TINY, USAGE, assert_one_message, copy_of, place_in, refused
from tests.support.datasets import molecules, molstream, write_csv

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
    ("evaluate bons run_dir=RUN", "expected vectors or conformers or bonds", "got 'bons'"),
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
    ("embed input=a", "output is missing"),
    ("evaluate", "expected vectors or conformers or bonds", "got nothing"),
    ("evaluate export=EXPORT", "expected vectors or conformers or bonds, then key=value", "got 'export=EXPORT'"),
    ("evaluate vectors", "give either tasks=[...]", "input=FILE target=COLUMN"),
    ("evaluate vectors export=EXPORT", "give either tasks=[...]", "input=FILE target=COLUMN"),
    ("evaluate vectors export=EXPORT input=CSV", "target is missing"),
    ("evaluate vectors export=EXPORT tasks=[eso,freesolv]", "'eso' is no built-in set. Did you mean 'esol'"),
    ("evaluate vectors export=EXPORT tasks=[esol] data_dir=HERE", "data_dir=HERE: neither esol.csv nor esol.csv.gz"),
    ("evaluate vectors export=EXPORT input=CSV target=value vectors=HERE/a.npy", "HERE/a.npy has no vectors of"),
    ("evaluate vectors export=EXPORT input=CSV target=value 'vectors={encoder: a.npy}'", "'encoder' is taken"),
    ("evaluate vectors export=EXPORT input=CSV target=value folds=both head=tree", "expected one of linear, forest"),
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
    (f"{PRETRAIN} objective=targets objective.targets.columns=[a,a]", "columns=[a,a]: expected at least one target"),
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
    (f"{EMBED} target_columns=[value,value]", "target_columns=[value,value]: a column is named twice"),
    ("embed export=EXPORT input=CSV output=HERE", "output=HERE: expected a name that ends in .parquet, .csv, .npy"),
    ("embed export=EXPORT input=CSV output=HERE/v.txt", "v.txt: expected a name that ends in .parquet, .csv, .npy"),
    ("embed export=EXPORT input=- output=HERE/v.csv", "input=-: stdin has no name", "format=csv, tsv, smi"),
    (f"{EMBED} device=tpu", "device=tpu: expected auto, cpu, cuda"),
    (f"{GENERATE} sampler.name=eular", "sampler.name=eular: expected one of", "euler_maruyama"),
    ("doctor precision=fp8", "precision=fp8: expected one of fp32, bf16, fp16"),
    ("sync run_dir=RUN loggers=[mlfow]", "'mlfow'", "tensorboard, mlflow, wandb"),
    # Folders that are something else.
    ("export run_dir=HERE/nosuch", "HERE/nosuch is not a run directory", "config.yaml"),
    ("export run_dir=DATASET", "DATASET is not a run directory"),
    ("report CSV", "CSV is not a run directory"),
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
    ("preprocess input=CSV output=CSV/o", "CSV/o: not a directory"),
    ("preprocess input=CSV output=/proc/o", "/proc/o: no such file or directory"),
    ("append input=CSV output=HERE/nosuch", "HERE/nosuch is not a committed dataset"),
    ("append input=CSV output=RUN", "RUN is not a committed dataset"),
    ("append input=HERE/nosuch.csv output=DATASET", "input=HERE/nosuch.csv: no such file"),
    ("verify HERE/nosuch", "HERE/nosuch is not a committed dataset", "manifest.json"),
    ("verify CSV", "CSV is not a committed dataset"),
    ("inspect HERE/nosuch", "HERE/nosuch is not written by molstream: there is no such file or folder"),
    ("inspect CSV", "CSV is not written by molstream: it is a single file, and no shard", "beside its manifest.json"),
    ("export run_dir=RUN step=4", "has no checkpoint of step 4", "[3, 6]"),
    ("export run_dir=RUN output=CSV", "CSV: not a directory"),
    ("export run_dir=RUN output=CSV/e", "CSV/e: not a directory"),
    ("export run_dir=RUN output=/proc/e", "/proc/e: no such file or directory"),
    (
        "embed export=HERE/nosuch input=CSV output=HERE/v.csv",
        "HERE/nosuch is neither an export nor a run",
        "config.json",
    ),
    ("embed export=CSV input=CSV output=HERE/v.parquet", "CSV is neither an export nor a run"),
    ("embed export=EXPORT input=HERE/nosuch.csv output=HERE/v.parquet", "input=HERE/nosuch.csv: no such file"),
    (
        "embed export=EXPORT input=EXPORT output=HERE/v.npy",
        "input=EXPORT: no such file, and no file of a known format",
    ),
    ("embed export=EXPORT input=CSV output=CSV/v.parquet", "CSV/v.parquet: not a directory", "a part of it is a file"),
    ("embed export=EXPORT input=CSV output=/proc/v.parquet", "/proc/v.parquet: no such file or directory"),
    (f"{EMBED} smiles_column=nosuch", "molecules.csv has no column 'nosuch'"),
    ("generate conformers run_dir=RUN input=HERE/nosuch.csv output=HERE/g.sdf", "input=HERE/nosuch.csv: no such file"),
    ("generate conformers run_dir=RUN input=CSV output=HERE limit=1", "HERE: is a directory"),
    ("generate conformers run_dir=RUN input=CSV output=CSV/g.sdf", "CSV/g.sdf: not a directory"),
    ("evaluate vectors export=EXPORT input=CSV target=nosuch", "molecules.csv has no column 'nosuch'", "smiles, value"),
    (
        "evaluate vectors export=EXPORT input=CSV target=smiles",
        "molecules.csv, row 0,",
        "bad_target",
        "is not a number",
    ),
    ("evaluate vectors export=EXPORT input=HERE/nosuch.csv target=a", "input=HERE/nosuch.csv: no such file"),
    (
        "evaluate vectors export=EXPORT input=EXPORT target=a",
        "input=EXPORT: no such file, and no file of a known format",
    ),
    ("evaluate vectors export=HERE input=CSV target=value", "HERE is neither an export nor a run"),
    ("evaluate vectors export=EXPORT input=CSV target=value", "target 'value' is known for 6 rows", "at least 20"),
    ("evaluate bonds run_dir=RUN dataset=RUN", "RUN is not a committed dataset"),
    ("diagnose run_dir=RUN dataset=HERE/nosuch", "HERE/nosuch is not a committed dataset"),
    ("doctor dataset=HERE/nosuch", "HERE/nosuch is not a committed dataset"),
    ("report RUN evaluation=HERE/nosuch", "evaluation=HERE/nosuch: no such file", "molstream evaluate"),
    ("report RUN evaluation=CSV", "CSV cannot be read: it is not JSON (line 1, column 1", "molstream evaluate"),
    ("report RUN embeddings=HERE/nosuch", "embeddings=HERE/nosuch: no such file", "molstream embed"),
    ("report RUN embeddings=CSV", "embeddings=CSV is not what `molstream embed` writes"),
    ("report RUN embeddings=DATASET/duplicates.parquet", "expected 'failure' among them"),
    ("report RUN output=CSV/r.html", "CSV/r.html: not a directory"),
    ("report RUN output=HERE", "HERE: is a directory"),
    ("generate bonds run_dir=EXPORT input=CSV output=HERE/a.sdf", "EXPORT has no heads.safetensors", "include=[heads]"),
    ("report RUN output=/proc/r.html", "/proc/r.html: no such file or directory"),
]


@pytest.mark.parametrize("line", FILE_LINES, ids=lambda line: line[0])
def test_a_file_that_cannot_be_used_exits_with_1(places, capfd, line):
    refused(places, capfd, line[0], FAILED, *line[1:])


# --- through a process of its own -------------------------------------------------------------------------------------

INIT_FROM = f"{PRETRAIN} {TINY} init_from=HERE/copy"
PROCESS_LINES = [
    ("pretain", USAGE, "Did you mean 'pretrain'?"),
    (f"pretrain run_dir=HERE/run data.path=HERE/nosuch {TINY}", FAILED, "HERE/nosuch is not a committed dataset"),
    (f"pretrain run_dir=CSV/run data.path=DATASET {TINY}", FAILED, "CSV/run: not a directory"),
    (
        f"{PRETRAIN} {TINY} objective=targets objective.targets.columns=[valu]",
        USAGE,
        "no target 'valu'; it has 'value'",
    ),
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


@pytest.mark.slow
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

"""Preparing and pretraining from Python: what the commands of the same names do."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from molstream import preprocess, pretrain
from molstream.errors import ConfigError
from molstream.training.metrics.records import read_metrics
from tests.support.datasets import SMILES, write_csv

PROGRAM = """
import io
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path
from threading import Thread

from molstream import preprocess, pretrain

folder = Path(sys.argv[1])
options = {"path": folder / "molecules.csv", "smiles_column": "smiles"}
manifest = preprocess(options, folder / "dataset", conformers="one", featurize={"max_atoms": 20})
print(manifest.counts.written)
settings = {"model": "tiny", "steps": 2, "optim": {"schedule": "constant"}, "log": {"loggers": []}}
stream = {"path": str(folder / "dataset"), "lanes": 1, "micro_batch": 8}
print(pretrain(stream, folder / "run", **settings))

# As in a notebook: a thread, and a stderr that is no file.
again = lambda: print(pretrain(stream, folder / "run", **settings | {"steps": 3}))
with redirect_stderr(io.StringIO()):
    thread = Thread(target=again)
    thread.start()
    thread.join()
child = ["pretrain", f"data.path={folder}/dataset", f"run_dir={folder}/child", "model=tiny", "steps=1"]
child += ["data.lanes=1", "data.micro_batch=8"]
subprocess.run([sys.executable, "-m", "molstream", *child], check=True, stdout=subprocess.DEVNULL)
"""


def test_a_program_prepares_and_pretrains(tmp_path):
    write_csv(tmp_path / "molecules.csv", SMILES)
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-2:] == [str(tmp_path / "run")] * 2
    counts = json.loads((tmp_path / "dataset" / "manifest.json").read_text())["counts"]
    assert counts["written"] == len(SMILES)
    records = read_metrics(tmp_path / "run")
    assert [record["step"] for record in records] == [1, 2, 3]
    assert [record["step"] for record in read_metrics(tmp_path / "child")] == [1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modle": "tiny"}, "unknown key 'modle'. Did you mean 'model'"),
        ({"model": "tyni"}, "model=tyni: no such option. Did you mean 'tiny'"),
        ({"optim": {"lr": -1.0}}, "optim.lr=-1.0: expected a number above 0"),
        ({"objective": ["moleculesde", "nothing"]}, "objective=nothing: no such option"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        pretrain(tmp_path / "dataset", tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_wrong_settings_of_preprocessing_are_refused_too(tmp_path):
    with pytest.raises(ConfigError, match=r"featurize.max_atoms=0: expected at least 1"):
        preprocess("a.csv", tmp_path / "dataset", featurize={"max_atoms": 0})


WRONG_INPUTS = [
    (pd.DataFrame({"smiles": SMILES}), "DataFrame"),
    (b"a.csv", "bytes"),
    (3, "int"),
    (None, "NoneType"),
    ({"path": 3}, "int"),
    ([["a.csv"]], "list"),
]


@pytest.mark.parametrize(("wrong", "kind"), WRONG_INPUTS, ids=[kind for _, kind in WRONG_INPUTS])
def test_an_input_that_is_no_path_is_refused(tmp_path, wrong, kind):
    with pytest.raises(ConfigError, match=f"input: got {kind}: expected a file, glob, folder or URL"):
        preprocess(wrong, tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()

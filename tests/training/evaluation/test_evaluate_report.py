"""Evaluation, report, inspect and the command line."""

import json
import re

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors

from molstream.training.evaluation.probe import ecfp4
from tests.support.closed_page import assert_closed
from tests.support.datasets import molecules, molstream


@pytest.fixture(scope="module")
def evaluation(small_run, export, tmp_path_factory):
    """Scores on a target that molecular structure determines: the molecular weight."""
    folder = tmp_path_factory.mktemp("evaluation")
    rows = "".join(f"{s},{Descriptors.MolWt(Chem.MolFromSmiles(s))}\n" for s in molecules())
    (folder / "weights.csv").write_text("smiles,weight\n" + rows)
    result = molstream(
        "evaluate",
        f"export={export}",
        f"input={folder / 'weights.csv'}",
        "target=weight",
        f"output={folder / 'eval.json'}",
    )
    return folder / "eval.json", result.stdout


def test_evaluation_scores_the_three_representations(evaluation):
    path, printed = evaluation
    scores = {score["representation"]: score for score in json.loads(path.read_text())["scores"]}
    assert list(scores) == ["pretrained", "untrained", "ECFP4"]
    for name, score in scores.items():
        assert name in printed
        assert f"{score['rmse']:.3f}" in printed
        assert sum(score["molecules"]) == len(molecules())
    # A pooled mean of atom embeddings knows the mean atomic mass, and so much of the weight of small chains.
    assert scores["pretrained"]["r2"] > -1


def test_ecfp4_is_rdkits_fingerprint():
    bits = ecfp4(["CCO", "XX"])
    generator = Chem.rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    assert set(np.flatnonzero(bits[0])) == set(generator.GetFingerprint(Chem.MolFromSmiles("CCO")).GetOnBits())
    assert np.isnan(bits[1]).all()


def test_the_report_is_one_page_with_plots_and_numbers(small_run, evaluation, tmp_path):
    output = tmp_path / "report.html"
    result = molstream("report", f"run_dir={small_run}", f"evaluation={evaluation[0]}", f"output={output}")
    page = output.read_text()
    assert str(output) in result.stdout
    assert "loss before -> after" in result.stdout
    assert page.count("data:image/svg+xml;base64,") == 4
    # Self-contained: nothing is fetched when it is opened.
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert_closed(page)
    for score in json.loads(evaluation[0].read_text())["scores"]:
        assert f"{score['rmse']:.3f}" in page
    assert json.loads((small_run / "dataset.json").read_text())["fingerprint"] in page


def test_inspect_tells_what_each_thing_is(dataset, small_run, export, tmp_path):
    assert molstream("inspect", dataset).stdout.startswith(f"dataset {dataset}: ")
    run = molstream("inspect", small_run).stdout
    assert "step_00000006: intact" in run
    assert "resume with: molstream pretrain" in run
    assert "began at step 0 on 1 process, ZeRO 1, fp32, cpu" in run
    assert "intact" in molstream("inspect", small_run / "checkpoints" / "step_00000006").stdout
    assert "purpose test" in molstream("inspect", export).stdout
    nothing = molstream("inspect", tmp_path, check=False)
    assert nothing.returncode == 1
    assert "is not written by molstream" in nothing.stderr


def test_the_command_line_helps_and_refuses():
    assert "preprocess" in molstream("--help").stdout
    unknown = molstream("prune", check=False)
    assert unknown.returncode == 2
    assert "unknown command 'prune'. Choose one of preprocess" in unknown.stderr
    key = molstream("report", "run_dri=x", check=False)
    assert key.returncode == 2
    assert "unknown key 'run_dri'. Did you mean 'run_dir'" in key.stderr
    missing = molstream("report", "run_dir=/nowhere", check=False)
    assert missing.returncode == 2
    assert "is not a run" in missing.stderr


def test_help_is_quick_to_import():
    import subprocess
    import sys

    script = (
        "import sys, molstream.cli.main; print([m for m in ('torch', 'ray', 'rdkit', 'hydra') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

"""Evaluation, report, inspect and the command line."""

import html
import json
import re
import shutil

import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors

from tests.support.closed_page import assert_closed
from tests.support.datasets import molecules, molstream


@pytest.fixture(scope="module")
def evaluation(export, tmp_path_factory):
    """Scores on a target that molecular structure determines: the molecular weight."""
    folder = tmp_path_factory.mktemp("evaluation")
    rows = "".join(f"{s},{Descriptors.MolWt(Chem.MolFromSmiles(s))}\n" for s in molecules())
    (folder / "weights.csv").write_text("smiles,weight\n" + rows)
    words = (f"export={export}", f"input={folder / 'weights.csv'}", "target=weight", f"output={folder / 'eval.json'}")
    molstream("evaluate", "vectors", *words, "untrained_seeds=1")
    return folder / "eval.json"


def test_the_report_is_one_page_with_plots_and_numbers(small_run, evaluation, tmp_path):
    output = tmp_path / "report.html"
    result = molstream("report", f"run_dir={small_run}", f"evaluation={evaluation}", f"output={output}")
    page = output.read_text()
    assert str(output) in result.stdout
    assert "loss before -> after" in result.stdout
    assert page.count("data:image/svg+xml;base64,") == 4
    # Self-contained: nothing is fetched when it is opened.
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert_closed(page)
    text = html.unescape(page)
    for folding in json.loads(evaluation.read_text())["foldings"]:
        for shown in (*folding["sentences"], *(cell for row in folding["table"]["rows"] for cell in row["cells"])):
            assert shown in text
    assert json.loads((small_run / "dataset.json").read_text())["fingerprint"] in page


def test_an_evaluation_of_an_older_molstream_is_refused_by_name(small_run, tmp_path):
    old = tmp_path / "eval.json"
    old.write_text(json.dumps({"input": "a.csv", "target": "b", "split": "scaffold 80/10/10", "scores": []}))
    refused = molstream("report", f"run_dir={small_run}", f"evaluation={old}", check=False)
    assert refused.returncode == 1
    assert (
        f"{old} cannot be used: the key 'evaluation' is missing. Write it again with `molstream evaluate vectors`."
        in (refused.stderr)
    )


@pytest.mark.slow
def test_the_card_has_the_sources_and_the_evaluation_of_the_same_weights(small_run, evaluation, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    shutil.copy(evaluation, run / "eval.json")
    (tmp_path / "sources.md").write_text("Six sources; licence: CC0")

    def card(*words: str) -> str:
        molstream("export", f"run_dir={run}", f"output={tmp_path / 'again'}", *words)
        return (tmp_path / "again" / "README.md").read_text()

    own = card("include=[heads]", f"sources={tmp_path / 'sources.md'}")
    assert "## Sources and licences\n\nSix sources; licence: CC0\n" in own
    for folding in json.loads(evaluation.read_text())["foldings"]:
        assert all(f"- {sentence}\n" in own for sentence in folding["sentences"])
        for row in folding["table"]["rows"]:
            assert f"| {' | '.join([row['representation'], *row['cells']])} |\n" in own
    result = json.loads(evaluation.read_text())
    (run / "eval.json").write_text(json.dumps({**result, "weights_sha256": "0" * 64}))
    other = card()
    assert "was not measured for this export" in other
    assert "Six sources" not in other
    (run / "eval.json").write_text("{}")
    refused = molstream("export", f"run_dir={run}", check=False)
    assert refused.returncode == 1
    assert "eval.json cannot be used: the key 'weights_sha256' is missing" in refused.stderr
    missing = molstream("export", f"run_dir={run}", f"sources={tmp_path / 'no.md'}", check=False)
    assert f"{tmp_path / 'no.md'} cannot be read: No such file or directory. Give the path" in missing.stderr


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

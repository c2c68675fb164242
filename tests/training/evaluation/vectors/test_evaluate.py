"""The command, with the stored export: what it prints, what it writes, and what it leaves out and says so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molstream.cli.main import main
from tests.support.datasets import REPOSITORY, molecules

EXPORT = REPOSITORY / "tests" / "golden" / "road" / "export"
QUICK = ["untrained_seeds=2", "num_cpus=1"]
SMILES = molecules()
WEIGHTS = [float(len(text)) for text in SMILES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets, of which one has an unreadable molecule, a duplicate and unknown labels; and vectors of others."""
    folder = tmp_path_factory.mktemp("sets")
    rows = [f"{text},{weight},{int('O' in text)}" for text, weight in zip(SMILES, WEIGHTS)]
    rows[3] = rows[3].rpartition(",")[0] + ","
    (folder / "sizes.csv").write_text(
        "\n".join(["smiles,size,oxygen", *rows, "CC(,1,0", "OCC,9,1", "CCCCCCCCCCCCCC,,"])
    )
    (folder / "alcohols.csv").write_text("\n".join(["smiles,oxygen", *(f"{s},{int('O' in s)}" for s in SMILES)]))
    planted = np.array([*WEIGHTS, np.nan, 9.0, 1.0])[:, None]
    np.save(folder / "planted.npy", planted)
    return folder


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    """One task with the planted vectors, and its JSON."""
    words = [f"export={EXPORT}", f"input={folder / 'sizes.csv'}", "target=size", f"output={folder / 'one.json'}"]
    assert main(["evaluate", "vectors", *words, f"vectors={folder / 'planted.npy'}", *QUICK]) == 0
    return json.loads((folder / "one.json").read_text())


NAMES = ["encoder", "untrained", "ECFP4 counts", "descriptors", "encoder + descriptors", "planted"]


def test_everything_is_compared_on_the_same_molecules(result):
    assert [folding["folding"] for folding in result["foldings"]] == ["random", "scaffold"]
    for folding in result["foldings"]:
        [task] = folding["tasks"]
        assert [score["representation"] for score in task["scores"]] == [*NAMES, "planted + descriptors"]
        for score in task["scores"]:
            assert len(score["by_fold"]["r2"]) == 25
            assert score["r2"]["mean"] == pytest.approx(np.mean(score["by_fold"]["r2"]))
            assert score["r2"]["low"] <= score["r2"]["mean"] <= score["r2"]["high"]
        scores = {score["representation"]: score for score in task["scores"]}
        assert len(scores["untrained"]["by_seed"]) == 2
        assert scores["planted"]["r2"]["mean"] > 0.95


def test_the_planted_vectors_beat_the_encoder_in_words(result):
    for folding in result["foldings"]:
        words = next(text for text in folding["sentences"] if "encoder against planted:" in text)
        assert words.startswith("sizes, R2: encoder against planted: worse by ")
        pairs = {(each["representation"], each["against"]): each for each in folding["comparisons"]}
        assert pairs["encoder", "planted"]["p"] < 0.05
        assert ("encoder + descriptors", "descriptors") in pairs
        verdict = pairs["encoder", "untrained"]["verdict"]
        assert verdict.startswith(
            f"no difference that {len(SMILES) + 1} molecules and 2 untrained encoders could show ("
        )


def test_what_is_left_out_is_counted_and_named(result, folder, capfd):
    [task] = result["tasks"]
    count = len(SMILES)
    assert (task["file_rows"], task["molecules"], task["duplicates"]) == (count + 3, count + 1, 1)
    reasons = {each["reason"]: (each["count"], each["examples"]) for each in task["left_out"]}
    assert reasons["no known target"] == (1, [f"sizes.csv, row {count + 2}"])
    [failed] = [each for reason, each in reasons.items() if reason.startswith("parse")]
    assert failed == (1, [f"sizes.csv, row {count}"])
    assert f"{count + 1} molecules of {count + 3} rows of sizes.csv, 1 of them duplicates of others." in " ".join(
        result["composition"]
    )


def test_several_tasks_have_a_mean_and_unknown_labels_are_counted(folder, capfd):
    output = folder / "several.json"
    sizes = "{input: HERE/sizes.csv, target: [oxygen, size], kind: regression}"
    tasks = f"[{sizes}, {{input: HERE/alcohols.csv, target: oxygen}}]"
    words = [f"export={EXPORT}", f"tasks={tasks.replace('HERE', str(folder))}", f"output={output}", "folds=random"]
    assert main(["evaluate", "vectors", *words, *QUICK]) == 0
    out, err = capfd.readouterr()
    for part in ("sizes R2", "alcohols ROC-AUC", "mean", "random folds"):
        assert part in out
    assert "warning: sizes: 1 of" in err
    assert "rows are left out: parse" in err
    result = json.loads(output.read_text())
    assert [task["kind"] for task in result["tasks"]] == ["regression", "classification"]
    assert result["tasks"][0]["missing_labels"] == 1
    [folding] = result["foldings"]
    first = {each["representation"]: each for each in folding["mean"]}["encoder"]["mean"]
    each = [task["scores"][0] for task in folding["tasks"]]
    assert first == pytest.approx((each[0]["r2"]["mean"] + each[1]["roc_auc"]["mean"]) / 2)
    assert any(text.startswith("mean of R2 and ROC-AUC: encoder against") for text in folding["sentences"])
    for text in folding["sentences"]:
        assert text in out


def test_the_record_tells_what_was_evaluated(result):
    description = json.loads((EXPORT / "config.json").read_text())
    assert result["dataset_fingerprint"] == description["training"]["dataset_fingerprint"]
    assert result["untrained_seeds"] == [0, 1]
    assert {"molstream", "rdkit", "scikit-learn"} <= result["versions"].keys()
    assert len(result["tasks"][0]["keys_sha256"]) == 64


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ("{far: HERE}", "vectors far: HERE has no vectors of alcohols: expected a file that ends in .parquet or .npy"),
        ("{encoder: HERE/planted.npy}", "the name 'encoder' is taken"),
        ("HERE/planted.npy", "got 86 x 1 numbers; expected 83 vectors"),
    ],
)
def test_vectors_that_are_not_there_or_do_not_fit_are_named(folder, capfd, vectors, message):
    words = [f"export={EXPORT}", f"input={folder / 'alcohols.csv'}", "target=oxygen", f"output={folder / 'no.json'}"]
    assert main(["evaluate", "vectors", *words, f"vectors={vectors.replace('HERE', str(folder))}", *QUICK]) != 0
    assert message.replace("HERE", str(folder)) in capfd.readouterr().err
    assert not (folder / "no.json").exists()

"""Cross-validation finds a planted signal, and nothing where there is nothing; the order of rows is of no account."""

import os
from dataclasses import replace

import numpy as np
import pytest

from molstream.errors import DataError
from molstream.preprocessing.fields import RawMolecule
from molstream.training.evaluation.vectors import scores
from molstream.training.evaluation.vectors.features import Molecules
from molstream.training.evaluation.vectors.scores import Scores, cross_validate
from molstream.training.evaluation.vectors.statistics import verdict
from molstream.training.evaluation.vectors.tasks import Task

RNG = np.random.default_rng(0)
COUNT = 150
RINGS = ["C1CCCC1", "C1CCCCC1", "c1ccccc1", "c1ccncc1", "C1CCOC1", "c1ccoc1", "c1ccsc1"]
SMILES = ["C" * (k + 1) if k % 3 == 0 else "C" * (k // 7) + RINGS[k % 7] for k in range(COUNT)]
KEYS = [f"key {k // 2 if k < 20 else k:03}" for k in range(COUNT)]
"""The first twenty are duplicates in pairs."""
SIGNAL = RNG.normal(size=(COUNT, 1))


def molecules(labels: np.ndarray, vectors: dict[str, np.ndarray], smiles: list[str] = SMILES) -> Molecules:
    """A task with ready vectors."""
    kind = "classification" if set(labels[np.isfinite(labels)]) <= {0, 1} else "regression"
    names = tuple(f"target {k}" for k in range(labels.shape[1]))
    records = [RawMolecule(text, "smiles", "file", k) for k, text in enumerate(smiles)]
    task = Task("task", "file.csv", kind, names, records, np.arange(len(smiles)), len(smiles), labels)
    return Molecules(task, KEYS, smiles, {name: [each] for name, each in vectors.items()}, [])


def scored(given: Molecules, folding: str = "scaffold", seed: int = 0) -> Scores:
    return cross_validate(given, folding, "linear", seed, 1, lambda _: None)


@pytest.mark.parametrize("folding", ["random", "scaffold"])
@pytest.mark.parametrize("kind", ["r2", "roc_auc"])
def test_the_target_itself_is_better_than_noise_and_noise_is_no_different_from_noise(folding, kind):
    labels = SIGNAL if kind == "r2" else (SIGNAL > 0.5).astype(float)
    noise = {name: RNG.normal(size=(COUNT, 8)) for name in ("noise", "other")}
    found = scored(molecules(labels, {"planted": np.hstack([SIGNAL, noise["noise"]]), **noise}), folding)
    planted = found.difference("planted", "noise", kind)
    assert planted.p < 1e-3
    assert verdict(planted, "150 molecules").startswith("better by ")
    nothing = verdict(found.difference("noise", "other", kind), "150 molecules")
    assert nothing.startswith("no difference that 150 molecules could show (")
    assert found.by_fold["planted"][kind].shape == (1, 25)
    assert found.test_to_train == pytest.approx(0.25)
    assert found.left_out == 0


def test_the_order_of_rows_changes_no_score():
    given = molecules((SIGNAL > 0.5).astype(float), {"some": np.hstack([SIGNAL + RNG.normal(size=(COUNT, 3))])})
    order = RNG.permutation(COUNT)
    task = replace(given.task, labels=given.task.labels[order])
    shuffled = replace(
        given,
        task=task,
        keys=[KEYS[k] for k in order],
        smiles=[SMILES[k] for k in order],
        vectors={"some": [given.vectors["some"][0][order]]},
    )
    one, other = (scored(each).by_fold["some"]["roc_auc"] for each in (given, shuffled))
    assert one == pytest.approx(other)
    assert one != pytest.approx(scored(given, seed=1).by_fold["some"]["roc_auc"])


def test_duplicates_are_in_one_fold_so_that_their_labels_do_not_leak():
    # Vectors that only know which molecule it is predict the twin's label, if that is in the training part.
    labels = np.repeat(RNG.normal(size=(COUNT // 2, 1)), 2, axis=0)
    identity = np.repeat(np.eye(COUNT // 2), 2, axis=0)
    given = replace(molecules(labels, {"identity": identity}), keys=[f"{k // 2}" for k in range(COUNT)])
    assert scored(given, "random").estimate("identity", "r2").mean < 0.05


def test_unknown_labels_and_targets_of_one_class_are_left_out():
    classes = np.hstack([SIGNAL > 0, RNG.random((COUNT, 1)) < 0.5]).astype(float)
    # The second target is known for one scaffold alone, so that no fold has it in both parts.
    classes[[RINGS[2] not in text for text in SMILES], 1] = np.nan
    classes[::9, 0] = np.nan
    found = scored(molecules(classes, {"planted": SIGNAL}))
    assert found.left_out == 25
    assert found.estimate("planted", "roc_auc").mean > 0.99


def test_one_scaffold_alone_cannot_be_divided():
    given = molecules(SIGNAL, {"some": SIGNAL}, ["C" * (k + 1) + "c1ccccc1" for k in range(COUNT)])
    with pytest.raises(DataError, match=r"file.csv: 1 groups of molecules that stay together.*Give folds=random"):
        scored(given)


def test_a_process_that_the_system_ends_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr(scores, "_score", lambda *_: os._exit(1))
    with pytest.raises(DataError, match=r"file.csv: a process that fits heads was ended.*Give a smaller num_cpus"):
        cross_validate(molecules(SIGNAL, {"some": SIGNAL}), "random", "linear", 0, 2, lambda _: None)

"""Cross-validation of the representations of a task: scores by fold, and what they are worth."""

from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from sklearn.metrics import (
    average_precision_score,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

from molstream.errors import DataError
from molstream.training.evaluation.vectors.folds import (
    FOLDS,
    REPEATS,
    assign_folds,
    class_strata,
    group_molecules,
    scaffolds,
)
from molstream.training.evaluation.vectors.heads import Head, Kind, predict
from molstream.training.evaluation.vectors.statistics import Estimate, over_seeds

if TYPE_CHECKING:
    # Children import this module, and need no torch.
    from molstream.training.evaluation.vectors.features import Molecules

METRICS: dict[Kind, dict[str, Callable[[np.ndarray, np.ndarray], float]]] = {
    "regression": {"r2": r2_score, "rmse": root_mean_squared_error, "mae": mean_absolute_error},
    "classification": {"roc_auc": roc_auc_score, "average_precision": average_precision_score},
}
"""Metrics by kind of targets; the first one is compared."""
TITLES = {"r2": "R2", "rmse": "RMSE", "mae": "MAE", "roc_auc": "ROC-AUC", "average_precision": "average precision"}


def compared(kind: Kind) -> str:
    """The metric that representations are compared by."""
    return next(iter(METRICS[kind]))


class Fold(NamedTuple):
    """A division of the molecules of a task."""

    test: np.ndarray
    """bool [n]; the others are the training part."""
    targets: np.ndarray
    """bool [t]: targets that have two classes, or values that differ, in both parts."""


class Division(NamedTuple):
    """The folds of a task in one way of folding, the same for all representations."""

    groups: np.ndarray
    """Names of the molecules' groups, str [n]."""
    folds: list[Fold]
    """Those of all repeats in which a target can be scored."""
    left_out: int
    """How many targets were left out of folds, summed over folds."""


@dataclass(frozen=True)
class Scores:
    """The scores of all representations of a task in one way of folding."""

    by_fold: dict[str, dict[str, np.ndarray]]
    """By representation and metric, float64 [seeds, folds]: means over targets."""
    groups: int
    """Number of groups that stay together."""
    left_out: int
    """How many targets were left out of folds, summed over folds, since one class or one value alone was in a part."""
    test_to_train: float
    """Mean number of test molecules of a fold, divided by that of its training molecules."""

    def estimate(self, name: str, metric: str) -> Estimate:
        """Estimate a representation's score; untrained encoders count as their mean, with their spread."""
        return over_seeds([self.by_fold[name][metric]], [self.test_to_train])

    def differences(self, name: str, other: str, metric: str) -> np.ndarray:
        """The scores of one representation less those of another, [seeds, folds]; one of the two has one seed."""
        return self.by_fold[name][metric] - self.by_fold[other][metric]

    def difference(self, name: str, other: str, metric: str) -> Estimate:
        """Estimate the score of one representation less that of another, paired by fold."""
        return over_seeds([self.differences(name, other, metric)], [self.test_to_train])


def cross_validate(
    molecules: "Molecules", folding: str, head: Head, seed: int, processes: int, tell: Callable[[int], None]
) -> Scores:
    """Score every representation on 5 x 5 folds, the same for all.

    Args:
        molecules: with their vectors.
        folding: random or scaffold.
        head: linear or forest.
        seed: of folds, inner folds and forests.
        processes: that fit heads.
        tell: takes the number of fits done so far.

    Raises:
        DataError: there are too few groups, too few folds where a target can be scored, or a process was ended.
    """
    task = molecules.task
    groups, folds, left_out = divide(molecules, folding, seed)
    matrices = [(name, matrix) for name, several in molecules.vectors.items() for matrix in several]
    jobs = (
        delayed(_score)(head, task.kind, matrix, task.labels, groups, fold, seed)
        for _, matrix in matrices
        for fold in folds
    )
    scored: list[Any] = []
    try:
        for each in Parallel(n_jobs=processes, return_as="generator")(jobs):
            scored.append(each)
            tell(len(scored))
    except BrokenProcessPool as error:
        raise DataError(
            f"{task.source}: a process that fits heads was ended, as systems do that run out of memory: {processes} "
            "work at a time. Give a smaller num_cpus."
        ) from error
    table = np.array(scored).reshape(len(matrices), len(folds), len(METRICS[task.kind]))
    owners = np.array([name for name, _ in matrices])
    by_fold = {
        name: {metric: table[owners == name, :, number] for number, metric in enumerate(METRICS[task.kind])}
        for name in molecules.vectors
    }
    tests = float(np.mean([fold.test.sum() for fold in folds]))
    return Scores(by_fold, len(np.unique(groups)), left_out, tests / (len(groups) - tests))


def divide(molecules: "Molecules", folding: str, seed: int) -> Division:
    """Divide the molecules of a task into the folds of all repeats.

    Raises:
        DataError: there are too few groups, or too few folds where a target can be scored.
    """
    task = molecules.task
    groups = group_molecules(molecules.keys, scaffolds(molecules.smiles) if folding == "scaffold" else None)
    if (count := len(np.unique(groups))) < FOLDS:
        raise DataError(
            f"{task.source}: {count} groups of molecules that stay together: {FOLDS}-fold cross-validation needs at "
            f"least {FOLDS}. Give folds=random, or add molecules."
        )
    strata = class_strata(task.labels) if task.kind == "classification" else task.labels[:, :0]
    tests = [
        fold_of == number
        for repeat in range(REPEATS)
        for fold_of in [assign_folds(groups, strata, FOLDS, seed, repeat)]
        for number in range(FOLDS)
    ]
    every = [Fold(test, _vary(task.labels[test]) & _vary(task.labels[~test])) for test in tests]
    folds = [fold for fold in every if fold.targets.any()]
    if len(folds) < FOLDS:
        raise DataError(
            f"{task.source}: in {len(folds)} of {len(every)} {folding} folds a target has two classes, or values that "
            f"differ, in both parts; at least {FOLDS} are needed. Give folds=random, or add molecules."
        )
    return Division(groups, folds, sum(int((~fold.targets).sum()) for fold in every))


def fits(molecules: "Molecules") -> int:
    """How many fits a cross-validation takes."""
    return FOLDS * REPEATS * sum(map(len, molecules.vectors.values()))


def _vary(labels: np.ndarray) -> np.ndarray:
    """Whether the known values of each target differ, bool [t]."""
    known = np.isfinite(labels)
    least, most = np.where(known, labels, np.inf).min(0), np.where(known, labels, -np.inf).max(0)
    return least < most


def _score(
    head: Head, kind: Kind, matrix: np.ndarray, labels: np.ndarray, groups: np.ndarray, fold: Fold, seed: int
) -> list[float]:
    """The metrics of a fold, means over its targets."""
    train = ~fold.test
    labels = labels[:, fold.targets]
    predicted = predict(head, kind, matrix[train], labels[train], matrix[fold.test], groups[train], seed)
    truth = labels[fold.test]
    pairs = [(column[known], guess[known]) for column, guess, known in zip(truth.T, predicted.T, np.isfinite(truth.T))]
    return [float(np.mean([metric(*pair) for pair in pairs])) for metric in METRICS[kind].values()]

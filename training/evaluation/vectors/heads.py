"""Heads on frozen vectors: ridge and logistic regression whose penalties the training part chooses, and a forest.

A head is fitted to the training part of a fold alone: what is missing gets the median of its column, columns are
standardized, and test values are clipped to the range of the training part, so that nothing is extrapolated. All
penalties and targets share one eigendecomposition.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.linalg import eigh
from scipy.special import expit, log_expit, logit
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from molstream.training.evaluation.vectors.folds import assign_folds, class_strata

Kind = Literal["regression", "classification"]
Head = Literal["linear", "forest"]

RIDGE_PENALTIES = np.logspace(-2, 6, 13)
"""Added to the sums of squares of standardized columns."""
LOGISTIC_PENALTIES = np.logspace(0, 5, 6)
"""Of half the sum of squared weights, beside the sum of the log losses: 1 / C of scikit-learn."""
INNER_FOLDS = 3
"""Folds of the training part that choose the penalty of a logistic regression."""
TREES = 200
TOLERANCE, CHOICE_TOLERANCE = 1e-10, 1e-7
"""Of logistic regressions, the one that predicts and those that choose its penalty."""
MOST_STEPS = 5000


def predict(
    head: Head, kind: Kind, train: np.ndarray, labels: np.ndarray, test: np.ndarray, groups: np.ndarray, seed: int
) -> np.ndarray:
    """Fit a head for each target, and predict the test part, float64 [m, t]; scores of class 1 have any scale.

    Args:
        head: linear (ridge or logistic regression) or forest.
        kind: regression or classification.
        train, test: vectors, [n, d] and [m, d]; values may be missing (not finite).
        labels: of the training part, [n, t]; NaN if unknown; 0 or 1 of classes.
        groups: names of the groups of the training part, [n], which inner folds keep together.
        seed: of inner folds and forests.
    """
    if head == "forest":
        return _forest(kind, train, labels, test, seed)
    if kind == "classification":
        return _logistic(train, labels, test, groups, seed)
    predicted = np.empty((len(test), labels.shape[1]))
    # Targets with the same unknown rows are fitted together.
    masks, which = np.unique(np.isfinite(labels), axis=1, return_inverse=True)
    for number, known in enumerate(masks.T):
        columns = np.flatnonzero(which == number)
        predicted[:, columns] = ridge(Basis.of(train[known], test), labels[known][:, columns])[0]
    return predicted


# --- vectors --------------------------------------------------------------------------------------------------------


def completed(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fill in missing values by the training part's medians, and clip the test part to its range; both float64.

    Columns without a finite value in the training part become 0.
    """
    train, test = train.astype(np.float64), test.astype(np.float64)
    holes = ~np.isfinite(train)
    if (columns := np.flatnonzero(holes.any(0))).size:
        for column in columns:
            values = train[~holes[:, column], column]
            train[holes[:, column], column] = np.median(values) if len(values) else 0.0
    test = np.where(np.isfinite(test), test, np.median(train, axis=0))
    return train, np.clip(test, train.min(0), train.max(0))


@dataclass(frozen=True)
class Basis:
    """The standardized training part by its principal axes, and the test part by the same."""

    train: np.ndarray
    """[n, r], centred and orthogonal columns."""
    test: np.ndarray
    """[m, r]."""
    squares: np.ndarray
    """[r], sums of squares of the columns of ``train``, above 0."""

    @classmethod
    def of(cls, train: np.ndarray, test: np.ndarray) -> "Basis":
        """The basis of vectors [n, d] and [m, d]; constant columns have no part in it."""
        train, test = completed(train, test)
        varies = train.max(0) > train.min(0)
        mean, scale = train[:, varies].mean(0), train[:, varies].std(0)
        train, test = (train[:, varies] - mean) / scale, (test[:, varies] - mean) / scale
        is_tall = train.shape[0] > train.shape[1]
        squares, found = eigh(train.T @ train if is_tall else train @ train.T, driver="evd", overwrite_a=True)
        # What is left out is rounding: the least penalty makes nothing of it.
        kept = squares > max(1e-12 * squares.max(initial=0.0), 1e-8)
        squares, found = squares[kept], found[:, kept]
        if is_tall:
            return cls(train @ found, test @ found, squares)
        lengths = np.sqrt(squares)
        return cls(found * lengths, test @ (train.T @ (found / lengths)), squares)


# --- regression -----------------------------------------------------------------------------------------------------


def ridge(basis: Basis, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predict by the ridge regressions with the least squared leave-one-out errors, which are known in closed form.

    Args:
        labels: [n, t], all known.

    Returns:
        Predictions [m, t], clipped to the range of the labels, and the penalties [t].
    """
    mean = labels.mean(0)
    centred = labels - mean
    projected = basis.train.T @ centred
    inverse = 1 / (basis.squares[:, None] + RIDGE_PENALTIES)
    leverages = 1 / len(labels) + basis.train**2 @ inverse
    errors = np.empty((len(RIDGE_PENALTIES), labels.shape[1]))
    for number in range(len(RIDGE_PENALTIES)):
        residuals = centred - basis.train @ (projected * inverse[:, number, None])
        errors[number] = ((residuals / (1 - leverages[:, number, None])) ** 2).mean(0)
    best = errors.argmin(0)
    predicted = mean + basis.test @ (projected * inverse[:, best])
    return np.clip(predicted, labels.min(0), labels.max(0)), RIDGE_PENALTIES[best]


# --- classification -------------------------------------------------------------------------------------------------


def _logistic(train: np.ndarray, labels: np.ndarray, test: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Predict log odds by logistic regressions whose penalties have the least log loss on inner folds."""
    basis = Basis.of(train, test)
    folds = assign_folds(groups, class_strata(labels), INNER_FOLDS, seed, 0)
    held_out = np.equal.outer(folds, np.arange(INNER_FOLDS))[:, :, None, None]
    # All inner folds are fitted at once: what is held out is unknown there. Columns: folds x targets x penalties.
    truth = np.broadcast_to(labels[:, None, :, None], (*held_out.shape[:2], labels.shape[1], len(LOGISTIC_PENALTIES)))
    inner = np.where(held_out, np.nan, truth).reshape(len(labels), -1)
    penalties = np.broadcast_to(LOGISTIC_PENALTIES, truth.shape[1:]).ravel()
    odds = with_ones(basis.train) @ logistic(basis, inner, penalties, CHOICE_TOLERANCE)
    odds = odds.reshape(truth.shape)
    losses = np.where(held_out & np.isfinite(truth), -log_expit(np.where(truth == 1, odds, -odds)), 0.0)
    best = LOGISTIC_PENALTIES[losses.sum(axis=(0, 1)).argmin(-1)]
    return with_ones(basis.test) @ logistic(basis, labels, best, TOLERANCE)


def with_ones(vectors: np.ndarray) -> np.ndarray:
    """Vectors with a column of ones behind them, whose weight is the intercept."""
    return np.column_stack([vectors, np.ones(len(vectors))])


def logistic(basis: Basis, labels: np.ndarray, penalties: np.ndarray, tolerance: float) -> np.ndarray:
    """Fit penalized logistic regressions, one for each column of labels, all at once; returns weights [r + 1, c].

    The Hessian of the log loss is at most a quarter of the squares (Boehning and Lindsay 1988), which the basis makes
    diagonal, for any subset of its rows: gradient steps scaled by it, with Nesterov's momentum that restarts where it
    leads uphill (O'Donoghue and Candes 2015), need no further decomposition.

    Args:
        basis: of the vectors.
        labels: [n, c], 0, 1 or NaN.
        penalties: [c], of half the sum of squared weights; the intercept, the last one, has none.
        tolerance: bound on the decrease of the mean log loss that another step could bring.
    """
    known = np.isfinite(labels)
    counts = np.maximum(known.sum(0), 1)
    truth = np.where(known, labels, 0.0)
    design = with_ones(basis.train)
    penalty = np.vstack([np.tile(penalties, (len(basis.squares), 1)), np.zeros(len(penalties))])
    curvature = np.append(basis.squares, len(labels))[:, None] / 4 + penalty
    weights = np.zeros_like(penalty)
    weights[-1] = logit(np.clip(truth.sum(0) / counts, 1e-3, 1 - 1e-3))
    active = np.arange(labels.shape[1])
    ahead, momentum = weights.copy(), np.ones(len(active))
    for _ in range(MOST_STEPS):
        slopes = (expit(design @ ahead) - truth[:, active]) * known[:, active]
        gradient = design.T @ slopes + penalty[:, active] * ahead
        step = gradient / curvature[:, active]
        new = ahead - step
        moved = new - weights[:, active]
        uphill = (gradient * moved).sum(0) > 0
        following = np.where(uphill, 1.0, (1 + np.sqrt(1 + 4 * momentum**2)) / 2)
        ahead = new + np.where(uphill, 0.0, (momentum - 1) / following) * moved
        weights[:, active], momentum = new, following
        left = (gradient * step).sum(0) > tolerance * counts[active]
        if not left.all():
            active, ahead, momentum = active[left], ahead[:, left], momentum[left]
        if not active.size:
            break
    return weights


# --- forest ---------------------------------------------------------------------------------------------------------


def _forest(kind: Kind, train: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Predict by random forests, each split of which tries the square root of the number of columns."""
    train, test = completed(train, test)
    predicted = np.empty((len(test), labels.shape[1]))
    options: dict[str, Any] = {"n_estimators": TREES, "max_features": "sqrt", "random_state": seed}
    for target, column in enumerate(labels.T):
        known = np.isfinite(column)
        if kind == "regression":
            forest = RandomForestRegressor(**options).fit(train[known], column[known])
            predicted[:, target] = forest.predict(test)
        else:
            forest = RandomForestClassifier(**options).fit(train[known], column[known])
            predicted[:, target] = forest.predict_proba(test)[:, list(forest.classes_).index(1)]
    return predicted

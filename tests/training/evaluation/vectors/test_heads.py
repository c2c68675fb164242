"""Heads against scikit-learn's, and what they must not do: look at the test part, or extrapolate."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from molstream.training.evaluation.vectors.heads import (
    LOGISTIC_PENALTIES,
    RIDGE_PENALTIES,
    TOLERANCE,
    Basis,
    completed,
    logistic,
    predict,
    ridge,
    with_ones,
)

RNG = np.random.default_rng(0)


def vectors(rows: int, columns: int) -> np.ndarray:
    """Correlated vectors, with one constant column."""
    made = RNG.normal(size=(rows, columns)) @ RNG.normal(size=(columns, columns)) / np.arange(1, columns + 1)
    made[:, 1] = 3.0
    return made


def separated(columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training vectors and two targets, and test vectors within the training range, standardized and as they are."""
    given = vectors(150, columns)
    labels = given @ RNG.normal(size=(columns, 2)) + 2 * RNG.normal(size=(150, 2))
    train, test = completed(given[:100], given[100:])
    return train, labels[:100], test, labels[100:]


@pytest.mark.parametrize("columns", [20, 300])
def test_ridge_is_that_of_scikit_learn(columns):
    train, labels, test, _ = separated(columns)
    scaler = StandardScaler().fit(train)
    theirs = RidgeCV(RIDGE_PENALTIES, alpha_per_target=True).fit(scaler.transform(train), labels)
    expected = np.clip(theirs.predict(scaler.transform(test)), labels.min(0), labels.max(0))
    found, penalties = ridge(Basis.of(train, test), labels)
    assert penalties == pytest.approx(theirs.alpha_)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("columns", [20, 300])
def test_logistic_regression_is_that_of_scikit_learn(columns):
    train, labels, test, _ = separated(columns)
    classes = (labels > np.quantile(labels, 0.8, axis=0)).astype(float)
    scaler = StandardScaler().fit(train)
    repeated = np.repeat(classes, len(LOGISTIC_PENALTIES), axis=1)
    basis = Basis.of(train, test)
    weights = logistic(basis, repeated, np.tile(LOGISTIC_PENALTIES, 2), TOLERANCE)
    found = with_ones(basis.test) @ weights
    for number, odds in enumerate(found.T):
        strength = 1 / LOGISTIC_PENALTIES[number % len(LOGISTIC_PENALTIES)]
        theirs = LogisticRegression(C=strength, tol=1e-9, max_iter=10_000)
        theirs.fit(scaler.transform(train), repeated[:, number])
        expected = theirs.decision_function(scaler.transform(test))
        assert odds == pytest.approx(expected, abs=2e-3 * np.abs(expected).max())


def test_unknown_labels_are_left_out_of_each_target_alone():
    train, labels, test, _ = separated(20)
    labels[:30, 0] = np.nan
    both = predict("linear", "regression", train, labels, test, np.arange(100).astype(str), 0)
    for target, rows in ((0, slice(30, None)), (1, slice(None))):
        alone = ridge(Basis.of(train[rows], test), labels[rows, target, None])[0]
        assert both[:, target] == pytest.approx(alone[:, 0])
    classes = np.where(np.isfinite(labels), labels > 0, np.nan)
    penalties = np.array([10.0, 10.0])
    basis = Basis.of(train, test)
    masked = with_ones(basis.test) @ logistic(basis, classes, penalties, TOLERANCE)
    # The standardization is that of all rows; the weights of a row without a label are 0.
    scaler = StandardScaler().fit(train)
    theirs = LogisticRegression(C=0.1, tol=1e-9).fit(scaler.transform(train[30:]), classes[30:, 0])
    assert masked[:, 0] == pytest.approx(theirs.decision_function(scaler.transform(test)), abs=1e-2)


@pytest.mark.parametrize("head", ["linear", "forest"])
@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_planted_signal_is_found_and_noise_is_not(head, kind):
    target = RNG.normal(size=(300, 1))
    labels = target if kind == "regression" else (target > 0).astype(float)
    groups = np.arange(240).astype(str)
    skill = []
    for given in (np.hstack([target, RNG.normal(size=(300, 5))]), RNG.normal(size=(300, 6))):
        found = predict(head, kind, given[:240], labels[:240], given[240:], groups, 0)[:, 0]
        skill.append(roc_auc_score(target[240:, 0] > 0, found))
    assert skill[0] > 0.97
    assert 0.3 < skill[1] < 0.7


def test_missing_and_huge_values_are_completed_by_the_training_part():
    train = np.array([[1.0, np.nan, np.nan], [2.0, 5.0, np.inf], [4.0, 7.0, np.nan]], np.float32)
    test = np.array([[1e30, np.nan, 3.0], [-9.0, 1.0, np.nan]], np.float32)
    filled, clipped = completed(train, test)
    assert filled.tolist() == [[1, 6, 0], [2, 5, 0], [4, 7, 0]]
    assert clipped.tolist() == [[4, 6, 0], [1, 5, 0]]


def test_predictions_stay_in_the_range_of_the_labels_and_constant_vectors_give_the_mean():
    train, labels, test, _ = separated(20)
    found = predict("linear", "regression", train, labels, test * 1e6, np.arange(100).astype(str), 0)
    assert (found >= labels.min(0)).all()
    assert (found <= labels.max(0)).all()
    constant = np.ones((100, 4))
    assert ridge(Basis.of(constant, constant[:2]), labels)[0] == pytest.approx(np.tile(labels.mean(0), (2, 1)))

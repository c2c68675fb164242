"""Folds: groups stay whole, sizes and classes are even, and nothing depends on the order of the rows."""

import numpy as np
import pytest

from molstream.training.evaluation.vectors.folds import assign_folds, class_strata, group_molecules, scaffolds

RNG = np.random.default_rng(0)
SIZES = np.minimum(RNG.geometric(0.25, 150), 30)
GROUPS = np.repeat([f"group {number:03}" for number in range(len(SIZES))], SIZES)
"""Many small groups and a few large ones, as scaffolds are."""
NOTHING = np.zeros((len(GROUPS), 0))


@pytest.mark.parametrize("repeat", range(3))
def test_groups_stay_together_and_folds_are_nearly_equal(repeat):
    folds = assign_folds(GROUPS, NOTHING, 5, seed=1, repeat=repeat)
    assert all(len(set(folds[name == GROUPS])) == 1 for name in set(GROUPS))
    assert set(folds) == set(range(5))
    assert np.ptp(np.bincount(folds)) <= 1


def test_repeats_and_seeds_differ_and_rows_may_come_in_any_order():
    folds = assign_folds(GROUPS, NOTHING, 5, 1, 0)
    for seed, repeat in ((1, 1), (2, 0)):
        assert (folds != assign_folds(GROUPS, NOTHING, 5, seed, repeat)).mean() > 0.3
    order = RNG.permutation(len(GROUPS))
    labels = (RNG.random((len(GROUPS), 1)) < 0.2).astype(float)
    for strata in (NOTHING, class_strata(labels)):
        expected = assign_folds(GROUPS, strata, 5, 1, 0)
        assert (assign_folds(GROUPS[order], strata[order], 5, 1, 0) == expected[order]).all()


def test_rare_classes_of_every_target_are_spread_evenly():
    labels = (RNG.random((500, 3)) < [0.03, 0.1, 0.5]).astype(float)
    labels[RNG.random((500, 3)) < 0.3] = np.nan
    single = np.array([f"{number}" for number in range(500)])
    folds = assign_folds(single, class_strata(labels), 5, 0, 0)
    assert set(np.bincount(folds)) == {100}
    for column in labels.T:
        counts = np.array([(column[folds == fold] == 1).sum() for fold in range(5)])
        assert np.ptp(counts) <= 2


def test_a_group_of_more_than_a_fifth_is_a_fold_alone():
    groups = np.array(["benzene"] * 50 + [f"{number}" for number in range(100)])
    folds = assign_folds(groups, np.zeros((150, 0)), 5, 0, 0)
    assert sorted(np.bincount(folds)) == [25, 25, 25, 25, 50]


def test_duplicates_scaffolds_and_tautomers_are_groups():
    smiles = ["CCO", "CCO", "CCCN", "Oc1ccccn1", "O=c1cccc[nH]1", "Cc1ccccn1", "O=c1cc(C)cc[nH]1", "c1ccccc1C"]
    # Keys of 2-hydroxypyridine and 2-pyridone are one.
    keys = ["A", "A", "B", "C", "C", "D", "E", "F"]
    assert group_molecules(keys).tolist() == keys
    found = scaffolds(smiles)
    assert found[:3] == ["", "", ""]
    assert found[3] != found[4]
    assert group_molecules(keys, found).tolist() == ["A", "A", "B", "C", "C", "C", "C", "F"]


def test_stereochemistry_makes_no_scaffold():
    assert len(set(scaffolds(["C1CC[C@H]2CCCC[C@H]2C1", "C1CC[C@H]2CCCC[C@@H]2C1"]))) == 1

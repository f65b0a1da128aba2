"""Splits of rows against scikit-learn's, and the properties they are for."""

from __future__ import annotations

import numpy as np
import pytest

from jaxmodels.core import InputError
from jaxmodels.preprocess import split

selection = pytest.importorskip("sklearn.model_selection")
NUM_ROWS = 103


@pytest.fixture
def labels():
    return np.random.default_rng(0).choice(["a", "b", "c"], NUM_ROWS, p=[0.6, 0.3, 0.1])


@pytest.mark.parametrize("by", [None, "labels", "groups", "times"])
def test_every_row_is_in_one_part_and_the_same_seed_gives_the_same(by, labels):
    numbers = np.random.default_rng(1).integers(0, 20, NUM_ROWS)
    given = {} if by is None else {by: labels if by == "labels" else numbers}
    parts = split.split(NUM_ROWS, validation=0.2, test=0.3, **given)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(NUM_ROWS))
    for part, again in zip(parts, split.split(NUM_ROWS, validation=0.2, test=0.3, **given), strict=True):
        np.testing.assert_array_equal(part, again)
    assert abs(len(parts.test) - 0.3 * NUM_ROWS) <= (6 if by == "groups" else 0.5)
    if by == "labels":
        for label in "abc":
            share = np.mean(labels[parts.test] == label) - np.mean(labels == label)
            assert abs(share) * len(parts.test) < 1.5
    if by == "groups":
        assert not set(numbers[parts.training]) & set(numbers[parts.test])
        assert not set(numbers[parts.training]) & set(numbers[parts.validation])
    if by == "times":
        assert numbers[parts.training].max() <= numbers[parts.validation].min()
        assert numbers[parts.validation].max() <= numbers[parts.test].min()


def folds_of(splitter, *arguments) -> np.ndarray:
    folds = np.empty(NUM_ROWS, int)
    for fold, (_, held_out) in enumerate(splitter.split(np.zeros(NUM_ROWS), *arguments)):
        folds[held_out] = fold
    return folds


def test_unshuffled_folds_are_scikit_learns(labels):
    np.testing.assert_array_equal(split.k_fold(NUM_ROWS, 4, seed=None), folds_of(selection.KFold(4)))
    stratified = split.k_fold(NUM_ROWS, 4, seed=None, labels=labels)
    np.testing.assert_array_equal(stratified, folds_of(selection.StratifiedKFold(4), labels))


def test_folds_are_even_stratified_and_grouped(labels):
    np.testing.assert_array_equal(np.sort(np.bincount(split.k_fold(NUM_ROWS, 5))), [20, 20, 21, 21, 21])
    stratified = split.k_fold(NUM_ROWS, 5, labels=labels)
    for label in "abc":
        assert np.ptp(np.bincount(stratified[labels == label], minlength=5)) <= 1
    groups = np.random.default_rng(1).integers(0, 20, NUM_ROWS)
    grouped = split.k_fold(NUM_ROWS, 5, groups=groups)
    assert all(len(set(grouped[groups == group])) == 1 for group in set(groups))
    theirs = np.bincount(folds_of(selection.GroupKFold(5), None, groups))
    np.testing.assert_array_equal(np.sort(np.bincount(grouped)), np.sort(theirs))


def test_folds_in_time_are_scikit_learns():
    ours = list(split.time_folds(NUM_ROWS, 4))
    theirs = list(selection.TimeSeriesSplit(4).split(np.zeros(NUM_ROWS)))
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine[0], other[0])
        np.testing.assert_array_equal(mine[1], other[1])


def test_duplicates_are_all_but_the_first():
    columns = {"a": np.array([1.0, 2.0, 1.0, np.nan, np.nan]), "b": np.array(["x", "x", "x", None, None], object)}
    assert split.first_of_duplicates(columns).tolist() == [True, True, False, True, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split.split(10, test=1.0), "validation, test: need shares"),
        (lambda: split.split(10, labels=[1]), "labels: needs shape (10,)"),
        (lambda: split.split(10, labels=np.ones(10), groups=np.ones(10)), "labels and groups: give one"),
        (lambda: split.split(1, test=0.6), "num_rows: 1 rows leave none"),
        (lambda: split.k_fold(3, 4), "k: needs 2 or more folds"),
        (lambda: split.k_fold(4, 3, groups=[0, 0, 1, 1]), "groups: 2 groups cannot fill k=3"),
        (lambda: list(split.time_folds(3, 3)), "k: 3 folds in time need 4 rows"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message)

"""Estimators against scikit-learn's own checks, and its perceptrons on the same split."""

from __future__ import annotations

import pickle
import unittest

import numpy as np
import pytest

pytest.importorskip("sklearn", "1.6")
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from jaxmodels.core import InputError
from jaxmodels.estimators import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.slow
QUICK = {"hidden_sizes": (8,), "num_epochs": 30, "batch_size": 64, "learning_rate": 0.03}


@pytest.mark.parametrize("estimator", [MLPRegressor(**QUICK), MLPClassifier(**QUICK)], ids=["regressor", "classifier"])
@pytest.mark.filterwarnings("ignore")
def test_all_checks_of_scikit_learn_pass(estimator):
    failed, count = [], 0
    for each, check in estimator_checks_generator(estimator):
        count += 1
        try:
            check(each)
        except unittest.SkipTest:
            continue
        except Exception as error:  # each of some fifty is told, not the first alone
            failed.append(f"{getattr(check, 'func', check).__name__}: {type(error).__name__}: {error}")
    assert count > 40
    assert failed == []


def test_a_classifier_is_worth_what_theirs_is():
    X, y = load_breast_cancer(return_X_y=True)
    X, held, y, held_y = train_test_split(X, y, random_state=0, stratify=y)
    ours = MLPClassifier((32,), random_state=0).fit(X, y)
    theirs = make_pipeline(
        StandardScaler(), TheirClassifier((32,), early_stopping=True, random_state=0, max_iter=500)
    ).fit(X, y)
    assert ours.score(held, held_y) > theirs.score(held, held_y) - 0.02
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again.predict_proba(held), ours.predict_proba(held))
    np.testing.assert_array_equal(clone(ours).fit(X, y).predict_proba(held), ours.predict_proba(held))


def test_a_linear_regressor_is_least_squares():
    X, y = load_diabetes(return_X_y=True)
    ours = MLPRegressor((), num_epochs=2000, learning_rate=0.01, batch_size=442).fit(X, y)
    exact = np.c_[X, np.ones(442)] @ np.linalg.lstsq(np.c_[X, np.ones(442)], y, rcond=None)[0]
    assert abs(ours.predict(X) - exact).max() < 0.05 * y.std()


def test_patience_stops_on_noise():
    X, y = np.random.default_rng(0).normal(size=(2, 100, 5))
    assert len(MLPRegressor(patience=3).fit(X, y[:, 0]).losses_) < 100


def test_a_search_over_hyperparameters():
    X = np.linspace(-1, 1, 90)[:, None]
    search = GridSearchCV(MLPRegressor((16,), num_epochs=40), {"learning_rate": [1e-6, 1e-2]}, cv=3)
    assert search.fit(X, X[:, 0] ** 2).best_params_ == {"learning_rate": 1e-2}


def test_a_fraction_that_holds_nothing_out_is_named():
    with pytest.raises(InputError, match=r"validation_fraction: 0.01 of 10 rows leaves none to stop by"):
        MLPRegressor(patience=2, validation_fraction=0.01).fit(np.ones((10, 1)), np.arange(10.0))

"""How good models are on rows that they were not fitted to, and how much of it each column of a table is worth."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxmodels.data.tables import Table
from jaxmodels.predictor import features
from jaxmodels.predictor.features import Features
from jaxmodels.predictor.models import MODELS
from jaxmodels.predictor.options import Options
from jaxmodels.predictor.task import Fitted, Task

SHUFFLES = 5
"""Of each column, for its importance."""


class Rows(NamedTuple):
    """A table without its target, and the target."""

    table: Table
    target: np.ndarray
    """``[n]``: numbers, or class numbers."""

    def at(self, rows: np.ndarray) -> Rows:
        return Rows(self.table.rows(rows), self.target[rows])


def learn(rows: Rows, training: np.ndarray, options: Options) -> Features:
    """The features of the rows whose ``training`` is True."""
    return features.learn(rows.table, training, max_categories=options.max_categories)


def fit(name: str, learned: Features, rows: Rows, training: np.ndarray, task: Task, options: Options) -> Fitted:
    """A model of the rows whose ``training`` is True: the others keep shapes, and so compiled programs, the same."""
    return MODELS[name].fit(features.inputs(learned, rows.table), rows.target, training, task, options)


def outputs(name: str, learned: Features, params: Any, table: Table, task: Task, options: Options) -> np.ndarray:
    """Predictions, or logits, of the rows of a table."""
    return np.asarray(MODELS[name].outputs(params, features.inputs(learned, table), task, options), np.float64)


def loss_of(predicted: np.ndarray, target: np.ndarray, task: Task) -> np.ndarray:
    """``[n]``: the log loss of classes, the squared error or half the deviance of numbers."""
    outputs, targets = jnp.asarray(predicted), jnp.asarray(target)
    if task.classes is None and task.family.name != "gaussian":
        return np.asarray(task.family.deviance(task.family.link.link(outputs), targets)) / 2
    return np.asarray(task.loss(outputs, targets))


def compare(
    names: list[str], rows: Rows, folds: list[tuple[np.ndarray, np.ndarray]], task: Task, options: Options
) -> dict[str, list[float]]:
    """The mean loss of each model on each fold's left out rows, preprocessing and model fitted to its training rows."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for training, left_out in folds:
        mask = np.isin(np.arange(len(rows.target)), training)
        learned = learn(rows, mask, options)
        for name in names:
            fitted = fit(name, learned, rows, mask, task, options)
            found[name].append(_loss(name, learned, fitted.params, rows.at(left_out), task, options))
    return found


def importance(
    name: str, learned: Features, params: Any, rows: Rows, task: Task, options: Options
) -> dict[str, dict[str, float]]:
    """By how much the loss grows when a column's cells are shuffled among the rows, the most important first.

    Source: Breiman (2001), Random forests, section 10.
    """
    rng = np.random.default_rng(options.seed)
    used = [*learned.numbers, *learned.categories]
    base = _loss(name, learned, params, rows, task, options)
    found = {}
    for column in used:
        growth = []
        for _ in range(SHUFFLES):
            shuffled = dict(rows.table.columns) | {column: rng.permutation(rows.table.columns[column])}
            growth.append(_loss(name, learned, params, rows._replace(table=Table(shuffled)), task, options) - base)
        found[column] = {"mean": float(np.mean(growth)), "deviation": float(np.std(growth))}
    return dict(sorted(found.items(), key=lambda item: -item[1]["mean"]))


def _loss(name: str, learned: Features, params: Any, rows: Rows, task: Task, options: Options) -> float:
    return float(np.mean(loss_of(outputs(name, learned, params, rows.table, task, options), rows.target, task)))

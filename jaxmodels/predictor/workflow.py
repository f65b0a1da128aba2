"""What a person does with a table: fit a model, evaluate it on another table, predict with it."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmodels import checkpoint, plots, runs, split
from jaxmodels import evaluate as evaluation
from jaxmodels.core import InputError, PyTree
from jaxmodels.data import tables
from jaxmodels.data.tables import Table
from jaxmodels.predictor import comparison, features
from jaxmodels.predictor.comparison import Rows
from jaxmodels.predictor.features import Features
from jaxmodels.predictor.models import MODELS, coefficients
from jaxmodels.predictor.options import Options, check
from jaxmodels.predictor.task import Fitted, Task, task_of

MOST_CLASSES = 50
"""A target of categories with more is taken for a mistake."""
FEWEST_ROWS = 10
RESAMPLES = 1000
"""Of the held-out rows, for intervals of a regression's metrics."""


class Prepared(NamedTuple):
    """A table ready to be fitted."""

    rows: Rows
    task: Task
    classes: list[str] | None
    training: np.ndarray
    """Row numbers."""
    held_out: np.ndarray
    groups: np.ndarray | None
    times: np.ndarray | None
    num_dropped: int
    """Rows without a target."""


def fit(path: str | os.PathLike, options: Options, *, output: str | os.PathLike) -> dict[str, Any]:
    """Fit a table and leave a run: config, model, report and plots.

    Models are compared on folds of the training rows; the best is fitted to all of them and measured on the held-out
    rows, which nothing before has seen. Nothing is written before the options and the table have been found good.

    Args:
      path: a CSV or Parquet file.
      options: what to fit.
      output: folder of the run, made here.

    Returns:
      The report, as it is written to ``report.json``.

    Raises:
      InputError: names what is wrong and the fix.
    """
    check(options)
    runs.check_free(output)
    with jax.enable_x64(True):
        prepared = _prepare(path, options)
        training, held_out = (prepared.rows.at(rows) for rows in (prepared.training, prepared.held_out))
        names = _candidates(options, prepared.task)
        folds = _folds(prepared, options)
        compared = comparison.compare(names, training, folds, prepared.task, options)
        best = min(names, key=lambda name: np.mean(compared[name]))
        everyone = np.ones(len(training.target), bool)
        learned = comparison.learn(training, everyone, options)
        fitted = comparison.fit(best, learned, training, everyone, prepared.task, options)
        predicted = comparison.outputs(best, learned, fitted.params, held_out.table, prepared.task, options)
        report = _measured(predicted, held_out.target, prepared.classes) | {
            "model": best,
            "family": prepared.task.family.name,
            "remark": fitted.remark,
            "num_training": len(training.target),
            "num_without_target": prepared.num_dropped,
            "compared": {name: _summary(values) for name, values in compared.items()},
            "coefficients": _coefficients(best, fitted, learned, training, prepared),
            "importance": comparison.importance(best, learned, fitted.params, held_out, prepared.task, options),
        }
        config = {
            "kind": "table",
            "options": dataclasses.asdict(options),
            "model": best,
            "classes": prepared.classes,
            "features": learned._asdict(),
        }
        run = runs.create(output, config)
        checkpoint.save(run.model, jax.tree.map(np.asarray, fitted.params))
        _write(run.path, report, predicted, held_out.target, options.target)
    return report


def _prepare(path: str | os.PathLike, options: Options) -> Prepared:
    table = _read(path, options, options.categories)
    named = [("target", options.target), ("group", options.group), ("time", options.time)]
    for flag, name in [*named, *(("drop", name) for name in options.drop)]:
        if name is not None and name not in table.columns:
            raise InputError(f"{flag}: {os.fspath(path)} has no column {name!r}; it has {', '.join(table.columns)}")
    target = table.columns[options.target]
    known = ~tables.is_missing(target)
    if known.sum() < FEWEST_ROWS:
        raise InputError(f"target: {options.target!r} has {known.sum()} values; give {FEWEST_ROWS} or more")
    table, target = table.rows(known), target[known]
    values, classes = _target(options.target, target)
    task = task_of(values, classes, options.family)
    aside = {options.target, *options.drop, *(name for name in (options.group, options.time) if name)}
    rows = Rows(table.without(aside), values)
    groups = None if options.group is None else table.columns[options.group].astype(str)
    times = None if options.time is None else _times(options.time, table.columns[options.time])
    by = {"labels": values} if classes else {}
    by = {"groups": groups} if groups is not None else by
    by = {"times": times} if times is not None else by
    parts = split.split(len(values), test=options.test, seed=options.seed, **by)
    if len(parts.test) < 2:
        raise InputError(f"test: a share of {options.test} holds {len(parts.test)} rows out; give one that holds 2 out")
    return Prepared(rows, task, classes, parts.training, parts.test, groups, times, int(np.sum(~known)))


def _read(path: str | os.PathLike, options: Options, categories: Iterable[str]) -> Table:
    return tables.read(
        path,
        separator=options.separator,
        header=options.header,
        missing=options.missing,
        categories=tuple(categories),
        encoding=options.encoding,
    )


def _times(name: str, column: np.ndarray) -> np.ndarray:
    """Numbers, or words whose order is that of time, as in 2026-11-24."""
    missing = tables.is_missing(column)
    if missing.any():
        raise InputError(f"time: column {name!r} is missing in {int(missing.sum())} rows; fill it, or drop those rows")
    return column if tables.is_number(column) else column.astype(str)


def _target(name: str, target: np.ndarray) -> tuple[np.ndarray, list[str] | None]:
    """Numbers, or class numbers and their names."""
    if tables.is_number(target):
        if len(target) < 2 or np.ptp(target) == 0:
            raise InputError(f"target: {name!r} has the same value in every row, so there is nothing to predict")
        return target, None
    classes = sorted(set(target))
    if len(classes) < 2:
        raise InputError(f"target: {name!r} has one class, {classes[0]!r}; there is nothing to predict")
    if len(classes) > MOST_CLASSES:
        raise InputError(f"target: {name!r} holds {len(classes)} different words; give a column of classes or numbers")
    return np.searchsorted(classes, target.astype(str)), classes


def _candidates(options: Options, task: Task) -> list[str]:
    if options.model is None:
        names = [name for name, model in MODELS.items() if model.applies(task)]
        return [name for name in names if name != "glm" or "linear" not in names]  # of a gaussian they are the same
    if not MODELS[options.model].applies(task):
        what = f"{len(task.classes)} classes" if task.classes else f"family {task.family.name}"
        raise InputError(f"model: {options.model} does not go with {what}; try glm")
    return [options.model]


def _folds(prepared: Prepared, options: Options) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rows to fit, rows to leave out) of the training rows, split as these were from the held-out ones."""
    rows = np.arange(len(prepared.training))
    if prepared.times is not None:
        order = np.argsort(prepared.times[prepared.training], kind="stable")
        return [(order[before], order[after]) for before, after in split.time_folds(len(rows), options.folds)]
    by: dict[str, Any] = {"labels": prepared.rows.target[prepared.training]} if prepared.classes else {}
    if prepared.groups is not None:
        groups = prepared.groups[prepared.training]
        if (count := len(set(groups))) < options.folds:
            raise InputError(f"folds: {count} groups are left to train on, too few for {options.folds} folds; lower it")
        by = {"groups": groups}
    folds = split.k_fold(len(rows), options.folds, seed=options.seed, **by)
    return [(rows[folds != fold], rows[folds == fold]) for fold in range(options.folds)]


def _summary(values: list[float]) -> dict[str, Any]:
    error = float(np.std(values, ddof=1) / len(values) ** 0.5)
    return {"loss": float(np.mean(values)), "standard_error": error, "folds": values}


def _measured(predicted: np.ndarray, target: np.ndarray, classes: list[str] | None) -> dict[str, Any]:
    if classes is not None:
        return evaluation.classification_report(predicted, target, classes=classes)
    report = evaluation.regression_report(predicted, target)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(target), (RESAMPLES, len(target)))
    squares, variance = np.mean((predicted - target)[drawn] ** 2, axis=1), np.var(target[drawn], axis=1)
    varies = variance > 0  # a few rows may all be the same
    r2 = 1 - squares[varies] / variance[varies]
    for name, values in (("r2", r2), ("root_mean_squared_error", np.sqrt(squares))):
        report[f"{name}_interval"] = np.quantile(values, [0.025, 0.975]).tolist() if len(values) else None
    return report


def _coefficients(
    name: str, fitted: Fitted, learned: Features, training: Rows, prepared: Prepared
) -> list[dict[str, Any]] | None:
    """A line a coefficient; of several classes one for each class but the first."""
    x, classes = features.inputs(learned, training.table), prepared.classes
    table = coefficients(name, fitted, x, training.target, prepared.task)
    if table is None:
        return None
    num_outputs = len(table["estimate"])
    lines = []
    for output in range(num_outputs):
        which = {"class": classes[output + 1]} if classes and num_outputs > 1 else {}
        for place, name in enumerate(["(intercept)", *learned.names]):
            values = {key: _plain(part[output, place]) for key, part in table.items()}
            lines.append({"name": name} | which | values)
    return lines


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _write(folder: pathlib.Path, report: dict[str, Any], predicted: np.ndarray, target: np.ndarray, name: str) -> None:
    runs.write_text(folder / "report.json", json.dumps(report) + "\n")
    drawn = folder / "plots"
    drawn.mkdir(parents=True, exist_ok=True)
    if "r2" in report:
        plots.regression(predicted, target, drawn / "predictions.png", name=name)
    else:
        plots.roc(report, drawn / "roc.png")
        plots.confusion_matrix(report, drawn / "confusion_matrix.png")
        plots.calibration(report, drawn / "calibration.png")
    if "importance" in report:
        plots.importance(report["importance"], drawn / "importance.png")


class _Loaded(NamedTuple):
    name: str
    options: Options
    task: Task
    classes: list[str] | None
    features: Features
    params: PyTree


def _load(run: str | os.PathLike) -> _Loaded:
    opened, config = runs.open_run(run)
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in config["options"].items()}
    options, learned = Options(**given), Features(**config["features"])
    task = task_of(np.zeros(0), config["classes"], options.family)
    like = MODELS[config["model"]].like(len(learned.names), task, options)
    params = checkpoint.restore(opened.model, like)
    return _Loaded(config["model"], options, task, config["classes"], learned, params)


def predict(run: str | os.PathLike, path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """Predict the rows of a table: ``row`` and ``prediction``, or ``label`` and ``probabilities``."""
    with jax.enable_x64(True):
        loaded = _load(run)
        table = _read(path, loaded.options, loaded.features.categories)
        found = comparison.outputs(loaded.name, loaded.features, loaded.params, table, loaded.task, loaded.options)
        logits = found if found.ndim == 2 else np.stack([np.zeros_like(found), found], axis=1)
        shares = np.asarray(jax.nn.softmax(logits))
    if loaded.classes is None:
        yield from ({"row": row, "prediction": float(output)} for row, output in enumerate(found))
        return
    for row, share in enumerate(shares):
        probabilities = dict(zip(loaded.classes, share.tolist(), strict=True))
        yield {"row": row, "label": loaded.classes[share.argmax()], "probabilities": probabilities}


def _known_target(path: str | os.PathLike, table: Table, loaded: _Loaded) -> tuple[np.ndarray, np.ndarray]:
    """The rows with a target (mask) and their targets."""
    name = loaded.options.target
    if name not in table.columns:
        raise InputError(f"{os.fspath(path)}: has no column {name!r} to compare with; use predict")
    target = table.columns[name]
    known = ~tables.is_missing(target)
    values = target[known]
    if loaded.classes is None and not tables.is_number(target):
        raise InputError(f"{os.fspath(path)}: column {name!r} holds words; the model predicts numbers")
    if loaded.classes is not None:
        if new := sorted(set(values) - set(loaded.classes)):
            classes = ", ".join(loaded.classes)
            raise InputError(f"{os.fspath(path)}: {name!r} holds {new[0]!r}, which is none of the classes {classes}")
        values = np.searchsorted(loaded.classes, values.astype(str))
    if not known.any():
        raise InputError(f"{os.fspath(path)}: column {name!r} is empty; give rows with a target, or use predict")
    return known, values


def evaluate(run: str | os.PathLike, path: str | os.PathLike) -> tuple[dict[str, Any], pathlib.Path]:
    """Measure a fitted model on another table with a target.

    Returns:
      (report, folder), as ``classifier.evaluate``.
    """
    with jax.enable_x64(True):
        loaded = _load(run)
        words = [*loaded.features.categories, *([loaded.options.target] if loaded.classes else [])]
        table = _read(path, loaded.options, words)
        known, values = _known_target(path, table, loaded)
        predicted = comparison.outputs(
            loaded.name, loaded.features, loaded.params, table.rows(known), loaded.task, loaded.options
        )
        report = _measured(predicted, values, loaded.classes)
        folder = pathlib.Path(run) / "evaluations" / pathlib.Path(path).stem
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, report, predicted, values, loaded.options.target)
    return report, folder

"""Reports: all that is worth writing down about outputs beside their targets, as numbers and lists that JSON can hold.

What is undefined is ``None``. Rows of weight 0 are padding and change no number.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from jaxmodels import metrics as m
from jaxmodels.core import Batch, InputError

CURVE_POINTS = 200
"""At most so many points of a curve stand in a report; areas are computed before it is thinned."""
CURVE_BUDGET = 20_000
"""At most so many points over all classes (and never below 20 a curve), so that 1000 classes stay readable."""


def classification_report(
    logits: Num[Array, "n k"],
    labels: Int[Array, " n"],
    *,
    classes: Sequence[str],
    weights: Num[Array, " n"] | None = None,
    loss: Callable | None = None,
    num_bins: int = 15,
) -> dict[str, Any]:
    """All that a written report of a classifier needs, as plain numbers and lists that JSON can hold.

    Args:
      logits: ``[n, k]``, or ``[n]`` / ``[n, 1]`` for two classes.
      labels: ``[n]``, class numbers.
      classes: ``k`` names, in the order of the logits.
      weights: ``[n]``, not negative; 0 is padding; all 1 where ``None``.
      loss: ``(outputs, targets) -> [n]``; cross entropy where ``None``.
      num_bins: bins of confidence of the calibration.

    Returns:
      ``num_examples``, ``classes``, ``loss``, ``accuracy``, ``accuracy_interval`` (Wilson, 95 %), ``top_5`` (with more
      than five classes), ``balanced_accuracy``, ``cohen_kappa``, ``matthews_correlation``, ``brier``;
      ``macro`` and ``weighted`` means over classes, and ``per_class`` (a list), of ``precision``, ``recall``, ``f1``,
      ``support``, ``roc_auc``, ``average_precision``; ``confusion_matrix`` (rows actual, columns predicted);
      ``roc_auc`` (of class 1 of two, else the macro mean of one against the rest) and for two classes
      ``roc_auc_interval`` (DeLong, 95 %); ``roc`` and ``precision_recall``, a list of curves, each with ``class`` and
      its area: of class 1 of two, else one a class; ``calibration`` with ``error`` and ``bins``.
      What is undefined (an area without positive rows, a mean over nothing) is ``None``.

    Raises:
      InputError: shapes that do not fit, a label that is no class, NaN in the logits, or no row of positive weight.

    >>> report = classification_report(jnp.array([2.0, -1.0, 1.0]), jnp.array([1, 0, 0]), classes=["cat", "dog"])
    >>> report["confusion_matrix"], report["roc_auc"]
    ([[1, 1], [0, 1]], 1.0)
    """
    scores, actual, used = _checked(logits, labels, weights, len(classes))
    found = jax.device_get(_measure(loss, num_bins, scores, actual, used))
    curves = _curves(scores, actual, used, classes)
    areas = {area: [curve[area] for curve in curves] for area in ("roc_auc", "average_precision")}
    support = _plain_counts(found["confusion_matrix"].sum(axis=1))
    columns = {name: _plain(column) for name, column in found["none"].items()} | {"support": support} | areas
    macro, weighted = (
        {name: _plain(value) for name, value in found[average].items()}
        | {area: _mean(values, shares) for area, values in areas.items()}
        for average, shares in (("macro", [1] * len(classes)), ("weighted", support))
    )
    binary = len(classes) == 2
    return {
        "num_examples": int(np.count_nonzero(used)),
        "classes": list(classes),
        **{name: _plain(value) for name, value in found["numbers"].items()},
        "accuracy_interval": list(wilson_interval(found["numbers"]["accuracy"].item(), _effective(used))),
        "roc_auc": curves[1]["roc_auc"] if binary else macro["roc_auc"],
        **({"roc_auc_interval": curves[1]["roc_auc_interval"]} if binary else {}),
        "macro": macro,
        "weighted": weighted,
        "per_class": [
            {"class": name, **{key: column[index] for key, column in columns.items()}}
            for index, name in enumerate(classes)
        ],
        "confusion_matrix": _plain_counts(found["confusion_matrix"]),
        "roc": [curve["roc"] for curve in curves[binary:]],
        "precision_recall": [curve["precision_recall"] for curve in curves[binary:]],
        "calibration": _bins(found["calibration"]),
    }


def wilson_interval(share: float, count: float, *, level: float = 0.95) -> tuple[float, float]:
    """A confidence interval of a share of ``count`` rows that stays honest at 0 and 1 (Wilson 1927).

    Args:
      share: between 0 and 1.
      count: rows; with weights Kish's effective number, ``sum(w)^2 / sum(w^2)``.
      level: coverage.

    >>> [round(end, 4) for end in wilson_interval(1.0, 10)]
    [0.7225, 1.0]
    """
    z2 = statistics.NormalDist().inv_cdf((1 + level) / 2) ** 2
    center = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    return max(0.0, center - half), min(1.0, center + half)


def regression_report(
    predictions: Num[Array, "n *d"],
    targets: Num[Array, "n *d"],
    *,
    weights: Num[Array, " n"] | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """All that a written report of a regression needs, as plain numbers that JSON can hold.

    Args:
      predictions: ``[n]`` or ``[n, d]``.
      targets: of the same shape.
      weights: ``[n]``, not negative; 0 is padding; all 1 where ``None``.
      names: ``d`` names of the outputs.

    Returns:
      ``num_examples``, ``r2``, ``explained_variance``, ``mean_squared_error``, ``root_mean_squared_error``,
      ``mean_absolute_error``, ``mean_absolute_percentage_error`` (a fraction), ``bias`` (mean of prediction - target),
      ``largest_error``; with more than one output, means over them, and ``per_output``, a list of the same for each.
      What is undefined is ``None``.

    >>> report = regression_report(jnp.array([1.0, 2.0, 4.0]), jnp.array([1.0, 2.0, 3.0]))
    >>> report["r2"], report["largest_error"]
    (0.5, 1.0)
    """
    outputs, actual, used = _checked_numbers(predictions, targets, weights)
    num_outputs = actual.shape[1]
    names = [str(index) for index in range(num_outputs)] if names is None else list(names)
    if len(names) != num_outputs:
        raise InputError(f"names has {len(names)} names, but targets have {num_outputs} columns: give one a column")
    report = {"num_examples": int(np.count_nonzero(used)), **_regression(outputs, actual, used)}
    if num_outputs > 1:
        columns = ((outputs[:, [i]], actual[:, [i]]) for i in range(num_outputs))
        of_outputs = [_regression(*column, used) for column in columns]
        report["per_output"] = [{"output": name, **each} for name, each in zip(names, of_outputs, strict=True)]
    return report


def most_confident_mistakes(logits: Num[Array, "n k"], labels: Int[Array, " n"], *, count: int) -> np.ndarray:
    """Indices of the wrongly predicted rows, the surest first; at most ``count``, fewer where there are fewer.

    >>> most_confident_mistakes(jnp.array([1.0, 5.0, -2.0, 3.0]), jnp.array([0, 0, 0, 1]), count=2).tolist()
    [1, 0]
    """
    if count < 0:
        raise InputError(f"count must be 0 or more, got {count}")
    # Log-odds still order what softmax rounds to 1.0.
    odds = np.asarray(m.log_odds(jnp.asarray(logits)))
    wrong = np.flatnonzero(odds.argmax(axis=1) != np.asarray(labels))
    return wrong[np.argsort(-odds[wrong].max(axis=1), kind="stable")][:count]


def _checked(logits: Any, labels: Any, weights: Any, num_classes: int) -> tuple[np.ndarray, ...]:
    """Rows that count, as NumPy ``[n, k]``, ``[n]`` and weights ``[n]``, rounded up."""
    logits, labels = np.asarray(m.two_sided(logits)), np.asarray(labels)
    if logits.shape[1] != num_classes:
        raise InputError(f"classes has {num_classes} names, but logits have {logits.shape[1]} columns: name each class")
    if labels.shape != logits.shape[:1]:
        raise InputError(f"labels must have shape {logits.shape[:1]}, one a row of logits, but has {labels.shape}")
    used, kept = _kept(weights, labels.shape[0])
    logits, labels = logits[kept], labels[kept]
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes) | (labels != labels.astype(np.int32)))
    if outside.size:
        raise InputError(
            f"labels must be class numbers from 0 to {num_classes - 1}, but {outside.size} are not, the first "
            f"{labels[outside[0]]}: number the classes in the order of classes"
        )
    if np.isnan(logits).any():
        count = np.isnan(logits).any(axis=1).sum()
        raise InputError(f"logits has NaN in {count} rows: look for them in the inputs, or train with a lower rate")
    return _rounded_up(logits, labels.astype(np.int32), used)


def _checked_numbers(predictions: Any, targets: Any, weights: Any) -> tuple[np.ndarray, ...]:
    """Rows that count, as NumPy ``[n, d]``, ``[n, d]`` and weights ``[n]``, rounded up."""
    predictions, targets = m.same_shape(predictions, targets)
    if targets.ndim not in (1, 2):
        raise InputError(f"targets must be [n] or [n, d], but have shape {targets.shape}")
    used, kept = _kept(weights, targets.shape[0])
    predictions, targets = (np.asarray(each).reshape(kept.shape[0], -1)[kept] for each in (predictions, targets))
    return _rounded_up(predictions, targets, used)


def _kept(weights: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights that are not 0, and where they stand."""
    values = np.ones(count, np.float32) if weights is None else np.asarray(weights)
    if values.shape != (count,):
        raise InputError(f"weights must have shape ({count},), one a row, but has {values.shape}")
    if not (np.isfinite(values) & (values >= 0)).all():
        raise InputError("weights must be finite and not negative: 0 leaves a row out")
    kept = values != 0
    if not kept.any():
        raise InputError("no row has a weight above 0: give at least one example")
    return values[kept], kept


def _rounded_up(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Rows of zeros (and weight 0) up to a power of two: reports of data sets of like size compile once."""
    count = arrays[0].shape[0]
    more = (1 << (count - 1).bit_length()) - count
    return tuple(np.concatenate([each, np.zeros((more, *each.shape[1:]), each.dtype)]) for each in arrays)


def _effective(weights: np.ndarray) -> float:
    """Kish's effective number of rows."""
    weights = weights.astype(np.float64)
    return float(weights.sum() ** 2 / np.sum(weights**2))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measure(loss: Callable | None, num_bins: int, logits, labels, weights) -> dict[str, Any]:
    """All that has an accumulator; those of the confusion matrix share one."""
    num_classes = logits.shape[1]
    batch = Batch(None, labels, weights)
    confusion = m.confusion_matrix(num_classes)
    counts = confusion.update(confusion.init(), logits, batch)
    of_rows = {
        "loss": m.log_loss() if loss is None else m.mean(loss),
        "accuracy": m.accuracy(),
        **({"top_5": m.top_k(5)} if num_classes > 5 else {}),
        "brier": m.brier(),
    }
    of_counts = {
        "balanced_accuracy": m.balanced_accuracy(num_classes),
        "cohen_kappa": m.cohen_kappa(num_classes),
        "matthews_correlation": m.matthews_correlation(num_classes),
    }
    ratios = {"precision": m.precision, "recall": m.recall, "f1": m.f1}
    return {
        "confusion_matrix": confusion.compute(counts),
        "calibration": m.compute(m.calibration(num_bins), logits, labels, weights=weights),
        "numbers": {name: m.compute(metric, logits, labels, weights=weights) for name, metric in of_rows.items()}
        | {name: metric.compute(counts) for name, metric in of_counts.items()},
        **{
            average: {name: ratio(num_classes, average=average).compute(counts) for name, ratio in ratios.items()}
            for average in ("none", "macro", "weighted")
        },
    }


def _mean(values: Sequence[float | None], shares: Sequence[float]) -> float | None:
    """The mean by shares of the values that are defined."""
    defined = [(value, share) for value, share in zip(values, shares, strict=True) if value is not None]
    whole = sum(share for _, share in defined)
    return sum(value * share for value, share in defined) / whole if whole else None


@jax.jit
def _rank(scores, positive, weights):
    areas = {
        "roc_auc": m.roc_auc(scores, positive, weights=weights),
        "average_precision": m.average_precision(scores, positive, weights=weights),
        "roc_auc_interval": m.roc_auc_interval(scores, positive, weights=weights),
    }
    curves = (
        m.roc_curve(scores, positive, weights=weights),
        m.precision_recall_curve(scores, positive, weights=weights),
    )
    return areas, curves


def _curves(logits, labels, weights, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Areas and thinned curves of each class against the rest; one class at a time, for its memory."""
    odds = np.asarray(m.log_odds(logits))
    limit = min(CURVE_POINTS, max(20, CURVE_BUDGET // len(classes)))
    found = []
    for index, name in enumerate(classes):
        areas, (roc, precision_recall) = jax.device_get(_rank(odds[:, index], labels == index, weights))
        areas = {key: _plain(value) for key, value in areas.items()}
        roc = {"class": name, "roc_auc": areas["roc_auc"], **_thin(roc, limit)}
        precision_recall = {
            "class": name,
            "average_precision": areas["average_precision"],
            "positive_share": _plain(np.average(labels == index, weights=weights)),
            **_thin(precision_recall, limit),
        }
        found.append({**areas, "roc": roc, "precision_recall": precision_recall})
    return found


def _thin(curve, limit: int) -> dict[str, list]:
    """At most ``limit`` points of a curve, even along its length, both ends among them; thresholds as probabilities."""
    curve = m.trim(curve)
    names = curve._fields[:2]
    x, y = (np.asarray(getattr(curve, name), np.float64) for name in names)
    if len(x) > limit and not np.isnan(x + y).any():
        length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        index = np.unique(np.searchsorted(length, np.linspace(0, length[-1], limit)))
        index = np.union1d(index, [0, len(x) - 1])[-limit:]
        index[0] = 0
    else:
        index = np.linspace(0, len(x) - 1, min(limit, len(x))).astype(int)
    with np.errstate(over="ignore"):
        probability = 1 / (1 + np.exp(-np.asarray(curve.thresholds, np.float64)))
    probability[0] = np.nan
    columns = {names[0]: x, names[1]: y, "thresholds": probability}
    return {name: _plain(np.round(column[index], 6)) for name, column in columns.items()}


def _bins(value: m.Calibration) -> dict[str, Any]:
    value = jax.device_get(value)
    columns = {
        "low": value.edges[:-1],
        "high": value.edges[1:],
        "confidence": value.confidence,
        "accuracy": value.accuracy,
        "weight": value.weight,
    }
    rows = zip(*(_plain(column) for column in columns.values()), strict=True)
    return {"error": _plain(value.error), "bins": [dict(zip(columns, row, strict=True)) for row in rows]}


def _regression(predictions: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    found = jax.device_get(_measure_regression(predictions, targets, weights))
    return {name: _plain(value) for name, value in found.items()}


@jax.jit
def _measure_regression(predictions, targets, weights):
    num_outputs = targets.shape[1]
    functions = {
        "r2": m.r2(num_outputs=num_outputs),
        "explained_variance": m.explained_variance(num_outputs=num_outputs),
        "mean_squared_error": m.mean_squared_error(),
        "root_mean_squared_error": m.root_mean_squared_error(num_outputs=num_outputs),
        "mean_absolute_error": m.mean_absolute_error(),
        "mean_absolute_percentage_error": m.mean_absolute_percentage_error(),
        "bias": m.mean(_difference),
    }
    values = {name: m.compute(metric, predictions, targets, weights=weights) for name, metric in functions.items()}
    return values | {"largest_error": jnp.abs(predictions - targets).max()}


def _difference(outputs, targets):
    return outputs - targets


def _plain(value: Any) -> Any:
    """Arrays as lists and numbers of Python, what is not finite as ``None``."""
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    array = np.asarray(value)
    if array.ndim:
        return [_plain(each) for each in array]
    # By way of its shortest digits: float32's 0.7 is 0.7 in JSON, not 0.699999988.
    return float(str(array)) if np.isfinite(array) else None


def _plain_counts(values: Any) -> Any:
    """Counts as integers, where all are whole; else as floats."""
    array = np.asarray(values, np.float64)
    return array.astype(np.int64).tolist() if (array == np.round(array)).all() else array.tolist()

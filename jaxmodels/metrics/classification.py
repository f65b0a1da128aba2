"""Metrics of class predictions: counts of right and wrong, and how good the probabilities are.

``outputs`` are logits ``[n, k]``, or one logit of class 1 a row (``[n]`` or ``[n, 1]``), which is read as the pair
``[0, logit]``; ``targets`` are class numbers ``[n]``. The predicted class is the largest logit, the first of equals.
Softmax and logarithms are taken in float32 or wider.

Everything that counts comes from the confusion matrix ``C[actual, predicted]``:
``precision = C[c, c] / sum(C[:, c])``, ``recall = C[c, c] / sum(C[c, :])``, ``f1 = 2 C[c, c] / (both sums)``.

A row of positive weight with NaN in its logits, or with a label that is no class, makes the value NaN: seen at once,
where a guess would be a wrong number that looks right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from jaxmodels.core import Batch, InputError, cached_factory
from jaxmodels.metrics.accumulate import (
    Mean,
    Metric,
    Sum,
    add,
    at_least_float32,
    merge_sums,
    row_weights,
    total,
    zero,
)

Average = Literal["macro", "micro", "weighted", "binary", "none"]


def two_sided(outputs: Num[Array, "n ..."]) -> Float[Array, "n k"]:
    """Logits ``[n, k]``; the single logit of a binary model becomes ``[0, logit]``.

    >>> two_sided(jnp.array([1.5, -2.0])).tolist()
    [[0.0, 1.5], [0.0, -2.0]]
    """
    logits = at_least_float32(outputs)
    if logits.ndim == 1:
        logits = logits[:, None]
    if logits.ndim != 2:
        raise InputError(f"outputs must be logits [n, k], [n] or [n, 1], but have shape {logits.shape}")
    return jnp.concatenate([jnp.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits


class Rows(NamedTuple):
    """Checked rows: nothing in a row of weight 0 is left, and an unusable row has weight NaN."""

    logits: Float[Array, "n k"]
    labels: Int[Array, " n"]
    weights: Float[Array, " n"]

    @property
    def num_classes(self) -> int:
        return self.logits.shape[1]

    @property
    def predicted(self) -> Int[Array, " n"]:
        return jnp.argmax(self.logits, axis=1)

    @property
    def correct(self) -> Float[Array, " n"]:
        return jnp.where(self.predicted == self.labels, 1.0, 0.0)


def read_rows(outputs: Num[Array, "n ..."], batch: Batch) -> Rows:
    """Shapes are checked while tracing, values become NaN weights."""
    logits = two_sided(outputs)
    count, num_classes = logits.shape
    targets = jnp.asarray(batch.targets)
    if targets.shape not in ((count,), (count, 1)):
        raise InputError(f"targets must be class numbers of shape ({count},), but have shape {targets.shape}")
    targets = targets.reshape(count)
    labels = targets.astype(jnp.int32)
    weights = row_weights(batch.weights, count)
    kept = weights != 0
    usable = (labels == targets) & (labels >= 0) & (labels < num_classes) & ~jnp.isnan(logits).any(axis=1)
    return Rows(
        logits=jnp.where(kept[:, None], logits, 0),
        labels=jnp.where(kept & usable, labels, 0),
        weights=jnp.where(kept & ~usable, jnp.nan, weights),
    )


def _mean_of_rows(score: Callable[[Rows], Float[Array, " n"]]) -> Metric:
    """The weighted mean of a score that checked rows have."""

    def update(acc, outputs, batch):
        rows = read_rows(outputs, batch)
        seen = jnp.where(rows.weights != 0, rows.weights * score(rows), 0)
        return merge_sums(acc, Mean(total(seen), total(rows.weights)))

    return Metric(lambda: Mean(zero(), zero()), update, merge_sums, lambda acc: acc.value)


@cached_factory
def accuracy() -> Metric:
    """The share of rows whose largest logit is the label's; NaN where nothing was seen.

    >>> from jaxmodels import metrics
    >>> metrics.compute(metrics.accuracy(), jnp.array([3.0, -1.0, 2.0]), jnp.array([1, 0, 0])).item()
    0.6666666865348816
    """
    return _mean_of_rows(lambda rows: rows.correct)


@cached_factory
def top_k(k: int = 5) -> Metric:
    """The share of rows whose label is among the ``k`` largest logits.

    Of equal logits the first counts as larger, so that ``top_k(1)`` is ``accuracy()``. (scikit-learn takes the last.)

    Raises:
      InputError: the outputs have fewer than ``k`` classes.
    """
    if k < 1:
        raise InputError(f"k must be 1 or more, got {k}")

    def hit(rows: Rows):
        if rows.num_classes < k:
            raise InputError(f"top_k(k={k}) needs outputs of {k} classes or more, got {rows.num_classes}: lower k")
        own = jnp.take_along_axis(rows.logits, rows.labels[:, None], axis=1)
        earlier = jnp.arange(rows.num_classes) < rows.labels[:, None]
        rank = jnp.sum((rows.logits > own) | ((rows.logits == own) & earlier), axis=1)
        return jnp.where(rank < k, 1.0, 0.0)

    return _mean_of_rows(hit)


def cross_entropy(logits: Float[Array, "n k"], labels: Int[Array, " n"]) -> Float[Array, " n"]:
    """``-log softmax(logits)[label]`` of each row, in float32 or wider."""
    return -jnp.take_along_axis(jax.nn.log_softmax(at_least_float32(logits)), labels[:, None], axis=1)[:, 0]


@cached_factory
def log_loss() -> Metric:
    """The mean cross entropy in nats; logits need no clipping, so an impossible label costs infinity.

    >>> from jaxmodels import metrics
    >>> metrics.compute(metrics.log_loss(), jnp.zeros((1, 4)), jnp.array([2])).item()    # log 4
    1.3862943649291992
    """
    return _mean_of_rows(lambda rows: cross_entropy(rows.logits, rows.labels))


@cached_factory
def brier() -> Metric:
    """The mean squared error of the probabilities (Brier 1950).

    Two classes: ``(p[1] - label)^2``, from 0 to 1; more: the sum over the classes, from 0 to 2, as scikit-learn does.
    """

    def score(rows: Rows):
        error = jax.nn.softmax(rows.logits) - jax.nn.one_hot(rows.labels, rows.num_classes, dtype=rows.logits.dtype)
        squares = jnp.sum(error**2, axis=1)
        return squares / 2 if rows.num_classes == 2 else squares

    return _mean_of_rows(score)


class Calibration(NamedTuple):
    """How confidence compares with accuracy, by bins of confidence; empty bins are NaN."""

    error: Float[Array, ""]
    """Expected calibration error: the weighted mean of ``|accuracy - confidence|`` over the bins."""
    edges: Float[Array, " b+1"]
    """Bin ``i`` is ``(edges[i], edges[i + 1]]``; the first holds 0 too."""
    confidence: Float[Array, " b"]
    """Mean probability of the predicted class."""
    accuracy: Float[Array, " b"]
    """Share of rows predicted right."""
    weight: Float[Array, " b"]
    """Sum of weights (rows, where weights are 1)."""


@cached_factory
def calibration(num_bins: int = 15) -> Metric:
    """Reliability of the predicted class's probability in equal bins, and the expected calibration error.

    Args:
      num_bins: equal bins of confidence from 0 to 1.

    Returns:
      A metric whose value is a ``Calibration``; its error is NaN where nothing was seen.

    Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, 2017, equation 3.

    >>> from jaxmodels import metrics
    >>> logits = jnp.log(jnp.array([[0.7, 0.3], [0.3, 0.7]]))    # 70% sure, right half of the time
    >>> round(metrics.compute(metrics.calibration(10), logits, jnp.array([0, 0])).error.item(), 6)
    0.2
    """
    if num_bins < 1:
        raise InputError(f"num_bins must be 1 or more, got {num_bins}")

    def update(acc, outputs, batch):
        rows = read_rows(outputs, batch)
        confidence = jax.nn.softmax(rows.logits).max(axis=1)
        edges = jnp.linspace(0, 1, num_bins + 1, dtype=confidence.dtype)
        # NaN sorts last, past the edges; its weight is NaN whatever the bin.
        index = jnp.searchsorted(edges[1:-1], confidence, side="left")
        columns = jnp.stack([jnp.ones_like(confidence), confidence, rows.correct], axis=1)
        columns = jnp.where(rows.weights[:, None] != 0, rows.weights[:, None] * columns, 0)
        binned = zero((num_bins, 3)).high.at[index].add(columns)
        return add(acc, Sum(binned, jnp.zeros_like(binned)))

    def compute(acc):
        weight, confidence, correct = acc.value.T
        error = jnp.sum(jnp.abs(correct - confidence)) / weight.sum()
        return Calibration(error, jnp.linspace(0, 1, num_bins + 1), confidence / weight, correct / weight, weight)

    return Metric(lambda: zero((num_bins, 3)), update, add, compute)


def _of_confusion(num_classes: int, value: Callable[[Float[Array, "k k"]], Array]) -> Metric:
    """A metric that is a function of the confusion matrix."""
    if num_classes < 2:
        raise InputError(f"num_classes must be 2 or more, got {num_classes}")

    def update(acc, outputs, batch):
        rows = read_rows(outputs, batch)
        if rows.num_classes != num_classes:
            raise InputError(f"num_classes is {num_classes}, but the outputs have {rows.num_classes} classes")
        counts = zero((num_classes, num_classes)).high.at[rows.labels, rows.predicted].add(rows.weights)
        return add(acc, Sum(counts, jnp.zeros_like(counts)))

    return Metric(lambda: zero((num_classes, num_classes)), update, add, lambda acc: value(acc.value))


@cached_factory
def confusion_matrix(num_classes: int) -> Metric:
    """The weight of every pair of actual class (row) and predicted class (column): ``[k, k]``.

    Exact for counts up to 2^24 rows in one update and 2^48 in all.

    >>> from jaxmodels import metrics
    >>> metrics.compute(metrics.confusion_matrix(2), jnp.array([3.0, -1.0, 2.0]), jnp.array([1, 0, 0])).tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    """
    return _of_confusion(num_classes, lambda matrix: matrix)


@cached_factory
def precision(num_classes: int, *, average: Average = "macro", zero_division: float = 0.0) -> Metric:
    """Of what was predicted as a class, the share that is of it.

    Args:
      num_classes: classes of the outputs; every one counts, seen or not.
      average: ``"macro"`` (mean over classes), ``"weighted"`` (by support), ``"micro"`` (all counts together),
        ``"binary"`` (class 1 of two) or ``"none"`` (one value a class, ``[k]``).
      zero_division: the value of 0 / 0 (a class never predicted): 0, 1 or NaN; NaN leaves the class out of averages.

    >>> from jaxmodels import metrics
    >>> logits, labels = jnp.array([3.0, -1.0, 2.0]), jnp.array([1, 0, 0])
    >>> metrics.compute(metrics.precision(2, average="none"), logits, labels).tolist()
    [1.0, 0.5]
    """
    return _ratio(num_classes, average, zero_division, lambda true, actual, predicted: (true, predicted))


@cached_factory
def recall(num_classes: int, *, average: Average = "macro", zero_division: float = 0.0) -> Metric:
    """Of what is of a class, the share predicted as it (sensitivity; of class 0 of two: specificity).

    Arguments as those of ``precision``; 0 / 0 is a class without examples.
    """
    return _ratio(num_classes, average, zero_division, lambda true, actual, predicted: (true, actual))


@cached_factory
def f1(num_classes: int, *, average: Average = "macro", zero_division: float = 0.0) -> Metric:
    """The harmonic mean of precision and recall.

    Arguments as those of ``precision``; 0 / 0 is a class neither present nor predicted.
    """
    return _ratio(num_classes, average, zero_division, lambda true, actual, predicted: (2 * true, actual + predicted))


def _ratio(num_classes: int, average: Average, zero_division: float, parts: Callable) -> Metric:
    if average not in ("macro", "micro", "weighted", "binary", "none"):
        raise InputError(f"average must be macro, micro, weighted, binary or none, got {average!r}")
    if average == "binary" and num_classes != 2:
        raise InputError(f'average="binary" needs num_classes=2, got {num_classes}: use "macro" or "none"')

    def value(matrix):
        true, actual, predicted = jnp.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
        if average == "micro":
            true, actual, predicted = true.sum(), actual.sum(), predicted.sum()
        numerator, denominator = parts(true, actual, predicted)
        defined = denominator != 0
        ratio = jnp.where(defined, numerator / jnp.where(defined, denominator, 1), zero_division)
        if average == "binary":
            return ratio[1]
        if average in ("micro", "none"):
            return ratio
        share = jnp.ones_like(ratio) if average == "macro" else actual
        return _average(ratio, share, counted=defined | (zero_division == zero_division), otherwise=zero_division)

    return _of_confusion(num_classes, value)


def _average(values: Array, shares: Array, *, counted: Array, otherwise: float = jnp.nan) -> Array:
    """The mean of the counted values by shares (evenly where these are 0); ``otherwise`` where none is counted."""
    shares = jnp.where(counted, shares, 0)
    shares = jnp.where(shares.sum() == 0, jnp.where(counted, 1.0, 0.0), shares)
    whole = shares.sum()
    mean = jnp.sum(jnp.where(shares != 0, values * shares, 0)) / jnp.where(whole == 0, 1, whole)
    return jnp.where(whole == 0, otherwise, mean)


@cached_factory
def balanced_accuracy(num_classes: int) -> Metric:
    """The mean recall of the classes that have examples; NaN where none has."""

    def value(matrix):
        support = matrix.sum(axis=1)
        recalls = jnp.diagonal(matrix) / jnp.where(support == 0, 1, support)
        return _average(recalls, jnp.ones_like(recalls), counted=support != 0)

    return _of_confusion(num_classes, value)


@cached_factory
def cohen_kappa(num_classes: int, *, weighting: Literal["none", "linear", "quadratic"] = "none") -> Metric:
    """Agreement beyond chance, ``1 - observed / expected`` disagreement (Cohen 1960, 1968).

    Args:
      num_classes: classes of the outputs.
      weighting: how a disagreement counts with the distance of the classes: the same, ``|i - j|`` or ``(i - j)^2``.

    Returns:
      A metric of value 1 (perfect) down to -1; NaN where both have one and the same class only, or nothing was seen.
    """
    distance = abs(np.arange(num_classes)[:, None] - np.arange(num_classes))
    cost = {"none": np.minimum(distance, 1), "linear": distance, "quadratic": distance**2}
    if weighting not in cost:
        raise InputError(f"weighting must be none, linear or quadratic, got {weighting!r}")

    def value(matrix):
        actual, predicted = _shares(matrix)
        observed = jnp.sum(cost[weighting] * matrix) / matrix.sum()
        expected = jnp.sum(cost[weighting] * jnp.outer(actual, predicted))
        return 1 - observed / expected

    return _of_confusion(num_classes, value)


@cached_factory
def matthews_correlation(num_classes: int) -> Metric:
    """The correlation of actual and predicted classes, -1 to 1 (Matthews 1975; Gorodkin 2004 for more than two).

    0 where either has one class only, as in scikit-learn; NaN where nothing was seen.
    """
    apart = 1 - np.eye(num_classes, dtype=np.int32)

    def value(matrix):
        actual, predicted = _shares(matrix)
        agreement = jnp.trace(matrix) / matrix.sum() - jnp.sum(actual * predicted)
        # 1 - sum(share^2) without its cancellation: exactly 0 for one class alone.
        spread = jnp.sum(jnp.outer(actual, actual) * apart) * jnp.sum(jnp.outer(predicted, predicted) * apart)
        return jnp.where(spread == 0, 0, agreement / jnp.sqrt(jnp.where(spread == 0, 1, spread)))

    return _of_confusion(num_classes, value)


def _shares(matrix: Float[Array, "k k"]) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """Shares of actual and predicted classes."""
    actual, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    return actual / actual.sum(), predicted / predicted.sum()

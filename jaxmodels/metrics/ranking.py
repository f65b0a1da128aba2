"""Metrics of a ranking, exact and with ties: ROC and precision-recall curves, and the areas under them.

They need every score at once, so they are plain functions of whole arrays (``evaluate.collect`` gathers them) and not
accumulators: a mergeable accumulator would either hold all scores too, or bin them and be wrong about ties.

``scores`` ``[n]`` rank rows from unlike class 1 to like it: a logit, a probability, anything monotone. Of softmax
outputs take ``log_odds``, which orders rows as probabilities do but never rounds two of them to the same 1.0.
Rows of weight 0 are as if absent. A row that counts and has a NaN score, or a label other than 0 and 1, makes the
result NaN.

Shapes are static under jit: a curve of ``n`` scores has ``n + 1`` points, of which the first ``num_points`` are the
curve, one per distinct score from the highest down, and the rest repeat the last. ``trim`` cuts them off on the host.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm
from jaxtyping import Array, Bool, Float, Int, Num

from jaxmodels.core import InputError
from jaxmodels.metrics.accumulate import at_least_float32, row_weights, total
from jaxmodels.metrics.classification import two_sided

Average = Literal["macro", "weighted", "none"]


class RocCurve(NamedTuple):
    """From (0, 0), where nothing is called positive, to (1, 1), where everything is."""

    false_positive_rate: Float[Array, " n+1"]
    """NaN where no row is negative."""
    true_positive_rate: Float[Array, " n+1"]
    """NaN where no row is positive."""
    thresholds: Float[Array, " n+1"]
    """Positive is ``score >= threshold``; the first is infinity."""
    num_points: Int[Array, ""]


class PrecisionRecallCurve(NamedTuple):
    """From recall 0, where precision is 1 by convention, to recall 1 (scikit-learn's, reversed)."""

    precision: Float[Array, " n+1"]
    recall: Float[Array, " n+1"]
    """NaN where no row is positive."""
    thresholds: Float[Array, " n+1"]
    """Positive is ``score >= threshold``; the first is infinity."""
    num_points: Int[Array, ""]


class Interval(NamedTuple):
    """A confidence interval."""

    low: Float[Array, ""]
    high: Float[Array, ""]


Curve = TypeVar("Curve", RocCurve, PrecisionRecallCurve)


def trim(curve: Curve) -> Curve:
    """The curve's own points as NumPy arrays, on the host.

    >>> curve = trim(roc_curve(jnp.array([0.1, 0.9, 0.9]), jnp.array([0, 1, 0])))
    >>> curve.false_positive_rate.tolist(), curve.true_positive_rate.tolist()
    ([0.0, 0.5, 1.0], [0.0, 1.0, 1.0])
    """
    count = int(curve.num_points)
    return curve._replace(**{name: np.asarray(getattr(curve, name))[:count] for name in curve._fields[:3]})


@jax.jit
def log_odds(outputs: Num[Array, "n ..."]) -> Float[Array, "n k"]:
    """``log(p / (1 - p))`` of every class's softmax probability: that class against the rest.

    For two classes the difference of the logits. Ranks rows as ``p`` does, also where ``p`` rounds to 1.

    >>> log_odds(jnp.array([[100.0, 0.0], [200.0, 0.0]])).tolist()
    [[100.0, -100.0], [200.0, -200.0]]
    """
    logits = two_sided(outputs)
    largest = jax.nn.one_hot(logits.argmax(axis=1), logits.shape[1], dtype=bool)
    log_p = jax.nn.log_softmax(logits)
    # Only the largest can be above 1/2, where log(1 - p) cancels; there the others are summed instead.
    others = logsumexp(jnp.where(largest, -jnp.inf, logits), axis=1, keepdims=True)
    return jnp.where(largest, logits - others, log_p - jnp.log1p(-jnp.exp(jnp.where(largest, -1, log_p))))


class _Ranked(NamedTuple):
    """Weights called positive at each distinct score, from the highest down; the first point calls none."""

    true_positives: Float[Array, " n+1"]
    false_positives: Float[Array, " n+1"]
    thresholds: Float[Array, " n+1"]
    num_points: Int[Array, ""]


def _rank(scores: Num[Array, " n"], labels: Num[Array, " n"], weights: Num[Array, " n"] | None) -> _Ranked:
    scores, positive, weights = _read(scores, labels, weights)
    kept = weights != 0
    # Rows that do not count go last, whatever their score.
    order = jnp.lexsort((-scores, ~kept))
    scores, positive, weights, kept = (each[order] for each in (scores, positive, weights, kept))
    true_positives = jnp.cumsum(jnp.where(positive, weights, 0))
    false_positives = jnp.cumsum(jnp.where(positive, 0, weights))
    next_differs = jnp.append((scores[1:] != scores[:-1]) | ~kept[1:], True)
    last_of_ties = kept & next_differs
    count = last_of_ties.sum()
    index = jnp.nonzero(last_of_ties, size=scores.shape[0], fill_value=0)[0]
    index = jnp.where(jnp.arange(scores.shape[0]) < count, index, index[jnp.maximum(count - 1, 0)])

    def points(values, first):
        # Where no row counts, every point is the first.
        return jnp.concatenate([jnp.full(1, first, values.dtype), jnp.where(count > 0, values[index], first)])

    return _Ranked(points(true_positives, 0), points(false_positives, 0), points(scores, jnp.inf), count + 1)


def _read(scores, labels, weights) -> tuple[Float[Array, " n"], Bool[Array, " n"], Float[Array, " n"]]:
    """Scores, whether positive, and weights, NaN for rows that count and cannot be used."""
    scores, labels = at_least_float32(scores), jnp.asarray(labels)
    if scores.ndim != 1 or scores.shape[0] == 0 or labels.shape != scores.shape:
        raise InputError(
            f"scores and labels must both be [n], n > 0, but have shapes {scores.shape} and {labels.shape}"
        )
    weights = row_weights(weights, scores.shape[0])
    kept = weights != 0
    usable = ~jnp.isnan(scores) & ((labels == 0) | (labels == 1))
    weights = jnp.where(kept & ~usable, jnp.nan, weights)
    return jnp.where(kept & usable, scores, 0), labels == 1, weights


@jax.jit
def roc_curve(
    scores: Num[Array, " n"], labels: Num[Array, " n"], *, weights: Num[Array, " n"] | None = None
) -> RocCurve:
    """The exact receiver operating characteristic.

    Args:
      scores: ``[n]``, higher for class 1.
      labels: ``[n]``, 0 or 1 (or bool).
      weights: ``[n]``, not negative; 0 is padding; all 1 where ``None``.

    Returns:
      A ``RocCurve`` of ``n + 1`` points, padded with its last.
    """
    ranked = _rank(scores, labels, weights)
    return RocCurve(
        ranked.false_positives / ranked.false_positives[-1],
        ranked.true_positives / ranked.true_positives[-1],
        ranked.thresholds,
        ranked.num_points,
    )


@jax.jit
def precision_recall_curve(
    scores: Num[Array, " n"], labels: Num[Array, " n"], *, weights: Num[Array, " n"] | None = None
) -> PrecisionRecallCurve:
    """Precision and recall at every threshold; arguments as those of ``roc_curve``."""
    ranked = _rank(scores, labels, weights)
    called = ranked.true_positives + ranked.false_positives
    return PrecisionRecallCurve(
        jnp.where(called == 0, 1, ranked.true_positives / jnp.where(called == 0, 1, called)),
        ranked.true_positives / ranked.true_positives[-1],
        ranked.thresholds,
        ranked.num_points,
    )


@functools.partial(jax.jit, static_argnames="average")
def roc_auc(
    scores: Num[Array, "n *k"],
    labels: Num[Array, " n"],
    *,
    weights: Num[Array, " n"] | None = None,
    average: Average = "macro",
) -> Float[Array, "*k"]:
    """The area under the ROC curve: the chance that a positive row outranks a negative one, ties half.

    Args:
      scores: ``[n]`` for two classes; ``[n, k]`` (``log_odds`` of the outputs) for each class against the rest.
      labels: ``[n]``, class numbers.
      weights: ``[n]``, not negative; 0 is padding; all 1 where ``None``.
      average: with ``[n, k]``, ``"macro"`` (mean over classes), ``"weighted"`` (by support) or ``"none"`` (``[k]``).

    Returns:
      A number or ``[k]``; NaN where a class has no rows, or nothing but rows. Averages leave such classes out.

    >>> roc_auc(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])).item()
    0.75
    """

    def area(scores, labels, weights):
        ranked = _rank(scores, labels, weights)
        true, false = ranked.true_positives, ranked.false_positives
        # Of counts, not of rates: products and their sum are then exact for whole weights.
        return total(jnp.diff(false) * (true[1:] + true[:-1]) / 2).value / true[-1] / false[-1]

    return _by_class(area, scores, labels, weights, average)


@functools.partial(jax.jit, static_argnames="average")
def average_precision(
    scores: Num[Array, "n *k"],
    labels: Num[Array, " n"],
    *,
    weights: Num[Array, " n"] | None = None,
    average: Average = "macro",
) -> Float[Array, "*k"]:
    """The mean of precision over recall, ``sum((R_i - R_{i-1}) P_i)``, without interpolation.

    Arguments as those of ``roc_auc``. NaN where no row is positive (scikit-learn warns and says 0).

    >>> round(average_precision(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])).item(), 6)
    0.833333
    """

    def area(scores, labels, weights):
        ranked = _rank(scores, labels, weights)
        true, called = ranked.true_positives, ranked.true_positives + ranked.false_positives
        precision = true[1:] / jnp.where(called[1:] == 0, 1, called[1:])
        return total(jnp.diff(true) * precision).value / true[-1]

    return _by_class(area, scores, labels, weights, average)


def _by_class(area: Callable, scores, labels, weights, average: Average) -> Array:
    """``area`` of one column, or of each class against the rest."""
    if average not in ("macro", "weighted", "none"):
        raise InputError(f"average must be macro, weighted or none, got {average!r}")
    scores, labels = jnp.asarray(scores), jnp.asarray(labels)
    if scores.ndim == 1:
        return area(scores, labels, weights)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise InputError(f"scores must be [n] or [n, k] and labels [n], got {scores.shape} and {labels.shape}")
    count, num_classes = scores.shape
    weights = row_weights(weights, count)
    known = (labels >= 0) & (labels < num_classes) & (labels == labels.astype(jnp.int32))

    def one_class(column):
        index, of_class = column
        # A label that is no class is left as it is not allowed to be: neither 0 nor 1.
        return area(of_class, jnp.where(known, labels == index, -1), weights)

    areas = jax.lax.map(one_class, (jnp.arange(num_classes), scores.T))
    if average == "none":
        return areas
    kept_labels = jnp.where(known & (weights != 0), labels, 0).astype(jnp.int32)
    support = jnp.zeros(num_classes, weights.dtype).at[kept_labels].add(jnp.where(known, weights, 0))
    unusable = jnp.any((weights != 0) & (~known | jnp.isnan(scores).any(axis=1)))
    defined = ~jnp.isnan(areas)
    shares = jnp.where(defined, 1.0 if average == "macro" else support, 0)
    mean = jnp.sum(jnp.where(defined, areas, 0) * shares) / shares.sum()
    return jnp.where(unusable, jnp.nan, mean)


@functools.partial(jax.jit, static_argnames="level")
def roc_auc_interval(
    scores: Num[Array, " n"], labels: Num[Array, " n"], *, weights: Num[Array, " n"] | None = None, level: float = 0.95
) -> Interval:
    """A confidence interval of the binary AUC by DeLong's nonparametric variance, cut to [0, 1].

    The variance of the AUC is that of the mean of each positive row's share of negatives below it, plus the same of
    each negative row's share of positives above it. Weights other than 0 and 1 enter by Kish's effective number of
    rows. An AUC of exactly 0 or 1 has variance 0 and an interval of no width: there the method knows no more.

    Args:
      scores: ``[n]``, higher for class 1.
      labels: ``[n]``, 0 or 1.
      weights: ``[n]``, not negative; 0 is padding; all 1 where ``None``.
      level: coverage.

    Returns:
      An ``Interval``; NaN below two rows of either class.

    DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988; midranks by sorting as Sun and Xu, 2014.
    """
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, got {level}")
    scores, positive, weights = _read(scores, labels, weights)
    below = _share_below(scores, jnp.where(positive, 0, weights))
    above = 1 - _share_below(scores, jnp.where(positive, weights, 0))
    area, of_positives = _mean_and_variance(below, jnp.where(positive, weights, 0))
    _, of_negatives = _mean_and_variance(above, jnp.where(positive, 0, weights))
    half = norm.ppf((1 + level) / 2).astype(area.dtype) * jnp.sqrt(of_positives + of_negatives)
    return Interval(jnp.clip(area - half, 0, 1), jnp.clip(area + half, 0, 1))


def _share_below(scores: Float[Array, " n"], weights: Float[Array, " n"]) -> Float[Array, " n"]:
    """For each score, the share of ``weights`` at lower scores, and half of that at the same."""
    order = jnp.argsort(scores)
    ordered = scores[order]
    cumulative = jnp.concatenate([jnp.zeros(1, weights.dtype), jnp.cumsum(weights[order])])
    lower, up_to = (cumulative[jnp.searchsorted(ordered, scores, side=side)] for side in ("left", "right"))
    return (lower + up_to) / 2 / cumulative[-1]


def _mean_and_variance(values: Float[Array, " n"], weights: Float[Array, " n"]) -> tuple[Array, Array]:
    """A weighted mean and the variance of that mean; NaN below two effective rows."""
    share = weights / weights.sum()
    mean = jnp.sum(jnp.where(share != 0, share * values, 0))
    effective = 1 / jnp.sum(share**2)
    variance = jnp.sum(jnp.where(share != 0, share * (values - mean), 0) ** 2) * effective / (effective - 1)
    return mean, jnp.where(jnp.sum(weights != 0) < 2, jnp.nan, variance)

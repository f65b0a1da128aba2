"""Metrics of predicted numbers. ``outputs`` and ``targets`` are ``[n]`` or ``[n, d]``; ``[n, 1]`` meets ``[n]``.

    r2 = 1 - sum(w (y - p)^2) / sum(w (y - mean(y))^2)

Spread is accumulated around the running mean, so that data far from zero keep their digits in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxmodels.core import Batch, InputError, cached_factory
from jaxmodels.metrics.accumulate import (
    Metric,
    Moments,
    Sum,
    at_least_float32,
    mean,
    merge_moments,
    merge_sums,
    moments,
    no_moments,
    row_weights,
    total,
    zero,
)


def same_shape(outputs: Num[Array, "n ..."], targets: Num[Array, "n ..."]) -> tuple[Array, Array]:
    """Both in float32 or wider and of one shape; never broadcast ``[n, 1]`` against ``[n]`` to ``[n, n]``."""
    outputs, targets = at_least_float32(outputs), at_least_float32(targets)
    if outputs.shape == (*targets.shape, 1) or targets.shape == (*outputs.shape, 1):
        outputs = outputs.reshape(targets.shape)
    if outputs.shape != targets.shape:
        raise InputError(f"outputs and targets must have one shape, got {outputs.shape} and {targets.shape}")
    return outputs, targets


def _absolute(outputs, targets):
    outputs, targets = same_shape(outputs, targets)
    return jnp.abs(targets - outputs)


def _squared(outputs, targets):
    outputs, targets = same_shape(outputs, targets)
    return (targets - outputs) ** 2


def _relative(outputs, targets):
    outputs, targets = same_shape(outputs, targets)
    return jnp.abs(targets - outputs) / jnp.maximum(jnp.abs(targets), jnp.finfo(targets.dtype).eps)


@cached_factory
def mean_squared_error() -> Metric:
    """The mean of ``(target - output)^2``, in squared units of the target; NaN where nothing was seen."""
    return mean(_squared)


@cached_factory
def mean_absolute_error() -> Metric:
    """The mean of ``|target - output|``, in units of the target; NaN where nothing was seen.

    >>> from jaxmodels import metrics
    >>> metrics.compute(metrics.mean_absolute_error(), jnp.array([1.0, 4.0]), jnp.array([2.0, 2.0])).item()
    1.5
    """
    return mean(_absolute)


@cached_factory
def mean_absolute_percentage_error() -> Metric:
    """The mean of ``|target - output| / |target|``: a fraction, 0.1 for 10 %.

    A target of 0 divides by the dtype's epsilon, and so makes the value huge, as in scikit-learn.
    """
    return mean(_relative)


@cached_factory
def pinball(quantile: float = 0.5) -> Metric:
    """The loss that a predicted quantile minimises: ``q (y - p)`` above it, ``(1 - q) (p - y)`` below.

    Args:
      quantile: ``q``, between 0 and 1; 0.5 gives half of the mean absolute error.

    Koenker and Bassett, Regression quantiles, 1978.
    """
    if not 0 <= quantile <= 1:
        raise InputError(f"quantile must be between 0 and 1, got {quantile}")

    def loss(outputs, targets):
        outputs, targets = same_shape(outputs, targets)
        error = targets - outputs
        return jnp.maximum(quantile * error, (quantile - 1) * error)

    return mean(loss)


class Fit(NamedTuple):
    """What squared errors and spreads are computed from, a column an output."""

    rows: Sum
    """Rows of weight not 0."""
    squared_error: Sum
    """``sum(w (y - p)^2)``, ``[d]``."""
    targets: Moments
    errors: Moments


def _of_fit(num_outputs: int, value) -> Metric:
    if num_outputs < 1:
        raise InputError(f"num_outputs must be 1 or more, got {num_outputs}")

    def init():
        return Fit(zero(), zero((num_outputs,)), no_moments((num_outputs,)), no_moments((num_outputs,)))

    def update(acc, outputs, batch):
        return merge(acc, _fit(outputs, batch, num_outputs))

    def merge(a, b):
        rows, squared = merge_sums(a[:2], b[:2])
        return Fit(rows, squared, merge_moments(a.targets, b.targets), merge_moments(a.errors, b.errors))

    return Metric(init, update, merge, value)


def _fit(outputs: Num[Array, "n ..."], batch: Batch, num_outputs: int) -> Fit:
    outputs, targets = same_shape(outputs, batch.targets)
    count = targets.shape[0]
    if targets.shape[1:] != ((num_outputs,) if targets.ndim == 2 else ()) or (targets.ndim == 1 and num_outputs != 1):
        raise InputError(f"num_outputs is {num_outputs}, but targets have shape {targets.shape}: use [n, num_outputs]")
    weights = row_weights(batch.weights, count)
    kept = (weights != 0)[:, None]
    outputs, targets = (jnp.where(kept, x.reshape(count, num_outputs), 0) for x in (outputs, targets))
    errors = targets - outputs
    seen = total(jnp.where(weights != 0, 1.0, 0.0))
    return Fit(seen, total(weights[:, None] * errors**2), moments(targets, weights), moments(errors, weights))


def _explained(unexplained: Float[Array, " d"], spread: Float[Array, " d"]) -> Float[Array, ""]:
    """``1 - unexplained / spread``, the mean over outputs; without spread 1 for no error and 0 for any."""
    perfect = jnp.where(unexplained == 0, 1.0, 0.0)
    perfect = jnp.where(jnp.isnan(unexplained), jnp.nan, perfect)
    return jnp.mean(jnp.where(spread == 0, perfect, 1 - unexplained / jnp.where(spread == 0, 1, spread)))


@cached_factory
def root_mean_squared_error(*, num_outputs: int = 1) -> Metric:
    """The root of the mean squared error, in units of the target; the mean over ``num_outputs`` columns."""

    def value(fit: Fit):
        return jnp.mean(jnp.sqrt(fit.squared_error.value / fit.targets.weight.value))

    return _of_fit(num_outputs, value)


@cached_factory
def r2(*, num_outputs: int = 1) -> Metric:
    """The coefficient of determination: the share of the targets' spread that the outputs explain.

    Args:
      num_outputs: columns of ``targets``; the value is the mean over them.

    Returns:
      A metric of value 1 (perfect) down to minus infinity; for constant targets 1 where the outputs equal them, else 0;
      NaN below two rows.

    >>> from jaxmodels import metrics
    >>> metrics.compute(metrics.r2(), jnp.array([1.0, 2.0, 4.0]), jnp.array([1.0, 2.0, 3.0])).item()
    0.5
    """

    def value(fit: Fit):
        return jnp.where(fit.rows.value < 2, jnp.nan, _explained(fit.squared_error.value, fit.targets.squares.value))

    return _of_fit(num_outputs, value)


@cached_factory
def explained_variance(*, num_outputs: int = 1) -> Metric:
    """As ``r2``, but a constant error costs nothing: ``1 - var(target - output) / var(target)``.

    NaN where nothing was seen.
    """

    def value(fit: Fit):
        explained = _explained(fit.errors.squares.value, fit.targets.squares.value)
        return jnp.where(fit.rows.value == 0, jnp.nan, explained)

    return _of_fit(num_outputs, value)

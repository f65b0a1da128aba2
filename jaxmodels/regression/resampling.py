"""Bootstrap, permutation test and jackknife of least squares, thousands of fits in bounded memory.

    pairs       rows drawn with replacement: counts that multiply the weights, so that no row is copied
    residual    y* = fitted + drawn residuals, centred,  e_i / sqrt(1 - h_i)
    wild        y* = fitted + v_i e_i / sqrt(1 - h_i),   v_i = +1 or -1: its covariance is HC2
    jackknife   b_(i) = b - C x_i w_i e_i / (1 - h_i),   C = (X'WX + P)^-1: no refit
    permutation t and F of permuted residuals of the model without the tested column (Freedman and Lane)

All but pairs share one factorisation with the fit. Parameters stand as ``intercept, coefficients``. Rows of weight 0
change no result: every draw is by rank among the rows that count.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), also for BCa; Wu, Jackknife, bootstrap and other
resampling methods in regression analysis (1986); Freedman and Lane (1983); Phipson and Smyth (2010).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Bool, Float, Int, Key

from jaxmodels.core import InputError, Solution, check_count
from jaxmodels.regression import inputs, linear
from jaxmodels.regression.diagnostics import HIGHEST, Rows, column_of, estimates, leverages, rows_of, uncentered
from jaxmodels.regression.inputs import Data

KINDS = ("pairs", "residual", "wild")
SCHEMES = ("freedman_lane", "response")
# Elements that the default batch_size allows in the copies of the design.
_BUDGET = 2**24


class Bootstrap(NamedTuple):
    """The distribution of an estimate over resampled data."""

    estimate: Float[Array, "p *k"]
    samples: Float[Array, "b p *k"]
    """NaN where a resample does not determine as many parameters as the data did; such samples do not count below."""
    num_samples: Int[Array, ""]
    """Samples that count."""
    bias: Float[Array, "p *k"]
    """Mean of the samples less the estimate."""
    standard_error: Float[Array, "p *k"]
    percentile_interval: Float[Array, "p *k 2"]
    bca_interval: Float[Array, "p *k 2"]
    """Bias-corrected and accelerated; the acceleration is the jackknife's."""


class Jackknife(NamedTuple):
    """The estimates without each row in turn."""

    estimate: Float[Array, "p *k"]
    samples: Float[Array, "n p *k"]
    """Row i: without row i; the estimate itself where row i does not count."""
    bias: Float[Array, "p *k"]
    """``(n - 1) (mean of the samples - estimate)``."""
    standard_error: Float[Array, "p *k"]


class PermutationTest(NamedTuple):
    """How often permuted data look as extreme."""

    statistic: Float[Array, "d *k"]
    """t of each coefficient."""
    p_value: Float[Array, "d *k"]
    """Two-sided, ``(1 + permutations as extreme) / (1 + num_samples)``: never 0."""
    f_statistic: Float[Array, "*k"]
    f_p_value: Float[Array, "*k"]
    """Of no effect at all, from permuted targets: exact for exchangeable noise."""


class _Options(NamedTuple):
    """What does not change from fit to fit; hashable."""

    intercept: bool
    method: str

    def fit(self, data: Data, y: Array, weights: Array) -> Solution:
        l2 = 0.0 if data.l2 is None else data.l2
        return linear.fit(data.x, y, weights=weights, l2=l2, intercept=self.intercept, method=self.method)  # type: ignore


def bootstrap(
    key: Key[Array, ""],
    x: Float[Array, "n d"],
    y: Float[Array, "n *k"],
    *,
    num_samples: int = 1000,
    kind: Literal["pairs", "residual", "wild"] = "pairs",
    weights: Float[Array, " n"] | None = None,
    mask: Bool[Array, " n"] | None = None,
    offset: Float[Array, "n *k"] | None = None,
    l2: Float[Array, "*d"] | float = 0.0,
    intercept: bool = True,
    method: Literal["qr", "svd", "cholesky"] = "qr",
    confidence: float = 0.95,
    batch_size: int | None = None,
) -> Bootstrap:
    """Standard errors and intervals without a formula for either.

    Args:
      key: of the draws; the same key, the same samples.
      x, y, weights, mask, offset, l2, intercept, method: as in ``linear.fit``.
      num_samples: resampled fits.
      kind: ``"pairs"`` draws rows: valid whatever the noise. ``"residual"`` keeps x and draws residuals: for noise of
        equal variance (inverse to the weights). ``"wild"`` keeps x and flips residuals: for noise of unequal variance.
      confidence: of both intervals.
      batch_size: fits at a time; by default as many as keep their copies of the design near 2^24 numbers.

    Raises:
      InputError: an argument that no fit can use, or one of those above out of range.

    >>> x = jnp.linspace(0.0, 1.0, 30)[:, None]
    >>> y = 1 + 2 * x[:, 0] + 0.1 * jax.random.normal(jax.random.key(0), (30,))
    >>> result = bootstrap(jax.random.key(1), x, y, num_samples=200, kind="wild")
    >>> low, high = result.bca_interval[1]
    >>> bool((low < 2) & (2 < high)), result.samples.shape
    (True, (200, 2))
    """
    if kind not in KINDS:
        raise InputError(f"kind: {kind!r} is none of {', '.join(KINDS)}")
    _check_counts(num_samples, batch_size)
    if not 0 < confidence < 1:
        raise InputError(f"confidence: {confidence} is not between 0 and 1; 95% is 0.95")
    data = inputs.read(x, y, weights=weights, mask=mask, offset=offset, l2=l2)
    size = data.x.size if kind == "pairs" else data.y.size
    batch_size = max(1, min(num_samples, _BUDGET // size)) if batch_size is None else batch_size
    keys = jax.random.split(key, num_samples)
    return _bootstrap(keys, data, confidence, kind=kind, options=_Options(intercept, method), batch_size=batch_size)


def jackknife(
    x: Float[Array, "n d"],
    y: Float[Array, "n *k"],
    *,
    weights: Float[Array, " n"] | None = None,
    mask: Bool[Array, " n"] | None = None,
    offset: Float[Array, "n *k"] | None = None,
    l2: Float[Array, "*d"] | float = 0.0,
    intercept: bool = True,
    method: Literal["qr", "svd", "cholesky", "certified"] = "qr",
) -> Jackknife:
    """All n fits without one row, from the leverages of a single fit; equal to the refits to rounding.

    Args:
      x, y, weights, mask, offset, l2, intercept, method: as in ``linear.fit``.

    Returns:
      The ``Jackknife``; not finite where a row alone decides a coefficient (leverage 1).

    >>> x, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([0.0, 1.0, 5.0])
    >>> jackknife(x, y).samples[:, 1].round().tolist()       # slopes of the lines through the other two
    [4.0, 2.0, 1.0]
    """
    data = inputs.read(x, y, weights=weights, mask=mask, offset=offset, l2=l2)
    solution = linear.fit(
        x, y, weights=weights, mask=mask, offset=offset, l2=l2, intercept=intercept, method=method
    )  # fmt: skip
    rows = rows_of(solution, data)
    samples = _without_each_row(solution, rows)
    estimate, counts = estimates(solution), rows.weights > 0
    n = jnp.sum(counts)
    change = jnp.where(counts.reshape(-1, *[1] * estimate.ndim), samples - estimate, 0)
    mean = jnp.sum(change, axis=0) / n
    spread = jnp.sum(jnp.where(counts.reshape(-1, *[1] * estimate.ndim), (change - mean) ** 2, 0), axis=0)
    return Jackknife(estimate, samples, (n - 1) * mean, jnp.sqrt((n - 1) / n * spread))


def permutation_test(
    key: Key[Array, ""],
    x: Float[Array, "n d"],
    y: Float[Array, "n *k"],
    *,
    num_samples: int = 999,
    kind: Literal["freedman_lane", "response"] = "freedman_lane",
    weights: Float[Array, " n"] | None = None,
    mask: Bool[Array, " n"] | None = None,
    offset: Float[Array, "n *k"] | None = None,
    intercept: bool = True,
    method: Literal["qr", "svd", "cholesky", "certified"] = "qr",
    batch_size: int | None = None,
) -> PermutationTest:
    """p-values from permutations instead of a distribution.

    Args:
      key: of the permutations.
      x, y, weights, mask, offset, intercept, method: as in ``linear.fit``. Weighted residuals are what is permuted.
      num_samples: permutations; the smallest possible p-value is ``1 / (1 + num_samples)``.
      kind: ``"freedman_lane"`` permutes, for each coefficient, the residuals of the model without it: the other
        coefficients keep their effects. ``"response"`` permutes the targets: only right where none has an effect.
      batch_size: permutations at a time; by default as in ``bootstrap``.

    >>> x = jax.random.normal(jax.random.key(0), (40, 2))
    >>> y = x[:, 0] + jax.random.normal(jax.random.key(1), (40,))
    >>> p_value = permutation_test(jax.random.key(2), x, y).p_value
    >>> bool(p_value[0] < 0.01), bool(p_value[1] > 0.05)
    (True, True)
    """
    if kind not in SCHEMES:
        raise InputError(f"kind: {kind!r} is none of {', '.join(SCHEMES)}")
    _check_counts(num_samples, batch_size)
    data = inputs.read(x, y, weights=weights, mask=mask, offset=offset)
    tested = data.x.shape[1] if kind == "freedman_lane" else 0
    batch_size = max(1, min(num_samples, _BUDGET // (data.y.size * (tested + 1)))) if batch_size is None else batch_size
    keys = jax.random.split(key, num_samples)
    return _permutation_test(keys, data, kind=kind, options=_Options(intercept, method), batch_size=batch_size)


# Draws ---------------------------------------------------------------------------------------------------------------


def _ranked(data: Data) -> tuple[Data, Array, Array]:
    """The data with the rows that count in front, their weights (0 behind them), and their number."""
    weights = jnp.ones_like(data.x[:, 0]) if data.weights is None else data.weights
    counts = (weights > 0) if data.mask is None else (weights > 0) & data.mask
    order = jnp.argsort(~counts, stable=True)
    counts = counts[order]
    y = data.y if data.offset is None else data.y - data.offset
    x, y = jnp.where(counts[:, None], data.x[order], 0), jnp.where(column_of(counts, y), y[order], 0)
    weights = jnp.where(counts, weights[order], 0)
    ranked = data._replace(x=x, y=y, weights=weights, mask=None, offset=None, x_low=None, y_low=None)
    return ranked, weights, jnp.sum(counts)


def _draw(key: Array, size: int, num_rows: Array) -> Array:
    """``size`` ranks below ``num_rows``; the first draws do not depend on ``size``."""
    return jnp.minimum((jax.random.uniform(key, (size,)) * num_rows).astype(jnp.int32), num_rows - 1)


def _shuffle(key: Array, size: int, num_rows: Array) -> Array:
    """A permutation of the first ``num_rows`` ranks; the others stay."""
    ranks = jnp.arange(size)
    return jnp.argsort(jnp.where(ranks < num_rows, jax.random.uniform(key, (size,)), 1.0 + ranks), stable=True)


# Bootstrap -----------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("kind", "options", "batch_size"))
def _bootstrap(keys, data: Data, confidence, *, kind: str, options: _Options, batch_size: int) -> Bootstrap:
    data, weights, num_rows = _ranked(data)
    solution = options.fit(data, data.y, weights)
    rows = rows_of(solution, data)
    if kind == "pairs":
        sample = functools.partial(_pairs, data, weights, num_rows, options, solution)
        samples = jax.lax.map(sample, keys, batch_size=batch_size)
    else:
        draw = _drawn_residuals(rows, num_rows) if kind == "residual" else _flipped_residuals(rows)
        samples = _same_design(draw, keys, solution, rows, batch_size)
    replicates = jnp.where(
        weights.reshape(-1, *[1] * (samples.ndim - 1)) > 0, _without_each_row(solution, rows), jnp.nan
    )
    return _summarise(estimates(solution), samples, replicates, confidence)


def _pairs(data: Data, weights: Array, num_rows: Array, options: _Options, full: Solution, key: Array) -> Array:
    size = weights.size
    drawn = _draw(key, size, num_rows)
    used = jnp.where(jnp.arange(size) < num_rows, drawn, size)  # the row behind the last is dropped
    copies = jnp.zeros_like(weights).at[used].add(1, mode="drop")
    solution = options.fit(data, data.y, weights * copies)
    return jnp.where(solution.stats.rank >= full.stats.rank, estimates(solution), jnp.nan)


def _drawn_residuals(rows: Rows, num_rows: Array) -> Callable[[Array], Array]:
    """Weighted residuals of equal variance, drawn with replacement."""
    scaled = _standardised(rows)
    counts = column_of(rows.weights > 0, scaled)
    centred = jnp.where(counts, scaled - jnp.sum(scaled, axis=0) / num_rows, 0)
    return lambda key: jnp.where(counts, centred[_draw(key, len(scaled), num_rows)], 0)


def _flipped_residuals(rows: Rows) -> Callable[[Array], Array]:
    scaled = _standardised(rows)
    return lambda key: scaled * column_of(jnp.sign(jax.random.uniform(key, scaled.shape[:1]) - 0.5), scaled)


def _standardised(rows: Rows) -> Array:
    """``sqrt(w) e / sqrt(1 - h)``; a row that alone decides a coefficient has no residual to give."""
    rest = 1 - leverages(rows)
    scale = jnp.where(rest > 0, jnp.sqrt(rows.weights / jnp.where(rest > 0, rest, 1)), 0)
    return rows.residuals * column_of(scale, rows.residuals)


def _same_design(draw: Callable, keys: Array, solution: Solution, rows: Rows, batch_size: int) -> Array:
    """Estimates for y* = fitted + noise / sqrt(w): those of the fit and what the noise adds, which is linear in it.

    The penalty pulls towards 0 what is fitted, so the fitted part of y* gives the fit of the fitted values.
    """
    stats = solution.stats
    weighted = rows.basis * jnp.sqrt(rows.weights)[:, None]
    fitted = (rows.targets - rows.residuals) * column_of(jnp.sqrt(rows.weights), rows.targets)
    factor = uncentered(stats, stats.covariance_factor)

    def parameters(noise):
        return jnp.matmul(factor, jnp.tensordot(weighted.T, noise, 1, precision=HIGHEST), precision=HIGHEST)

    start = parameters(fitted)
    return jax.lax.map(lambda key: start + parameters(draw(key)), keys, batch_size=batch_size)


def _without_each_row(solution: Solution, rows: Rows) -> Array:
    factor = uncentered(solution.stats, solution.stats.covariance_factor)
    directions = jnp.matmul(rows.basis, factor.T, precision=HIGHEST)
    steps = rows.residuals * column_of(rows.weights / (1 - leverages(rows)), rows.residuals)
    return estimates(solution) - (
        directions * steps[:, None] if steps.ndim == 1 else directions[:, :, None] * steps[:, None]
    )


def _summarise(estimate: Array, samples: Array, replicates: Array, confidence) -> Bootstrap:
    usable = jnp.all(jnp.isfinite(samples.reshape(len(samples), -1)), axis=1)
    samples = jnp.where(usable.reshape(-1, *[1] * estimate.ndim), samples, jnp.nan)
    count = jnp.sum(usable)
    mean = jnp.nanmean(samples, axis=0)
    spread = jnp.nansum((samples - mean) ** 2, axis=0)
    ordered = jnp.sort(samples, axis=0)
    tails = jnp.stack([(1 - confidence) / 2, (1 + confidence) / 2]).astype(samples.dtype)
    levels = jnp.broadcast_to(tails, (*estimate.shape, 2))
    return Bootstrap(
        estimate=estimate,
        samples=samples,
        num_samples=count,
        bias=mean - estimate,
        standard_error=jnp.sqrt(spread / (count - 1)),
        percentile_interval=_quantiles(ordered, count, levels),
        bca_interval=_quantiles(ordered, count, _bca_levels(estimate, samples, replicates, count, tails)),
    )


def _bca_levels(estimate: Array, samples: Array, replicates: Array, count: Array, tails: Array) -> Array:
    """Efron and Tibshirani 14.10: the levels whose percentiles are corrected for bias and skewness."""
    below = (jnp.sum(samples < estimate, axis=0) + jnp.sum(samples == estimate, axis=0) / 2) / count
    bias = ndtri(jnp.clip(below, 0.5 / count, 1 - 0.5 / count))[..., None]
    influence = jnp.nanmean(replicates, axis=0) - replicates
    squares = jnp.nansum(influence**2, axis=0)
    acceleration = (jnp.nansum(influence**3, axis=0) / (6 * jnp.where(squares > 0, squares, 1) ** 1.5))[..., None]
    shifted = bias + ndtri(tails)
    return ndtr(bias + shifted / (1 - acceleration * shifted))


def _quantiles(ordered: Array, count: Array, levels: Array) -> Array:
    """Of the first ``count`` along axis 0, at ``levels [..., 2]``, interpolated linearly."""
    positions = jnp.moveaxis(levels * (count - 1), -1, 0)
    low = jnp.clip(jnp.floor(positions).astype(jnp.int32), 0, len(ordered) - 1)
    high = jnp.clip(low + 1, 0, jnp.maximum(count - 1, 0))
    at_low, at_high = jnp.take_along_axis(ordered, low, axis=0), jnp.take_along_axis(ordered, high, axis=0)
    return jnp.moveaxis(at_low + (positions - low) * (at_high - at_low), 0, -1)


# Permutation test ----------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("kind", "options", "batch_size"))
def _permutation_test(keys, data: Data, *, kind: str, options: _Options, batch_size: int) -> PermutationTest:
    data, weights, num_rows = _ranked(data)
    solution = options.fit(data, data.y, weights)
    rows = rows_of(solution, data)
    root = jnp.sqrt(weights)
    basis = rows.basis * root[:, None]
    outputs = rows.targets.reshape(len(root), -1)
    center = (weights @ outputs / jnp.sum(weights)) if options.intercept else jnp.zeros_like(outputs[0])
    null = root[:, None] * (outputs - center)
    shuffle = functools.partial(_shuffle, size=len(root), num_rows=num_rows)
    statistics = functools.partial(_statistics, solution, basis, options.intercept)
    t, f = statistics(null)
    reduced = _reduced_residuals(solution, rows) * root[:, None, None]

    def as_extreme(key):
        order = shuffle(key)
        t_null, f_null = statistics(null[order])
        if kind == "freedman_lane":
            t_null = jax.vmap(lambda column: statistics(column)[0], in_axes=1, out_axes=1)(reduced[order])
            t_null = jnp.moveaxis(jnp.diagonal(t_null, axis1=0, axis2=1), -1, 0)
        return _at_least(jnp.abs(t_null), jnp.abs(t)), _at_least(f_null, f)

    t_extreme, f_extreme = jax.lax.map(as_extreme, keys, batch_size=batch_size)
    shape = rows.targets.shape[1:]
    p_values = [(1 + jnp.sum(extreme, axis=0)) / (1 + len(keys)) for extreme in (t_extreme, f_extreme)]
    p_values = [p_value.astype(t.dtype) for p_value in p_values]
    return PermutationTest(
        t.reshape(-1, *shape), p_values[0].reshape(-1, *shape), f.reshape(shape), p_values[1].reshape(shape)
    )


def _statistics(solution: Solution, basis: Array, intercept: bool, targets: Array) -> tuple[Array, Array]:
    """t ``[d, k]`` and F ``[k]`` for weighted targets about what the null fits, ``[n, k]``."""
    stats = solution.stats
    scores = jnp.matmul(basis.T, targets, precision=HIGHEST)
    factor = stats.covariance_factor[int(intercept) :]
    explained = jnp.sum(scores**2, axis=0)
    rest = jnp.sum(targets**2, axis=0) - explained
    scale = jnp.sqrt(rest / stats.dof)
    t = jnp.matmul(factor, scores, precision=HIGHEST) / (jnp.linalg.norm(factor, axis=1)[:, None] * scale)
    if intercept:
        explained -= scores[0] ** 2
    return t, explained / (stats.rank - int(intercept)) / scale**2


def _reduced_residuals(solution: Solution, rows: Rows) -> Array:
    """``[n, d, k]``: residuals of the model without each column, from the fit of all (Frisch, Waugh and Lovell)."""
    coefficients = solution.params.coefficients.reshape(len(solution.params.coefficients), -1)
    factor = solution.stats.covariance_factor[-len(coefficients) :]
    variance = jnp.sum(factor**2, axis=1)
    cleaned = jnp.matmul(rows.basis, factor.T, precision=HIGHEST) / jnp.where(variance > 0, variance, 1)
    residuals = rows.residuals.reshape(len(rows.residuals), 1, -1)
    return residuals + cleaned[:, :, None] * coefficients


def _at_least(permuted: Array, observed: Array) -> Array:
    """Equal to rounding is equal."""
    return permuted >= observed * (1 - 100 * jnp.finfo(observed.dtype).eps)


def _check_counts(num_samples: int, batch_size: int | None) -> None:
    check_count("num_samples", num_samples, 2)
    if batch_size is not None:
        check_count("batch_size", batch_size)

"""Standard errors, tests and intervals of a least-squares fit, from the factor that the fit left behind.

    classical   sigma^2 L (I - F'PF) L'                      L L' = (X'WX + P)^-1, P the penalty
    sandwich    L (sum_i omega_i z_i z_i') L'                z_i = F'x_i, so that the leverage is h_i = w_i |z_i|^2

with ``omega_i = (w_i e_i)^2 c_i`` for HC0 to HC3; clusters and HAC sum the scores ``w_i e_i z_i`` over groups and over
neighbouring rows. No second factorisation, no Gram matrix. Estimates stand in the order ``intercept, coefficients``.

Sources: White (1980); MacKinnon and White (1985); Newey and West (1987); Cameron and Miller (2015).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.core import InputError, Solution
from jaxmodels.numerics import distributions
from jaxmodels.numerics.double_double import DoubleDouble
from jaxmodels.regression import inputs, sandwich
from jaxmodels.regression.diagnostics import (
    HIGHEST,
    check_columns,
    column_of,
    design_of,
    diagnostics,
    estimates,
    rows_of,
    uncentered,
    with_intercept,
)
from jaxmodels.regression.linear import LinearStats
from jaxmodels.regression.sandwich import COVARIANCES
from jaxmodels.regression.table import summary

__all__ = ["COVARIANCES", "Inference", "Prediction", "WaldTest", "diagnostics", "infer", "predict_interval", "summary"]
__all__ += ["wald_test"]


class Inference(NamedTuple):
    """What is known about the parameters of a fit. ``p`` counts the intercept, which comes first where there is one.

    For ``k`` outputs, ``[p]`` becomes ``[p, k]``, ``[p, p]`` becomes ``[k, p, p]`` and a scalar of one output ``[k]``.
    """

    estimate: Float[Array, "p *k"]
    standard_error: Float[Array, "p *k"]
    """NaN for a column that a rank-deficient fit dropped, as R's NA."""
    statistic: Float[Array, "p *k"]
    """``estimate / standard_error``."""
    p_value: Float[Array, "p *k"]
    """Two-sided, of the hypothesis that the parameter is 0."""
    confidence_interval: Float[Array, "p *k 2"]
    covariance: Float[Array, "*k p p"]
    """Zero rows and columns for a dropped column, which is held at 0."""
    centered_covariance: Float[Array, "*k p p"]
    """Of ``(intercept + center' coefficients, coefficients)``: what ``predict_interval`` reads, for the rows of
    ``covariance`` cancel when the columns lie far from 0."""
    center: Float[Array, " d"]
    """The point that ``centered_covariance`` refers to; zeros without an intercept."""
    dof: Float[Array, ""]
    """Of the statistics: Student's t with so many degrees of freedom, the normal where infinite."""
    confidence: Float[Array, ""]
    covariance_kind: Int[Array, ""]
    """Index into ``COVARIANCES``."""
    num_rows: Float[Array, ""]
    """Rows with positive weight."""
    residual_dof: Float[Array, ""]
    """``num_rows - rank``; with a penalty, ``num_rows - trace(hat matrix)``."""
    sigma2: Float[Array, "*k"]
    r_squared: Float[Array, "*k"]
    """About the (weighted) mean of y with an intercept, about 0 without."""
    adjusted_r_squared: Float[Array, "*k"]
    f_statistic: Float[Array, "*k"]
    """Of the hypothesis that all coefficients but the intercept are 0; Wald's where the covariance is not classical."""
    f_p_value: Float[Array, "*k"]
    f_dof: Float[Array, ""]
    """The numerator's."""
    denominator_dof: Float[Array, ""]
    """``residual_dof``; groups - 1 for clusters."""
    log_likelihood: Float[Array, "*k"]
    aic: Float[Array, "*k"]
    """``-2 log_likelihood + 2 rank`` as in statsmodels; R also counts sigma: add 2 (and log(num_rows) to ``bic``)."""
    bic: Float[Array, "*k"]


class Prediction(NamedTuple):
    """Predictions with their uncertainty."""

    mean: Float[Array, "n *k"]
    standard_error: Float[Array, "n *k"]
    """Of the mean."""
    mean_interval: Float[Array, "n *k 2"]
    prediction_interval: Float[Array, "n *k 2"]
    """For one new observation at that row."""


class WaldTest(NamedTuple):
    """A test of linear restrictions."""

    statistic: Float[Array, ""]
    """F."""
    p_value: Float[Array, ""]
    numerator_dof: Float[Array, ""]
    denominator_dof: Float[Array, ""]


def infer(
    solution: Solution,
    x: Float[Array, "n d"] | DoubleDouble,
    y: Float[Array, "n *k"],
    *,
    weights: Float[Array, " n"] | None = None,
    mask: Bool[Array, " n"] | None = None,
    offset: Float[Array, "n *k"] | None = None,
    covariance: str = "classical",
    groups: Int[Array, " n"] | None = None,
    num_groups: int | None = None,
    lags: int | None = None,
    use_t: bool | None = None,
    confidence: float = 0.95,
) -> Inference:
    """Standard errors, p-values, intervals and the statistics of the whole fit.

    Args:
      solution: what ``linear.fit`` returned for these ``x, y, weights, mask, offset``.
      x, y, weights, mask, offset: the data of the fit. Weights are inverse variances, as in statsmodels' WLS and R's
        lm; a row of weight 0 or mask False counts as absent (also for neighbours in ``"hac"``).
      covariance: ``"classical"``; ``"HC0"`` ... ``"HC3"`` (unequal variances); ``"cluster"`` (rows correlated within
        ``groups``; with the factor G / (G - 1) (n - 1) / (n - p)); ``"hac"`` (correlated in time; Newey and West's
        with Bartlett's weights and no small-sample factor).
      groups: an id in ``[0, num_groups)`` for each row; an id that no row has is no group.
      num_groups: needed when ``groups`` is traced; the largest id + 1 by default.
      lags: rows whose correlation ``"hac"`` admits; by default ``floor(4 (n / 100)^(2/9))``.
      use_t: Student's t (with n - p degrees of freedom, G - 1 for clusters) or the normal; ``None`` is t for
        ``"classical"`` and normal for the others, as in statsmodels. R's ``coeftest`` has t everywhere.
      confidence: of the intervals.

    Returns:
      The ``Inference``. With a penalty the covariance is the biased estimator's, and intervals are about its mean.

    Raises:
      InputError: an argument does not fit the others.

    >>> from jaxmodels.regression import linear
    >>> x, y = jnp.array([[1.0], [2.0], [3.0], [4.0]]), jnp.array([2.0, 1.0, 4.0, 3.0])
    >>> result = infer(linear.fit(x, y), x, y)
    >>> f"{result.p_value[1]:.3f} {result.f_p_value:.3f}"       # one coefficient: its t test is the F test
    '0.400 0.400'
    """
    _check_covariance(covariance)
    inputs.check_confidence(confidence)
    data = inputs.read(x, y, weights=weights, mask=mask, offset=offset)
    inputs.check_solution(solution, LinearStats, "linear.fit")
    groups, num_groups, lags = sandwich.check(covariance, groups, num_groups, lags, num_rows=len(data.y))
    use_t = covariance == "classical" if use_t is None else use_t
    options = {"covariance": covariance, "num_groups": num_groups, "lags": lags}
    return _infer(solution, data, groups, confidence, use_t, **options)


def predict_interval(
    inference: Inference,
    x: Float[Array, "m d"],
    *,
    weights: Float[Array, " m"] | None = None,
    offset: Float[Array, " m"] | None = None,
    confidence: float = 0.95,
) -> Prediction:
    """Predict, with an interval for the mean at each row and one for a new observation there.

    Args:
      inference: what ``infer`` returned; the kind of its covariance carries over.
      x: where to predict.
      weights: of the new observations, whose variance is ``sigma2 / weight``; 1 by default.
      offset: added to the prediction.
      confidence: of both intervals.

    Raises:
      InputError: ``x`` has another number of columns than the fit.

    >>> from jaxmodels.regression import linear
    >>> x, y = jnp.array([[1.0], [2.0], [3.0], [4.0]]), jnp.array([2.0, 1.0, 4.0, 3.0])
    >>> at = predict_interval(infer(linear.fit(x, y), x, y), jnp.array([[2.5], [10.0]]))
    >>> [f"{mean:.2f} +- {high - mean:.2f}" for mean, (_, high) in zip(at.mean, at.mean_interval)]
    ['2.50 +- 2.72', '7.00 +- 18.46']
    """
    inputs.check_confidence(confidence)
    x = jnp.asarray(x)
    check_columns(x, inference.center)
    intercept = inference.estimate.shape[0] != x.shape[1]
    design = design_of(x, inference.center, intercept)
    variance = jnp.einsum("np,...pq,nq->n...", design, inference.centered_covariance, design, precision=HIGHEST)
    mean = jnp.matmul(x, inference.estimate[int(intercept) :], precision=HIGHEST)
    mean += inference.estimate[0] if intercept else 0
    mean += 0 if offset is None else column_of(jnp.asarray(offset, mean.dtype), mean)
    noise = inference.sigma2 / (1 if weights is None else column_of(jnp.asarray(weights, mean.dtype), mean))
    size = distributions.student_t_quantile(jnp.asarray((1 - confidence) / 2, mean.dtype), inference.dof, upper=True)
    error = jnp.sqrt(variance)
    return Prediction(mean, error, _interval(mean, size * error), _interval(mean, size * jnp.sqrt(variance + noise)))


def wald_test(
    inference: Inference, restrictions: Float[Array, "q p"], *, values: Float[Array, " q"] | float = 0.0
) -> WaldTest:
    """Test ``restrictions @ estimate = values``, with the covariance that ``inference`` has.

    Args:
      inference: of a single output.
      restrictions: a row for each restriction, a column for each parameter, the intercept first.
      values: what the restricted combinations should be.

    Returns:
      F with q and ``denominator_dof`` degrees of freedom, NaN where the restrictions depend on each other.

    >>> from jaxmodels.regression import linear
    >>> x, y = jnp.array([[1.0], [2.0], [3.0], [4.0]]), jnp.array([2.0, 1.0, 4.0, 3.0])
    >>> result = infer(linear.fit(x, y), x, y)
    >>> f"{wald_test(result, jnp.array([[0.0, 1.0]])).p_value:.3f} {result.p_value[1]:.3f}"
    '0.400 0.400'
    """
    restrictions = jnp.asarray(restrictions, inference.estimate.dtype)
    if restrictions.ndim != 2 or restrictions.shape[1:] != inference.estimate.shape:
        raise InputError(
            f"restrictions: got shape {restrictions.shape}, needs [q, {inference.estimate.shape[0]}]; outputs go singly"
        )
    distance = restrictions @ inference.estimate - values
    covariance = restrictions @ inference.covariance @ restrictions.T
    dof1 = jnp.asarray(restrictions.shape[0], distance.dtype)
    statistic = sandwich.quadratic_form(covariance, distance) / dof1
    p_value = distributions.f_sf(statistic, dof1, inference.denominator_dof)
    return WaldTest(statistic, p_value, dof1, inference.denominator_dof)


# Private -------------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("covariance", "num_groups", "lags"))
def _infer(solution, data, groups, confidence, use_t, *, covariance, num_groups, lags):
    rows = rows_of(solution, data)
    meat = functools.partial(
        sandwich.meat, covariance, rows.basis, weights=rows.weights, groups=groups, num_groups=num_groups, lags=lags
    )
    whole = Whole(
        estimates(solution),
        _total(solution.stats, rows.targets, rows.weights),
        jnp.sum(jnp.log(jnp.where(rows.weights > 0, rows.weights, 1))),
    )
    return _each_output(solution.stats, whole, rows.residuals, meat, confidence, covariance, use_t)


def _total(stats: LinearStats, targets: Array, weights: Array) -> Array:
    mean = jnp.tensordot(weights, targets, 1, precision=HIGHEST) / stats.total_weight if with_intercept(stats) else 0
    return jnp.sum(column_of(weights, targets) * (targets - mean) ** 2, axis=0)


class Whole(NamedTuple):
    """What classical inference needs besides the stats of the fit: no rows."""

    estimate: Float[Array, "p *k"]
    total_sum_of_squares: Float[Array, "*k"]
    """Weighted; about the mean where the fit has an intercept."""
    log_weights: Float[Array, ""]
    """Sum of the logarithms of the weights."""


def infer_whole(stats: LinearStats, whole: Whole, *, confidence: float = 0.95) -> Inference:
    """Classical inference without the rows, for ``streaming``."""
    inputs.check_confidence(confidence)
    residuals = jnp.zeros_like(whole.estimate)
    return _each_output(stats, whole, residuals, lambda residuals: (None, None), confidence, "classical", True)


def _each_output(stats, whole, residuals, meat, confidence, covariance, use_t) -> Inference:
    def one(estimate, total, rss, residuals):
        fit = _Fit(estimate, rss, total, whole.log_weights)
        return _infer_one(stats, fit, *meat(residuals), confidence=confidence, covariance=covariance, use_t=use_t)

    args = (whole.estimate, whole.total_sum_of_squares, stats.residual_sum_of_squares, residuals)
    return one(*args) if residuals.ndim == 1 else jax.vmap(one, in_axes=(1, 0, 0, 1), out_axes=_OUTPUT_AXES)(*args)


# p-vectors gain a column, what is the outputs' own an axis in front, what they share none.
_OUTPUT_AXES = Inference(*[1] * 5, *[0] * 2, *[None] * 6, *[0] * 5, None, None, *[0] * 3)  # type: ignore


class _Fit(NamedTuple):
    """A single output."""

    estimate: Array
    rss: Array
    total: Array
    log_weights: Array


def _infer_one(
    stats: LinearStats,
    fit: _Fit,
    meat: Array | None,
    num_groups: Array | None,
    *,
    confidence,
    covariance: str,
    use_t: bool,
) -> Inference:
    """``meat [p, p]`` is the middle of the sandwich in the basis of ``covariance_factor``."""
    factor, dof = stats.covariance_factor, stats.dof
    sigma2 = fit.rss / dof
    meat = _scaled_meat(stats, sigma2, meat, num_groups, covariance)
    matrix = _sandwich(uncentered(stats, factor), meat)
    kept = jnp.any(factor != 0, axis=1)
    standard_error = jnp.sqrt(jnp.where(kept, jnp.diagonal(matrix), jnp.nan))
    statistic = fit.estimate / standard_error
    t_dof = dof if num_groups is None else num_groups - 1
    statistic_dof = jnp.where(use_t, t_dof, jnp.inf)
    half = standard_error * distributions.student_t_quantile((1 - confidence) / 2, statistic_dof, upper=True)
    return Inference(
        estimate=fit.estimate,
        standard_error=standard_error,
        statistic=statistic,
        p_value=2 * distributions.student_t_sf(jnp.abs(statistic), statistic_dof),
        confidence_interval=_interval(fit.estimate, half),
        covariance=matrix,
        centered_covariance=_sandwich(factor, meat),
        center=stats.center,
        dof=statistic_dof,
        confidence=jnp.asarray(confidence, dof.dtype),
        covariance_kind=jnp.asarray(COVARIANCES.index(covariance), jnp.int32),
        num_rows=stats.num_rows,
        residual_dof=dof,
        sigma2=sigma2,
        **_whole_fit(stats, fit, None if covariance == "classical" else matrix, kept, t_dof),
    )


def _scaled_meat(
    stats: LinearStats, sigma2: Array, meat: Array | None, num_groups: Array | None, covariance: str
) -> Array:
    factor, n, dof = stats.covariance_factor, stats.num_rows, stats.dof
    if meat is None:
        penalised = jnp.matmul(factor.T, stats.penalty[:, None] * factor, precision=HIGHEST)
        return sigma2 * (jnp.eye(factor.shape[-1], dtype=factor.dtype) - penalised)
    if num_groups is not None:
        return meat * (num_groups / (num_groups - 1) * (n - 1) / dof)
    return meat * (n / dof) if covariance == "HC1" else meat


def _whole_fit(stats: LinearStats, fit: _Fit, covariance: Array | None, kept: Array, dof2: Array) -> dict[str, Array]:
    """R squared to BIC; F is Wald's with ``covariance``, and of the sums of squares without."""
    intercept = int(with_intercept(stats))
    n, dof, rss, total = stats.num_rows, stats.dof, fit.rss, fit.total
    f_dof = n - dof - intercept
    if covariance is None:
        f_statistic = (total - rss) / f_dof / (rss / dof)
    else:
        slopes = kept.at[:intercept].set(False)
        free = jnp.where(slopes[:, None] & slopes, covariance, jnp.eye(slopes.size, dtype=covariance.dtype))
        f_statistic = sandwich.quadratic_form(free, jnp.where(slopes, fit.estimate, 0)) / jnp.sum(slopes)
    log_likelihood = (fit.log_weights - n * (math.log(2 * math.pi) + jnp.log(rss / n) + 1)) / 2
    return {
        "r_squared": 1 - rss / total,
        "adjusted_r_squared": 1 - (n - intercept) / dof * (rss / total),
        "f_statistic": f_statistic,
        "f_p_value": distributions.f_sf(f_statistic, f_dof, dof2),
        "f_dof": f_dof,
        "denominator_dof": dof2,
        "log_likelihood": log_likelihood,
        "aic": -2 * log_likelihood + 2 * (n - dof),
        "bic": -2 * log_likelihood + jnp.log(n) * (n - dof),
    }


def _sandwich(factor: Array, meat: Array) -> Array:
    product = jnp.matmul(jnp.matmul(factor, meat, precision=HIGHEST), factor.T, precision=HIGHEST)
    return (product + product.T) / 2


def _interval(center: Array, half_width: Array) -> Array:
    return jnp.stack([center - half_width, center + half_width], axis=-1)


def _check_covariance(covariance: str) -> None:
    if covariance not in COVARIANCES:
        raise InputError(f"covariance: {covariance!r} is none of {', '.join(COVARIANCES)}")

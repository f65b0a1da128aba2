"""Standard errors, tests and information criteria of a generalized linear model.

    classical   phi F (I - F'PF) F'            F F' = (X'WX + P)^-1, W the expected information at the estimate
    sandwich    F (sum_i s_i s_i') F'          s_i = F'x_i w_i u_i, u_i the score of the row

The factor is taken anew at the estimate, so that standard errors have all the digits that the estimate has.

Sources: McCullagh and Nelder (1989); White (1980); Cameron and Miller (2015).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxmodels import families
from jaxmodels.core import InputError, Solution
from jaxmodels.families import Family
from jaxmodels.links import Link
from jaxmodels.numerics import distributions, newton
from jaxmodels.numerics.newton import Problem
from jaxmodels.numerics.problem import matmul
from jaxmodels.regression import inputs, likelihood, sandwich
from jaxmodels.regression.diagnostics import check_columns
from jaxmodels.regression.glm import GlmStats
from jaxmodels.regression.likelihood import Form
from jaxmodels.regression.linear import LinearParams
from jaxmodels.regression.sandwich import COVARIANCES


class GlmInference(NamedTuple):
    """What is known about a fit. ``p`` counts the intercept, which comes first; ``categorical`` has ``[k, p]``,
    a row for each class but the first, and their covariance ``[k p, k p]``."""

    estimate: Float[Array, "*k p"]
    standard_error: Float[Array, "*k p"]
    """NaN for a column that a rank-deficient fit dropped, as R's NA."""
    statistic: Float[Array, "*k p"]
    p_value: Float[Array, "*k p"]
    """Two-sided, of the hypothesis that the parameter is 0."""
    confidence_interval: Float[Array, "*k p 2"]
    covariance: Float[Array, "q q"]
    dof: Float[Array, ""]
    """Of the statistics: Student's t with so many degrees of freedom, the normal where infinite."""
    num_rows: Float[Array, ""]
    residual_dof: Float[Array, ""]
    """``num_rows`` less the parameters used: the rank, with a penalty the trace of the hat matrix."""
    dispersion: Float[Array, ""]
    """1, or ``pearson / residual_dof`` for families that have one to estimate."""
    deviance: Float[Array, ""]
    null_deviance: Float[Array, ""]
    """Of the fit with the intercept and offset alone."""
    pearson: Float[Array, ""]
    """``sum w (y - mean)^2 / V(mean)``."""
    log_likelihood: Float[Array, ""]
    """As R's: a dispersion is ``deviance / total weight`` in it. NaN for families without a density."""
    aic: Float[Array, ""]
    """Counts a dispersion as a parameter, as R does."""
    bic: Float[Array, ""]


def infer(
    solution: Solution,
    x: Float[Array, "n d"],
    y: Shaped[Array, "n *c"],
    *,
    family: str | Family,
    link: str | Link | None = None,
    weights: Float[Array, " n"] | None = None,
    offset: Float[Array, "n *c"] | None = None,
    mask: Bool[Array, " n"] | None = None,
    l2: Float[Array, "*d"] | float = 0.0,
    intercept: bool = True,
    covariance: str = "classical",
    groups: Int[Array, " n"] | None = None,
    num_groups: int | None = None,
    lags: int | None = None,
    use_t: bool | None = None,
    confidence: float = 0.95,
) -> GlmInference:
    """Standard errors, p-values, intervals, deviances and information criteria.

    Args:
      solution: what ``fit`` returned for all that follows up to ``intercept``.
      covariance: ``"classical"``; ``"HC0"`` ... ``"HC3"``; ``"cluster"`` (rows correlated within ``groups``, with the
        factor G / (G - 1) (n - 1) / (n - p)); ``"hac"``; as in ``linear.infer``.
      groups: an id in ``[0, num_groups)`` for each row.
      num_groups: needed when ``groups`` is traced.
      lags: of ``"hac"``.
      use_t: Student's t or the normal; ``None`` is t for the classical covariance of a family with a dispersion.
      confidence: of the intervals.

    Raises:
      InputError: an argument does not fit the others.

    >>> from jaxmodels.regression import glm
    >>> x, y = jnp.array([[0.0], [0.0], [0.0], [1.0], [1.0], [1.0]]), jnp.array([1, 0, 0, 1, 1, 0])
    >>> result = infer(glm.fit(x, y, family="bernoulli"), x, y, family="bernoulli")
    >>> round(float(result.standard_error[1]), 4), round((1 / 1 + 1 / 2 + 1 / 2 + 1 / 1) ** 0.5, 4)
    (1.7321, 1.7321)
    """
    family = families.get(family, link)
    check(covariance, confidence, family)
    inputs.check_solution(solution, GlmStats, "glm.fit")
    data = likelihood.read(family, x, y, weights=weights, mask=mask, offset=offset, l2=l2)
    check_columns(data.x, solution.params.coefficients)
    groups, num_groups, lags = sandwich.check(covariance, groups, num_groups, lags, num_rows=len(data.y))
    form, parameter = likelihood.split(family, bool(intercept))
    estimated = family.name == "negative_binomial" and parameter is None
    options = {"covariance": covariance, "num_groups": num_groups, "lags": lags, "estimated": estimated}
    return _infer(solution, data, groups, confidence, form=form, use_t=use_t, **options)


def check(covariance: str, confidence: Any, family: Family) -> None:
    if covariance not in COVARIANCES:
        raise InputError(f"covariance: {covariance!r} is none of {', '.join(COVARIANCES)}")
    if covariance in ("HC2", "HC3") and family.name == "categorical":
        raise InputError(f"covariance: {covariance!r} needs a leverage a row, which categorical lacks; pass 'HC1'")
    inputs.check_confidence(confidence)


class Fit(NamedTuple):
    """A solution back in the terms in which it was found."""

    problem: Problem
    coefficients: Float[Array, "k p"]
    center: Float[Array, " d"]
    outputs: Float[Array, "n k"]


def fit_of(form: Form, solution: Solution, data: Any) -> Fit:
    problem, center, *_ = likelihood.prepare(form, data, solution.stats.parameter)
    slopes, level = solution.params
    if form.family.name == "categorical":
        slopes, level = slopes[:, 1:].T, level[1:]
    else:
        slopes, level = slopes[None], level[None]
    coefficients = slopes
    if form.intercept:
        coefficients = jnp.concatenate([(level + matmul(slopes, center))[:, None], slopes], axis=1)
    return Fit(problem, coefficients, center, newton.predictor(problem, coefficients))


@functools.partial(jax.jit, static_argnames=("form", "covariance", "num_groups", "lags", "use_t", "estimated"))
def _infer(solution, data, groups, confidence, *, form: Form, covariance, num_groups, lags, use_t, estimated):
    fit = fit_of(form, solution, data)
    problem, loss = fit.problem, likelihood.loss(form)
    triangle = newton.information_triangle(loss, problem, fit.outputs)
    bare, factor = triangle.inverse, _uncentered(form, fit, triangle.inverse)
    penalised = matmul(bare.T, matmul(newton.penalty_matrix(problem), bare))
    num_rows = jnp.sum(problem.weights > 0).astype(factor.dtype)
    used = jnp.sum(triangle.kept) - jnp.trace(penalised)
    dof = num_rows - used
    pearson = _pearson(form, fit)
    scale = jnp.ones_like(pearson) if loss.fixed_dispersion else pearson / dof
    middle, clusters = _middle(form, fit, bare, covariance, groups, num_groups, lags)
    if middle is None:
        middle = scale * (jnp.eye(len(factor), dtype=factor.dtype) - penalised)
    elif clusters is not None:
        middle = middle * (clusters / (clusters - 1) * (num_rows - 1) / dof)
    elif covariance == "HC1":
        middle = middle * (num_rows / dof)
    use_t = (covariance == "classical" and not loss.fixed_dispersion) if use_t is None else use_t
    t_dof = (dof if clusters is None else clusters - 1) if use_t else jnp.inf
    estimate = _estimate(form, solution.params)
    return GlmInference(
        estimate=estimate,
        **_tests(estimate, matmul(matmul(factor, middle), factor.T), triangle.kept, t_dof, confidence),
        num_rows=num_rows,
        residual_dof=dof,
        dispersion=scale,
        pearson=pearson,
        **_whole(form, fit, used + (not loss.fixed_dispersion) + estimated, data),
    )


def _estimate(form: Form, params: LinearParams) -> Array:
    if form.family.name != "categorical":
        return jnp.concatenate([params.intercept[None]] * form.intercept + [params.coefficients])
    slopes, level = params.coefficients[:, 1:].T, params.intercept[1:]
    return jnp.concatenate([level[:, None]] * form.intercept + [slopes], axis=1)


def _uncentered(form: Form, fit: Fit, factor: Array) -> Array:
    """Rows of the factor for ``(intercept, coefficients)`` of each output."""
    if not form.intercept:
        return factor
    blocks = factor.reshape(form.num_outputs, -1, factor.shape[1])
    level = jnp.einsum("d,kdq->kq", fit.center, blocks[:, 1:], precision=lax.Precision.HIGHEST)
    return blocks.at[:, 0].add(-level).reshape(factor.shape)


def _pearson(form: Form, fit: Fit) -> Array:
    family = form.family._replace(parameter=fit.problem.parameter)
    if family.name == "categorical":
        mean = family.mean(likelihood.all_classes(fit.outputs))
        each = jnp.sum((fit.problem.targets - mean) ** 2 / mean, axis=1)
    else:
        mean = family.mean(fit.outputs[:, 0])
        each = (fit.problem.targets - mean) ** 2 / family.variance(mean)
    return _total(fit.problem, each)


def _total(problem: Problem, each: Array) -> Array:
    return jnp.sum(jnp.where(problem.weights > 0, problem.weights * each, 0))


def _middle(form: Form, fit: Fit, factor: Array, covariance: str, groups, num_groups, lags):
    """The sandwich's, in the basis of the factor."""
    problem, loss = fit.problem, likelihood.loss(form)
    scores = loss.score(fit.outputs, problem.targets, problem.parameter)
    counts = problem.weights > 0
    if form.family.name == "categorical":
        rows = (scores[:, :, None] * newton.design(problem)[:, None, :]).reshape(len(scores), -1)
        basis, residuals = matmul(rows, factor), jnp.ones_like(rows[:, 0])
    else:
        root = loss.root(fit.outputs, problem.targets, problem.parameter)[:, 0, 0]
        basis = root[:, None] * matmul(newton.design(problem), factor)
        residuals = jnp.where(root > 0, scores[:, 0] / jnp.where(root > 0, root, 1), 0)
    basis, residuals = jnp.where(counts[:, None], basis, 0), jnp.where(counts, residuals, 0)
    options = {"groups": groups, "num_groups": num_groups, "lags": lags}
    return sandwich.meat(covariance, basis, residuals, problem.weights, **options)


def _tests(estimate: Array, covariance: Array, kept: Array, dof: Any, confidence: Any) -> dict[str, Array]:
    covariance = (covariance + covariance.T) / 2
    error = jnp.sqrt(jnp.where(kept, jnp.diagonal(covariance), jnp.nan)).reshape(estimate.shape)
    statistic = estimate / error
    dof = jnp.asarray(dof, error.dtype)
    half = error * distributions.student_t_quantile(jnp.asarray((1 - confidence) / 2, error.dtype), dof, upper=True)
    return {
        "standard_error": error,
        "statistic": statistic,
        "p_value": 2 * distributions.student_t_sf(jnp.abs(statistic), dof),
        "confidence_interval": jnp.stack([estimate - half, estimate + half], axis=-1),
        "covariance": covariance,
        "dof": dof,
    }


def _whole(form: Form, fit: Fit, num_parameters: Array, data: Any) -> dict[str, Array]:
    problem = fit.problem._replace(penalty=0 * fit.problem.penalty)
    loss = likelihood.loss(form)
    deviance = 2 * newton.value(loss, problem, fit.coefficients, fit.outputs)
    log_likelihood = _log_likelihood(form, problem, deviance, data)
    num_rows = jnp.sum(problem.weights > 0)
    return {
        "deviance": deviance,
        "null_deviance": _null_deviance(form, problem),
        "log_likelihood": log_likelihood,
        "aic": -2 * log_likelihood + 2 * num_parameters,
        "bic": -2 * log_likelihood + jnp.log(num_rows) * num_parameters,
    }


def _null_deviance(form: Form, problem: Problem) -> Array:
    loss = likelihood.loss(form)
    first = jnp.zeros((form.num_outputs, 1), problem.offset.dtype)
    alone = problem._replace(x=problem.x[:, :0], center=-jnp.ones_like(first[0]), penalty=jnp.zeros_like(first[0]))
    if form.intercept:
        eps = float(jnp.finfo(first.dtype).eps)
        start = likelihood.start(form, alone)
        first = newton.solve(loss, alone, start, jnp.asarray(eps**0.5, first.dtype), jnp.int32(50)).coefficients
    return 2 * newton.value(loss, alone, first, newton.predictor(alone, first))


def _log_likelihood(form: Form, problem: Problem, deviance: Array, data: Any) -> Array:
    """R's convention: weights multiply log densities, but for the gaussian, whose variances they divide."""
    kind = form.family.kind
    if kind.normaliser is None:
        return jnp.full_like(deviance, jnp.nan)
    total = jnp.sum(problem.weights)
    if form.family.name == "categorical":
        return -deviance / 2 - _total(problem, kind.normaliser(problem.targets, 1.0, None))
    if form.family.name == "binomial":
        pairs = problem.weights[:, None] * jnp.stack([problem.targets, 1 - problem.targets], axis=1)
        return -deviance / 2 - jnp.sum(jnp.where(problem.weights > 0, kind.normaliser(pairs, 1.0, None), 0))
    if form.family.name == "gaussian":
        num_rows = jnp.sum(problem.weights > 0)
        logs = jnp.log(jnp.where(problem.weights > 0, problem.weights, 1))
        return -(num_rows * (jnp.log(2 * jnp.pi * deviance / num_rows) + 1) - jnp.sum(logs)) / 2
    dispersion = jnp.ones_like(deviance) if kind.fixed_dispersion else deviance / total
    each = kind.normaliser(problem.targets, dispersion, problem.parameter)
    return -deviance / (2 * dispersion) - _total(problem, each)

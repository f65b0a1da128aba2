"""Generalized linear models: logistic, Poisson, gamma, multinomial, ... regression by Newton's method.

    minimise over b, c   sum_i w_i deviance(y_i, offset_i + b + x_i'c) / 2 + 1/2 sum_j l2_j c_j^2

``fit`` solves it, ``infer`` says how well the parameters are known, ``profile`` does so without assuming them normal.
For the gaussian family it is ``linear``'s problem, with l2 in the same units.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Shaped

from jaxmodels import families
from jaxmodels.core import InputError, Solution, Status
from jaxmodels.families import Family
from jaxmodels.links import Link
from jaxmodels.numerics import dispersion, firth, newton
from jaxmodels.numerics.problem import matmul
from jaxmodels.regression import inputs, likelihood, linear
from jaxmodels.regression.likelihood import Form
from jaxmodels.regression.linear import LinearParams

if TYPE_CHECKING:
    from jaxmodels.regression.glm_inference import GlmInference, infer
    from jaxmodels.regression.glm_profile import profile

__all__ = ["GlmInference", "GlmStats", "fit", "infer", "predict", "profile"]

# Families for which Firth's correction is the likelihood's penalty, in their canonical links.
FIRTH = ("bernoulli", "binomial", "poisson")


class GlmStats(NamedTuple):
    """What a fit found besides the parameters."""

    deviance: Array
    """``[]``: without the penalty."""
    num_rows: Array
    """``[]``: rows that count, with weight > 0 and mask set."""
    total_weight: Array
    rank: Array
    """int32 ``[]``: independent parameters."""
    parameter: Array | None
    """The family's, so the estimated dispersion of ``negative_binomial()``; ``None`` for families without one."""
    decrement: Array
    """``[]``: length of the last step in standard errors. What is left is much less."""
    num_steps: Array
    """int32 ``[]``."""


def fit(
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
    firth: bool = False,
    tolerance: float | None = None,
    max_steps: int = 50,
) -> Solution:
    """Maximum likelihood, with a ridge penalty or Firth's correction where asked for.

    Pure: under ``jit``; under ``vmap`` for many problems at once, where a bad one fails alone; under ``grad`` in x, y,
    weights, offset, l2 and the family's parameter, by the implicit function theorem (``firth``: to first order).

    Args:
      x: ``[n, d]``, float32 or float64, which is then the dtype of the work; no column of ones.
      y: ``[n]``; of ``binomial`` ``[n, 2]``, successes and failures; of ``categorical`` classes ``[n]`` or
        probabilities ``[n, k]``.
      family: a name in ``families.FAMILIES`` or what ``families`` makes.
      link: a name in ``links.LINKS`` or a ``Link``; the family's by default.
      weights: prior weights, at least 0: the dispersion of a row is divided by its own. Default: all 1.
      offset: known part of the linear predictor, ``log(exposure)`` say.
      mask: the rows to use; whatever the others hold, NaN too, is not read.
      l2: ridge penalty, one or one a column of x, in the units of the sum above: scikit-learn's ``1 / C``. The
        intercept is never penalised; of ``categorical``, coefficients are less their mean over the classes.
      intercept: whether to fit one.
      firth: take out the first-order bias: finite estimates for separated classes too. Bernoulli, binomial and poisson
        in their canonical links.
      tolerance: stop when the coming step, which is still taken, is at most so many standard errors in every
        direction, or foretold to be far below that. Steps shrink fast: the default, the root of eps, leaves rounding.
      max_steps: of Newton's method; of a large problem more and cheaper ones, which share the factor of a Gram matrix.

    Returns:
      A ``Solution`` of ``LinearParams`` and ``GlmStats``. Of ``categorical`` coefficients are ``[d, k]`` and the
      intercept ``[k]``, with 0 for class 0. ``status`` is ``separated`` where classes are, wholly or in part, so that
      the maximum lies at infinity (the parameters are where that was seen; counts of 0 do the same); ``max_steps``,
      ``stalled``, ``rank_deficient`` (later columns dropped), ``underdetermined``; ``nonfinite`` and ``invalid_input``
      (targets outside the support, too) have NaN.

    Raises:
      InputError: shapes, dtypes or options that do not fit; outside ``jit`` and ``vmap`` also values that do not.

    >>> x, y = jnp.array([[0.0], [0.0], [0.0], [1.0], [1.0], [1.0]]), jnp.array([1, 0, 0, 1, 1, 0])
    >>> solution = fit(x, y, family="bernoulli")
    >>> round(float(solution.params.coefficients[0]), 4), round(float(jnp.log(4.0)), 4)     # the log odds ratio
    (1.3863, 1.3863)
    >>> Status(int(fit(x, x[:, 0], family="bernoulli").status)).name
    'separated'
    """
    family = families.get(family, link)
    data = likelihood.read(family, x, y, weights=weights, mask=mask, offset=offset, l2=l2)
    _check_firth(family, firth)
    inputs.check_search(max_steps, tolerance, "number of standard errors")
    form, parameter = likelihood.split(family, bool(intercept), bool(firth))
    tolerance = float(jnp.finfo(data.x.dtype).eps) ** 0.5 if tolerance is None else tolerance
    dtype = data.x.dtype
    parameter = None if parameter is None else jnp.asarray(parameter, dtype)
    estimate = family.name == "negative_binomial" and parameter is None
    solution = _fit(data, parameter, jnp.asarray(tolerance, dtype), max_steps, form=form, estimate=estimate)
    if inputs.is_concrete(data) and _failed(solution):
        likelihood.explain_values(family, data)
    return solution


def _check_firth(family: Family, firth: bool) -> None:
    if firth and not (family.name in FIRTH and family.canonical):
        got = f"{family.name} with link {family.link.name}"
        raise InputError(f"firth: got {got}, needs one of {', '.join(FIRTH)} with its canonical link")


def _failed(solution: Solution) -> bool:
    status = solution.status
    if isinstance(status, Tracer):
        return False
    return int(status) in (Status.nonfinite, Status.invalid_input)


@functools.partial(jax.jit, static_argnames=("form", "estimate"))
def _fit(data, parameter, tolerance, max_steps, *, form: Form, estimate: bool) -> Solution:
    guess = jnp.ones((), data.x.dtype) if estimate else parameter
    prepared = likelihood.prepare(form, data, guess)
    problem, loss = prepared.problem, likelihood.loss(form)
    first = likelihood.start(form, lax.stop_gradient(problem))
    bounded = jnp.bool_(False)
    if estimate:
        logarithm = dispersion.estimate(loss, likelihood.nll(form), problem, first, tolerance, max_steps)
        bounded = jnp.abs(logarithm) >= dispersion.bound(logarithm.dtype)
        problem = likelihood.with_parameter(form, problem, jnp.exp(logarithm))
    solve = firth.solve if form.firth else newton.solve
    solved = solve(loss, problem, first, tolerance, max_steps)
    status = likelihood.status(prepared, form, solved)
    status = jnp.where(bounded & (status == Status.ok), Status.stalled, status)
    failed = (status == Status.nonfinite) | (status == Status.invalid_input)
    params = _params(form, solved.coefficients, prepared.center)
    params = jax.tree.map(lambda leaf: jnp.where(failed, jnp.nan, leaf), params)
    return Solution(params, status, _stats(form, problem, solved, failed))


def _params(form: Form, coefficients: Array, center: Array) -> LinearParams:
    if form.family.name == "categorical":
        coefficients = jnp.pad(coefficients, ((1, 0), (0, 0)))
    if not form.intercept:
        slopes, level = coefficients.T, jnp.zeros_like(coefficients[:, 0])
    else:
        slopes = coefficients[:, 1:].T
        level = coefficients[:, 0] - matmul(center, slopes)
    return LinearParams(slopes, level) if form.family.name == "categorical" else LinearParams(slopes[:, 0], level[0])


def _stats(form: Form, problem: newton.Problem, solved: newton.Solved, failed: Array) -> GlmStats:
    bare = problem._replace(penalty=0 * problem.penalty)
    value = newton.value(likelihood.loss(form), bare, solved.coefficients, solved.outputs)
    return GlmStats(
        deviance=jnp.where(failed, jnp.nan, 2 * value),
        num_rows=jnp.sum(problem.weights > 0).astype(value.dtype),
        total_weight=jnp.sum(problem.weights),
        rank=jnp.sum(solved.kept).astype(jnp.int32),
        parameter=problem.parameter,
        decrement=solved.decrement,
        num_steps=solved.num_steps,
    )


def predict(
    params: LinearParams,
    x: Float[Array, "n d"],
    *,
    family: str | Family,
    link: str | Link | None = None,
    offset: Float[Array, "n *c"] | None = None,
    scale: str = "mean",
) -> Float[Array, "n *c"]:
    """The mean of the targets at each row, or the linear predictor.

    Args:
      params: what ``fit`` found for this family and link.
      x: where.
      offset: as in ``fit``.
      scale: ``"mean"`` (of ``categorical``: probabilities) or ``"linear"``.

    >>> params = LinearParams(jnp.array([2.0]), jnp.array(0.0))
    >>> predict(params, jnp.array([[0.0]]), family="bernoulli").tolist()
    [0.5]
    """
    family = families.get(family, link)
    if scale not in ("mean", "linear"):
        raise InputError(f"scale: got {scale!r}, needs 'mean' or 'linear'")
    outputs = linear.predict(params, x, offset=offset)
    return family.mean(outputs) if scale == "mean" else outputs


# What is not needed to fit, on demand.
_ELSEWHERE = {"GlmInference": "glm_inference", "infer": "glm_inference", "profile": "glm_profile"}


def __getattr__(name: str) -> Any:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxmodels.regression.{_ELSEWHERE[name]}"), name)

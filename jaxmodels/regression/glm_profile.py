"""Intervals from the profile likelihood: no normal approximation, and ends that need not be symmetric.

    {v: 2 (min over the others of nll(v, others) - min nll) / dispersion <= quantile}

Each end is found by Newton's method on the root of the left side, whose slope is the score at the constrained fit.

Source: Venzon and Moolgavkar, A method for computing profile-likelihood-based confidence intervals (1988).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Shaped

from jaxmodels import families
from jaxmodels.core import InputError, Solution
from jaxmodels.families import Family
from jaxmodels.links import Link
from jaxmodels.numerics import newton
from jaxmodels.numerics.newton import Problem
from jaxmodels.regression import likelihood
from jaxmodels.regression.glm_inference import check, fit_of, infer
from jaxmodels.regression.likelihood import Form

MAX_STEPS = 30
# An interval that reaches so many standard errors is open.
OPEN = 1e3


def profile(
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
    confidence: float = 0.95,
) -> Float[Array, "p 2"]:
    """Intervals of the values that a likelihood-ratio test, the other parameters refitted, does not reject.

    Args:
      solution, x, y, family, link, weights, offset, mask, l2, intercept: as in ``infer``; of one output.
      confidence: by the chi-square distribution with one degree of freedom, or F for families with a dispersion,
        which is held at ``infer``'s.

    Returns:
      Ends in the order ``intercept, coefficients``; infinite where the likelihood never falls so far.

    Raises:
      InputError: the family is ``categorical``, or an argument does not fit the others.

    >>> from jaxmodels.regression import glm
    >>> x, y = jnp.array([[0.0], [0.0], [0.0], [1.0], [1.0], [1.0]]), jnp.array([1, 0, 0, 1, 1, 0])
    >>> low, high = profile(glm.fit(x, y, family="bernoulli"), x, y, family="bernoulli")[1]
    >>> bool((low < 0) & (0 < high))
    True
    """
    family = families.get(family, link)
    check("classical", confidence, family)
    if family.name == "categorical":
        raise InputError("family: categorical has no profile here; use infer, or bernoulli of two classes")
    given = {"weights": weights, "offset": offset, "mask": mask, "l2": l2}
    data = likelihood.read(family, x, y, **given)
    form, _ = likelihood.split(family, bool(intercept))
    inference = infer(solution, x, y, family=family, intercept=intercept, confidence=confidence, **given)
    return _profile(solution, data, inference, form=form)


@functools.partial(jax.jit, static_argnames="form")
def _profile(solution, data, inference, *, form: Form):
    fit = fit_of(form, solution, data)
    radius = (inference.confidence_interval[:, 1] - inference.estimate) / inference.standard_error
    least = newton.value(likelihood.loss(form), fit.problem, fit.coefficients, fit.outputs)
    lanes = jnp.arange(2 * len(inference.estimate))

    def end(lane):
        index, side = lane // 2, jnp.where(lane % 2 == 0, -1, 1).astype(least.dtype)
        # The intercept is that at x = 0, so its lane has columns that are not centred.
        raw = (index == 0) & form.intercept
        center = jnp.where(raw, jnp.zeros_like(fit.problem.center).at[0].set(-1), fit.problem.center)
        problem = fit.problem._replace(center=center)
        first = jnp.where(raw, inference.estimate, fit.coefficients[0])
        error, size = inference.standard_error[index], radius[index]
        at = functools.partial(_constrained, form, problem, first, index)
        return _search(at, first[index], side * error, size, least, inference.dispersion)

    ends = lax.map(end, lanes)
    return ends.reshape(-1, 2)


def _constrained(form: Form, problem: Problem, first: Array, index: Array, fixed: Array) -> tuple[Array, Array]:
    """The least objective with one coefficient fixed, and its slope in that."""
    column, own = newton.design(problem)[:, index], jnp.arange(len(problem.center)) == index
    x = jnp.where(own[len(own) - problem.x.shape[1] :], 0, problem.x)
    center, offset = jnp.where(own, 0, problem.center), problem.offset + fixed * column[:, None]
    rest = problem._replace(x=x, center=center, offset=offset)
    loss = likelihood.loss(form)
    eps = float(jnp.finfo(fixed.dtype).eps)
    start = first.at[index].set(0)[None]
    found = newton.solve(loss, rest, start, jnp.asarray(eps**0.5, fixed.dtype), jnp.int32(50)).coefficients
    whole = found.at[0, index].set(fixed)
    value = newton.value(loss, problem, whole, newton.predictor(problem, whole))
    return value, -newton.score(loss, problem, whole)[0, index]


def _search(at, best: Array, step: Array, size: Array, least: Array, dispersion: Array) -> Array:
    """Where the signed root of the deviance's rise is ``size``, by Newton's method: it is nearly a straight line."""
    eps = float(jnp.finfo(best.dtype).eps)

    def unfinished(state):
        return (jnp.abs(state[1]) > 4 * eps**0.75 * jnp.abs(step)) & (state[2] < MAX_STEPS)

    def move(state):
        point, _, count = state
        value, slope = at(point)
        rise = jnp.sqrt(jnp.maximum(2 * (value - least) / dispersion, 0))
        change = -(rise - size) * rise * dispersion / slope
        limit = 4 * size * jnp.abs(step)
        change = jnp.where(jnp.isfinite(change), jnp.clip(change, -limit, limit), limit * jnp.sign(step))
        return point + change, change, count + 1

    first = best + step * size
    point, *_ = lax.while_loop(unfinished, move, (first, jnp.full_like(best, jnp.inf), jnp.int32(0)))
    return jnp.where(jnp.abs(point - best) > OPEN * jnp.abs(step), jnp.sign(step) * jnp.inf, point)

"""Least squares in pairs, on the columns as they came, where columns may depend on each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxmodels.numerics import centered, qr, refinement
from jaxmodels.numerics import double_double as dd
from jaxmodels.numerics.double_double import DoubleDouble
from jaxmodels.numerics.problem import Form, Problem, Solved, clean, design, limit, sums_that_count, weigh


def solve(form: Form, problem: Problem) -> Solved:
    """The solution with an error estimate; ``center`` is 0."""
    x, _, weights = clean(problem)
    finite = jnp.array(True)
    for total in sums_that_count(problem):
        finite &= jnp.all(jnp.isfinite(total))
    if weights is not None:
        finite &= jnp.isfinite(jnp.sum(weights))
        weights = jnp.where(finite, weights, 0)
    columns, targets = jax.tree.map(
        lambda part: jnp.where(finite, part, 0), (_exact_columns(form, x, problem.x_low), _exact_targets(problem))
    )
    penalty = problem.penalty
    if penalty is not None and form.intercept:
        penalty = jnp.pad(penalty, (1, 0))
    center, least = _least_distances(form, problem, jnp.where(finite, x, 0), weights)
    kept, result = _solve_independent(columns, targets, weights, penalty, least, center)
    return Solved(
        coefficients=result.coefficients.high,
        factor=jnp.where(kept[:, None] & kept, result.covariance_factor, 0),
        residual_sum_of_squares=result.residual_sum_of_squares.high,
        center=jnp.zeros_like(x[0]),
        rank=jnp.sum(kept).astype(x.dtype),
        condition=result.condition,
        finite=finite.astype(x.dtype),
        error=result.error + jnp.abs(result.coefficients.low),
    )


def _exact_columns(form: Form, x: Array, x_low: Array | None) -> Array | DoubleDouble:
    high = design(form, x)
    if x_low is None:
        return high
    low = jnp.where(x == 0, 0, x_low)
    return DoubleDouble(high, jnp.pad(low, ((0, 0), (1, 0))) if form.intercept else low)


def _exact_targets(problem: Problem) -> Array | DoubleDouble:
    if problem.offset is None and problem.y_low is None:
        return clean(problem)[1]
    y = problem.y if problem.y_low is None else DoubleDouble(problem.y, problem.y_low)
    y = dd.as_pair(y) if problem.offset is None else dd.subtract(y, problem.offset)
    most = limit(problem)
    return y if most is None else dd.where(jnp.abs(y.high) <= most, y, jnp.zeros_like(y.high))


def _least_distances(form: Form, problem: Problem, x: Array, weights: Array | None) -> tuple[Array | None, Array]:
    """The center, and how far from the columns before it each must lie: further than the rounding of the data, unless
    x is exact."""
    total = jnp.asarray(len(x), x.dtype) if weights is None else jnp.sum(weights)
    divisor = jnp.where(total > 0, total, 1)
    center = jnp.sum(weigh(weights, x), axis=0) / divisor if form.intercept else jnp.zeros_like(x[0])
    roots = None if weights is None else jnp.sqrt(weights)
    lengths = qr.column_lengths(weigh(roots, x - center))
    least = qr.DEPENDENT * float(jnp.finfo(x.dtype).eps) * lengths + centered.rounding_of(center, divisor)
    if problem.x_low is not None:
        least = least * float(jnp.finfo(x.dtype).eps)
    return (jnp.pad(center, (1, 0)), jnp.pad(least, (1, 0))) if form.intercept else (None, least)


def _solve_independent(columns, targets, weights, penalty, least, center) -> tuple[Array, refinement.Certified]:
    """Which columns were kept, and the solution with them.

    A dropped column is zeroed and given a penalty of 1, which makes its coefficient 0 and touches no other.
    """
    high = dd.as_pair(columns).high
    size = high.shape[1]
    lengths = qr.column_lengths(weigh(None if weights is None else jnp.sqrt(weights), high))
    base = jnp.zeros(size, high.dtype) if penalty is None else penalty

    def certify(kept):
        present = jax.tree.map(lambda part: jnp.where(kept, part, 0), columns)
        about = None if center is None else jnp.where(kept, center, 0)
        penalties = jnp.where(kept, base, 1)
        result = refinement.least_squares(present, targets, weights=weights, penalty=penalties, center=about)
        pivots = jnp.where(kept, jnp.abs(jnp.diagonal(result.covariance_factor)), 0)
        # Distances are the reciprocals of the pivots. Where the rank falls short of what they say, the largest goes.
        relative = pivots * lengths
        dependent = (pivots * least >= 1) | ((result.rank < size) & (relative >= jnp.max(relative)))
        return kept, result, kept & dependent

    # One loop from nothing, so that there is one copy of its body to compile.
    first = (lengths > 0) | (base > 0)
    _, result, dependent = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(certify, first))
    state = (first, result, dependent), jnp.bool_(True)

    def again(state):
        (kept, _, dependent), _ = state
        after = certify(kept & ~dependent)
        return after, jnp.any(after[2])

    (kept, result, _), _ = lax.while_loop(lambda state: state[1], again, state)
    return kept, result

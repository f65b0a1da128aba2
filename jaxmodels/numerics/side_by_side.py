"""Many small least-squares problems side by side: lanes in the last axis, so that all operations are on vectors.

What ``centered`` does for one problem, in few passes over the rows, for lanes whose columns are well conditioned; it
tells which are not, and these are for ``centered``. It is for CPUs, whose libraries multiply small matrices slowly.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxmodels.numerics import centered, matrices, qr
from jaxmodels.numerics.centered import Columns, Factor
from jaxmodels.numerics.problem import Form, Problem, Solved


def applies(form: Form, problem: Problem) -> bool:
    """Whether ``solve`` is for problems like this; only the last axes are looked at."""
    plain = form.method == "qr" and problem.x_low is None and problem.y_low is None
    return plain and problem.x.shape[-1] <= matrices.SMALL and problem.y.shape[-1] == 1


def solve(form: Form, problem: Problem) -> tuple[Solved, Array]:
    """The solutions, and ``[lanes]`` booleans: where columns are so well conditioned that they are final.

    Args:
      form: of all problems.
      problem: every array with an axis of lanes in front, as the solutions have.
    """
    columns = _prepare(form, problem)
    penalty = jnp.zeros_like(columns.center) if problem.penalty is None else problem.penalty.T
    factor, trusted = _factorise(columns, penalty)
    first = _apply(factor.inverse, _products(columns, columns.targets))
    gradient = _products(columns, _residuals(columns, first)) - penalty * first
    coefficients = first + _apply(factor.inverse, gradient)
    squares = jnp.sum(_residuals(columns, coefficients) ** 2, axis=0)

    def finish(columns, factor, coefficients, squares):
        return centered.with_intercept(form, columns, factor, coefficients[:, None], squares[None])

    small = (columns._replace(design=None, targets=None, level=columns.level[None]), factor, coefficients, squares)
    return jax.vmap(finish, in_axes=-1)(*small), trusted & jnp.isfinite(squares)


def _prepare(form: Form, problem: Problem) -> Columns:
    """``[d, n, lanes]`` and ``[n, lanes]``; what does not count is 0."""
    x, y = problem.x.T, problem.y.T[0]
    y = y if problem.offset is None else y - problem.offset.T[0]
    weights = _weights(problem)
    if weights is not None:
        x, y = jnp.where(weights > 0, x, 0), jnp.where(weights > 0, y, 0)
    total = jnp.full(y.shape[1], len(y), y.dtype) if weights is None else jnp.sum(weights, axis=0)
    center, level = jnp.zeros_like(x[:, 0]), jnp.zeros_like(y[0])
    num_rows = total if weights is None else jnp.sum(weights > 0, axis=0)
    # The mean of numbers far from zero is itself off; that of what is left of them is not.
    for _ in range(2 if form.intercept else 0):
        x_mean, y_mean = (jnp.sum(each if weights is None else weights * each, axis=-2) / total for each in (x, y))
        x, y, center, level = x - x_mean[:, None], y - y_mean, center + x_mean, level + y_mean
    roots = 1 if weights is None else jnp.sqrt(weights)
    # Without the barrier the compiler centres anew for each product.
    x, y = lax.optimization_barrier((roots * x, roots * y))
    rounding = centered.rounding_of(center, total)
    return Columns(x, y, center, level, total, rounding, num_rows - int(form.intercept), jnp.ones_like(total))


def _weights(problem: Problem) -> Array | None:
    """``[n, lanes]``, 0 for what does not count."""
    if problem.weights is None:
        return None if problem.mask is None else problem.mask.T.astype(problem.x.dtype)
    weights = problem.weights.T if problem.mask is None else jnp.where(problem.mask.T, problem.weights.T, 0)
    return jnp.where(weights > 0, weights, 0)


def _factorise(columns: Columns, penalty: Array) -> tuple[Factor, Array]:
    size, num_rows, _ = columns.design.shape
    gram = _gram(columns.design)
    gram = gram + jnp.eye(size, dtype=gram.dtype)[:, :, None] * penalty
    squares = jnp.stack([gram[place, place] for place in range(size)])
    lengths = jnp.sqrt(squares)
    scale = 1 / lengths
    unit = lax.optimization_barrier(gram * scale[:, None] * scale)
    upper, inverse, squares_of = matrices.cholesky_entries(unit, matrices.gram_error(gram.dtype, num_rows, size))
    inverse = lax.optimization_barrier(jnp.stack([jnp.stack(row) for row in inverse]))
    pivots = jnp.stack([upper[place][place] for place in range(size)]) * lengths
    nothing = qr.DEPENDENT * float(jnp.finfo(gram.dtype).eps) * lengths + columns.rounding
    # NaN compares false.
    trusted = jnp.sqrt(squares_of[0] * squares_of[1]) <= qr.WELL_CONDITIONED * size
    trusted &= jnp.all(qr.squares_are_safe(squares) & (pivots > nothing), axis=0)
    trusted &= columns.num_rows >= size
    return Factor(inverse * scale[:, None], jnp.full(trusted.shape, size), *squares_of), trusted


def _gram(design: Array) -> Array:
    size = len(design)
    upper = {(i, j): jnp.sum(design[i] * design[j], axis=0) for i in range(size) for j in range(i, size)}
    return jnp.stack([jnp.stack([upper[min(i, j), max(i, j)] for j in range(size)]) for i in range(size)])


def _apply(inverse: Array, vectors: Array) -> Array:
    turned = lax.optimization_barrier(jnp.sum(inverse * vectors[:, None], axis=0))
    return lax.optimization_barrier(jnp.sum(inverse * turned, axis=1))


def _residuals(columns: Columns, coefficients: Array) -> Array:
    fitted = sum(column * each for column, each in zip(columns.design, coefficients, strict=True))
    return lax.optimization_barrier(columns.targets - fitted)


def _products(columns: Columns, rows: Array) -> Array:
    """``X'rows``."""
    return lax.optimization_barrier(jnp.stack([jnp.sum(column * rows, axis=0) for column in columns.design]))

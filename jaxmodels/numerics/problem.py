"""A least-squares problem and its solution as data, and which of its rows and values count."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


class Problem(NamedTuple):
    """``minimise sum_i w_i (y_i - offset_i - x_i'b)^2 + sum_j p_j b_j^2``; rows that do not count may hold anything."""

    x: Float[Array, "n d"]
    y: Float[Array, "n k"]
    weights: Float[Array, " n"] | None = None
    mask: Bool[Array, " n"] | None = None
    offset: Float[Array, "n k"] | None = None
    penalty: Float[Array, " d"] | None = None
    x_low: Float[Array, "n d"] | None = None
    """The lower half of x where it is a pair; a constant to differentiation."""
    y_low: Float[Array, "n k"] | None = None


class Solved(NamedTuple):
    """The solution; ``p`` counts the intercept, which comes first."""

    coefficients: Float[Array, "p k"]
    """Of the design ``X = [1, x - center]``."""
    factor: Float[Array, "p p"]
    """``F`` with ``F F' = (X'WX + diag(penalty))^-1``."""
    residual_sum_of_squares: Float[Array, " k"]
    center: Float[Array, " d"]
    rank: Float[Array, ""]
    condition: Float[Array, ""]
    finite: Float[Array, ""]
    """1, or 0 where a row that counts holds NaN or infinity; then the rest is of no use, but finite."""
    error: Float[Array, "p k"] | None
    """Of the coefficients; certified only."""


class Form(NamedTuple):
    """What is fixed when the solution is traced."""

    intercept: bool
    method: str


def matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def weigh(weights: Array | None, rows: Array) -> Array:
    return rows if weights is None else weights[:, None] * rows


def limit(problem: Problem) -> Array | None:
    """``[n, 1]``, the largest magnitude that counts in each row; ``None`` where every row counts.

    A row of weight 0 counts for the derivative with respect to its weight, unless its values are those of padding.
    """
    if problem.weights is None and problem.mask is None:
        return None
    most = float(jnp.finfo(problem.x.dtype).max)
    each = jnp.full(problem.y.shape[:1], most, problem.x.dtype)
    if problem.weights is not None:
        each = jnp.where(problem.weights > 0, each, most**0.25)
    return (each if problem.mask is None else jnp.where(problem.mask, each, -1))[:, None]


def clean(problem: Problem) -> tuple[Array, Array, Array | None]:
    """x, y less its offset, and weights, without anything that could spoil rows that count."""
    y = problem.y if problem.offset is None else problem.y - problem.offset
    most = limit(problem)
    if most is None:
        return problem.x, y, None
    x = jnp.where(jnp.abs(problem.x) <= most, problem.x, 0)
    y = jnp.where(jnp.abs(y) <= most, y, 0)
    return x, y, weights_that_count(problem)


def weights_that_count(problem: Problem) -> Array:
    """The weights, 0 where masked out or negative; ones by default."""
    weights = jnp.ones_like(problem.y[:, 0]) if problem.weights is None else problem.weights
    weights = jnp.where(weights > 0, weights, 0)
    return weights if problem.mask is None else jnp.where(problem.mask, weights, 0)


def sums_that_count(problem: Problem) -> tuple[Array, Array]:
    """Weighted sums of x and of y less its offset; not finite where a value that counts is not."""
    y = problem.y if problem.offset is None else problem.y - problem.offset
    if problem.weights is None and problem.mask is None:
        return jnp.sum(problem.x, axis=0), jnp.sum(y, axis=0)
    weights = weights_that_count(problem)[:, None]

    def total(rows):
        return jnp.sum(jnp.where(weights > 0, weights * rows, 0), axis=0)

    return total(problem.x), total(y)


def design(form: Form, x: Array) -> Array:
    """With the column of ones, where there is an intercept."""
    return jnp.concatenate([jnp.ones_like(x[:, :1]), x], axis=1) if form.intercept else x

"""Least squares from the triangular factor of the centred columns, with one step of refinement.

    Z = x - mean,  R'R = Z'WZ + diag(p),  b = R^-1 R^-T Z'W y,  b <- b + R^-1 R^-T (Z'W (y - Z b) - p b)

The intercept's column is orthogonal to centred ones, so that it takes no part. The residuals of the step make good what
the product ``Z'Wy`` lost to rounding (Björck 1987, the corrected seminormal equations).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxmodels.numerics import matrices, qr
from jaxmodels.numerics.problem import Form, Problem, Solved, clean, matmul, sums_that_count, weigh

# A column is constant if its length, centred, is at most this many eps of what it was: rounding of the data.
CONSTANT = 4.0
# What one Gram matrix may lose under method="cholesky": refinement squares it in the coefficients.
CHOLESKY_LOSS = 1e-5


def rounding_of(center: Array, total_weight: Array) -> Array:
    """The length that a constant column may have after rounding."""
    return CONSTANT * float(jnp.finfo(center.dtype).eps) * jnp.abs(center) * jnp.sqrt(total_weight)


class Columns(NamedTuple):
    """The columns that are factored: centred, and times the roots of the weights."""

    design: Array
    targets: Array
    center: Array
    level: Array
    """Of the targets where x is at its center."""
    total_weight: Array
    rounding: Array
    """Length of what rounding the data has left in each column."""
    num_rows: Array
    """That count, less one for the intercept: a bound on the rank."""
    finite: Array


class Factor(NamedTuple):
    inverse: Array
    rank: Array
    upper_squares: Array
    """Sum of the squares of the scaled R, whose columns have length 1."""
    inverse_squares: Array


def solve(form: Form, problem: Problem) -> Solved:
    """The solution by ``form.method``, ``"qr"``, ``"cholesky"`` or ``"svd"``."""
    columns = _prepare(form, problem)
    factor = _factorise(form, problem.penalty, columns)
    coefficients = _refined(factor.inverse, problem.penalty, columns)
    residuals = columns.targets - matmul(columns.design, coefficients)
    return with_intercept(form, columns, factor, coefficients, jnp.sum(residuals**2, axis=0))


# Centre --------------------------------------------------------------------------------------------------------------


def _prepare(form: Form, problem: Problem) -> Columns:
    x, y, weights = clean(problem)
    total = jnp.asarray(len(y), y.dtype) if weights is None else jnp.sum(weights)
    sums = sums_that_count(problem)
    finite = jnp.isfinite(total) & jnp.all(jnp.isfinite(sums[0])) & jnp.all(jnp.isfinite(sums[1]))
    divisor = jnp.where(finite & (total > 0), total, 1)
    x_mean, y_mean = (jnp.where(finite, each / divisor, 0) for each in sums)
    rounding = rounding_of(x_mean, divisor)
    if not form.intercept:
        x_mean, y_mean, rounding = (jnp.zeros_like(each) for each in (x_mean, y_mean, rounding))
    x = _shift(x, x_mean, problem.x_low, finite)
    y = _shift(y, y_mean, problem.y_low, finite)
    if form.intercept:
        # The mean of numbers far from zero is itself off; that of what is left of them is not.
        x_rest, y_rest = (_sum(weights, each) / divisor for each in (x, y))
        x, y, x_mean, y_mean = x - x_rest, y - y_rest, x_mean + x_rest, y_mean + y_rest
    root = None if weights is None else jnp.sqrt(weights)
    num_rows = (len(y) if weights is None else jnp.sum(weights > 0)) - int(form.intercept)
    return Columns(weigh(root, x), weigh(root, y), x_mean, y_mean, total, rounding, jnp.asarray(num_rows), finite)


def _shift(values: Array, mean: Array, low: Array | None, finite: Array) -> Array:
    shifted = values - mean if low is None else values - mean + jnp.where(values == 0, 0, low)
    return jnp.where(finite, shifted, 0)


def _sum(weights: Array | None, rows: Array) -> Array:
    return jnp.sum(rows, axis=0) if weights is None else matmul(weights, rows)


# Factorise -----------------------------------------------------------------------------------------------------------


def _factorise(form: Form, penalty: Array | None, columns: Columns) -> Factor:
    num_rows, size = columns.design.shape
    trusted = qr.WELL_CONDITIONED * size
    if form.method == "cholesky":
        trusted = max(trusted, (CHOLESKY_LOSS / matrices.gram_error(columns.design.dtype, num_rows, size)) ** 0.5)
    triangle = qr.triangle(
        columns.design,
        penalty=penalty,
        # Which singular values count is decided on all columns.
        dependent=0.0 if form.method == "svd" else qr.DEPENDENT,
        rounding=0.0 if form.method == "svd" else columns.rounding,
        num_rows=columns.num_rows,
        trusted=trusted,
    )
    lengths = qr.column_lengths(triangle.upper)
    if form.method == "svd":
        return _singular(triangle.upper, lengths, columns.rounding)
    scale = jnp.where(lengths > 0, lengths, 1)
    inverse_squares = jnp.sum((triangle.inverse * scale[:, None]) ** 2)
    upper_squares = jnp.sum(jnp.where(triangle.kept, triangle.upper / scale, 0) ** 2)
    return Factor(triangle.inverse, jnp.sum(triangle.kept), upper_squares, inverse_squares)


def _singular(upper: Array, lengths: Array, rounding: Array) -> Factor:
    """From the singular values of the scaled R: ``F F'`` is the pseudo-inverse of the Gram matrix.

    Which values count is decided on columns of length 1; the minimum norm is that of the columns as they came.
    """
    varies = lengths > rounding
    scale = jnp.where(varies, lengths, 1)
    _, values, right = jnp.linalg.svd(jnp.where(varies, upper / scale, 0))
    counts = values > qr.DEPENDENT * qr.growth(len(upper)) * float(jnp.finfo(upper.dtype).eps) * values[0]
    reciprocals = jnp.where(counts, 1 / jnp.where(counts, values, 1), 0)
    factor = right.T * reciprocals / scale[:, None]
    null = right.T * ~counts / scale[:, None]
    factor = factor - _project(null, factor)
    return Factor(factor, jnp.sum(counts), jnp.sum(jnp.where(counts, values, 0) ** 2), jnp.sum(reciprocals**2))


def _project(basis: Array, vectors: Array) -> Array:
    """``vectors`` onto the span of the columns of ``basis`` that are not zero."""
    lengths = jnp.linalg.norm(basis, axis=0)
    left, values, _ = jnp.linalg.svd(basis / jnp.where(lengths > 0, lengths, 1))
    span = jnp.where(values > float(jnp.finfo(basis.dtype).eps) * len(basis), left, 0)
    return matmul(span, matmul(span.T, vectors))


# Solve ---------------------------------------------------------------------------------------------------------------


def _refined(inverse: Array, penalty: Array | None, columns: Columns) -> Array:
    first = _apply(inverse, matmul(columns.design.T, columns.targets))
    gradient = matmul(columns.design.T, columns.targets - matmul(columns.design, first))
    if penalty is not None:
        gradient = gradient - penalty[:, None] * first
    return first + _apply(inverse, gradient)


def _apply(inverse: Array, vectors: Array) -> Array:
    return matmul(inverse, matmul(inverse.T, vectors))


def with_intercept(form: Form, columns: Columns, factor: Factor, coefficients: Array, squares: Array) -> Solved:
    inverse, rank, upper_squares, inverse_squares = factor
    if form.intercept:
        present = columns.total_weight > 0
        alone = jnp.where(present, 1 / jnp.sqrt(jnp.where(present, columns.total_weight, 1)), 0)
        inverse = jnp.pad(inverse, ((1, 0), (1, 0))).at[0, 0].set(alone)
        coefficients = jnp.concatenate([columns.level[None], coefficients])
        rank, upper_squares, inverse_squares = rank + present, upper_squares + 1, inverse_squares + 1
    dtype = coefficients.dtype
    return Solved(
        coefficients=coefficients,
        factor=inverse,
        residual_sum_of_squares=squares,
        center=columns.center,
        rank=rank.astype(dtype),
        condition=jnp.sqrt(upper_squares) * jnp.sqrt(inverse_squares),
        finite=columns.finite.astype(dtype),
        error=None,
    )

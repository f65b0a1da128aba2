"""Least squares to the last digit: QR in working precision, residuals in pairs, iterative refinement.

    minimise  sum_i w_i (b_i - a_i' x)^2 + sum_j p_j x_j^2

    X = R^-1                        A = QR in working precision
    X <- X R^-1                     A X = QR, the product A X taken in pairs, until A X is orthonormal
    r = b - A x                     in pairs
    g = A'W r - P x                 in pairs
    x <- x + X X' g                 in pairs, until the step's bound falls below what the pairs can resolve

The first step divides the condition number by 1/u at each turn (u is the rounding unit), so that the contraction of
the second does not depend on it. A matrix of condition 1e15 takes one turn more in float64, as one of 1e6 does in
pairs of float32. What limits the answer then is the rounding of r and g, u^2 of what they are summed from.

Sources: Björck, Iterative refinement of linear least squares solutions I (1967) and Stability analysis of the method of
seminormal equations (1987); Demmel, Hida, Riedy, Li, Extra-precise iterative refinement for overdetermined least
squares problems (2009); Rump, Inversion of extremely ill-conditioned matrices in floating-point (2009).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.core import InputError
from jaxmodels.numerics import double_double as dd
from jaxmodels.numerics import matrices, qr
from jaxmodels.numerics.double_double import DoubleDouble

MAX_STEPS = 10
MAX_TURNS = 4
# Below this condition number a column the first factor gives the covariance to within some units of the last place.
WELL_CONDITIONED = 16.0


class Certified(NamedTuple):
    """A least-squares solution that knows its error."""

    coefficients: DoubleDouble
    """``[d]`` or ``[d, k]``."""
    error: Float[Array, "d *k"]
    """An upper estimate of ``|high + low - exact|`` for the data as given; ``high`` alone is off by ``|low|`` more."""
    residual_sum_of_squares: DoubleDouble
    """``[]`` or ``[k]``: weighted, without the penalty."""
    covariance_factor: Float[Array, "d d"]
    """Upper triangular ``F`` with ``F F' = (A'WA + P)^-1``, each row good to some units of the last place, whatever the
    condition."""
    condition: Float[Array, ""]
    """``|R|_F |R^-1|_F`` of ``[W^1/2 A; P^1/2]`` with its columns scaled to length about 1; at least ``d``."""
    rank: Int[Array, ""]
    """Columns that are independent as far as a pair can tell; below ``d`` nothing here is certified."""
    num_steps: Int[Array, "*k"]
    """Refinement steps taken."""
    converged: Bool[Array, "*k"]
    """Whether the error reached what pairs can resolve."""


class _Problem(NamedTuple):
    """The data with absent rows zeroed, and the powers of two that bring the columns to length about 1."""

    design: DoubleDouble | Array
    targets: DoubleDouble | Array
    weights: Array | None
    penalty: Array | None
    scale: Array


class _Factor(NamedTuple):
    inverse: DoubleDouble  # X, upper triangular, with A S X orthonormal
    condition: Array  # of the factor that was applied last: how far A S X may be from orthonormal
    turns: Array


def least_squares(
    design: Float[Array, "n d"] | DoubleDouble,
    targets: Float[Array, "n *k"] | DoubleDouble,
    *,
    weights: Float[Array, " n"] | None = None,
    penalty: Float[Array, " d"] | None = None,
    center: Float[Array, " d"] | None = None,
) -> Certified:
    """Solve a weighted, ridge-penalised least-squares problem to nearly all digits of a pair, with an error estimate.

    The data are taken as exact: a design or target that no float holds (decimal text, powers) comes as a pair.
    Works in float32 and float64, under jit and vmap. It is no place to differentiate through; apply the implicit rule
    to the result.

    Args:
      design: the matrix, a column of ones included if there is an intercept.
      targets: one column or several.
      weights: of the rows, at least 0; rows of weight 0 are absent, whatever they hold. Default: all 1.
      penalty: l2 on each coefficient, at least 0. Default: none.
      center: where the first column is ones without a penalty, about the mean of each other column (0 for itself):
        columns far from zero then need no further turn. It changes no answer. Default: none.

    Returns:
      ``Certified``. A column that depends on the others to within a pair's precision lowers ``rank``; to drop a column,
      zero it and give it a penalty of 1.

    Raises:
      InputError: shapes that do not fit, or no rows.

    >>> design = jnp.array([[1, 1], [1, 2], [1, 4]], jnp.float32)
    >>> fit = least_squares(design, jnp.array([1, 2, 3], jnp.float32))
    >>> slope = float(fit.coefficients.high[1]) + float(fit.coefficients.low[1])  # 9/14, in pairs of float32
    >>> bool(abs(slope - 9 / 14) <= fit.error[1] < 1e-12)
    True
    """
    _check(dd.as_pair(design).high, dd.as_pair(targets).high)
    if dd.as_pair(targets).high.ndim == 1:
        return _solve(design, targets, weights, penalty, center)
    axes = Certified(1, 1, 0, covariance_factor=None, condition=None, rank=None, num_steps=0, converged=0)
    return jax.vmap(lambda column: _solve(design, column, weights, penalty, center), in_axes=1, out_axes=axes)(targets)


def _check(design: Array, targets: Array) -> None:
    if design.ndim != 2 or 0 in design.shape:
        raise InputError(f"design: got shape {design.shape}, needs [n, d] with at least one row and column")
    if targets.ndim not in (1, 2) or len(targets) != len(design):
        raise InputError(f"targets: got shape {targets.shape} for {len(design)} rows, needs [n] or [n, k]")
    if design.dtype != targets.dtype:
        raise InputError(f"targets: got dtype {targets.dtype} for a design of {design.dtype}, needs the same")


def _solve(design, targets, weights, penalty, center) -> Certified:
    dtype = dd.as_pair(design).high.dtype
    if weights is not None:
        present = weights > 0
        design = jax.tree.map(lambda each: jnp.where(present[:, None], each, 0), design)
        targets = jax.tree.map(lambda each: jnp.where(present, each, 0), targets)
        weights = jnp.where(present, weights, 0)
    problem = _Problem(design, targets, weights, penalty, jnp.ones(dd.as_pair(design).high.shape[1:], dtype))
    problem, first, triangle = _first_factor(problem, center)
    factor = _orthonormalise(problem, first)
    condition = _condition(triangle, factor.inverse.high)
    return _certified(problem, factor, condition, _refine(problem, factor, _start(problem, first)))


def _unit(dtype) -> float:
    return float(jnp.finfo(dtype).eps) / 2


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _first_factor(problem: _Problem, center: Array | None) -> tuple[_Problem, _Factor, Array]:
    """X from the design rounded to working precision, with the scale it sets, and R.

    A column that depends on the others in working precision enters as it is, for pairs to tell. With a center it is
    ``A C`` that is factored, ``C`` the identity with ``-center`` in its first row: the subtraction rounds once.
    """
    design = dd.as_pair(problem.design).high
    if center is not None:
        design = design - center
        design = design + problem.design.low if isinstance(problem.design, DoubleDouble) else design
    if problem.weights is not None:
        design = jnp.sqrt(problem.weights)[:, None] * design
    first = qr.triangle(design, penalty=problem.penalty)
    lengths = qr.column_lengths(design)
    if problem.penalty is not None:
        lengths = jnp.hypot(lengths, jnp.sqrt(problem.penalty))
    whole = lengths if center is None else jnp.hypot(lengths, center * lengths[0])
    # A constant column has nothing left about its center: it counts as its rounding.
    missing = jnp.where(first.kept, 0, jnp.maximum(lengths, _unit(lengths.dtype) * whole))
    reciprocals = jnp.where(missing > 0, 1 / jnp.where(missing > 0, missing, 1), 0)
    triangle, inverse = first.upper + jnp.diag(missing), first.inverse + jnp.diag(reciprocals)
    unit_columns = 1 / dd.power_of_two(lengths)
    condition = _condition(triangle * unit_columns, inverse / unit_columns[:, None])
    condition = jnp.where(jnp.any(missing > 0), jnp.inf, condition)
    if center is None:
        scale, exact = unit_columns, dd.as_pair(inverse / unit_columns[:, None])
    else:
        scale = 1 / dd.power_of_two(whole)
        triangle = triangle.at[0].add(triangle[0, 0] * center)
        turned = jnp.eye(len(scale), dtype=scale.dtype).at[0].add(-center * scale / scale[0])
        exact = dd.matmul(turned, inverse / scale[:, None])
    return problem._replace(scale=scale), _Factor(exact, condition, jnp.int32(0)), triangle * scale


def _start(problem: _Problem, factor: _Factor) -> Array:
    """The solution in working precision, by two seminormal steps (Björck 1987), or 0 where that has none."""
    design, targets = dd.as_pair(problem.design).high, dd.as_pair(problem.targets).high
    inverse = factor.inverse.high

    def step(coefficients):
        residuals = targets - _product(design, problem.scale * coefficients)
        weighted = residuals if problem.weights is None else problem.weights * residuals
        gradient = problem.scale * _product(weighted, design)
        if problem.penalty is not None:
            gradient = gradient - problem.penalty * problem.scale**2 * coefficients
        return coefficients + _product(inverse, _product(gradient, inverse))

    zeros = jnp.zeros_like(problem.scale)
    return jnp.where(_separable(factor), step(step(zeros)), zeros)


def _separable(first: _Factor) -> Array:
    """Whether working precision tells every direction of the columns from rounding."""
    return first.condition < 1 / (64 * _unit(first.condition.dtype))


def _inverse(triangle: Array) -> Array:
    """``R^-1``, with pivots that rounding could have made lifted to the rounding unit, so that it is finite."""
    lengths = jnp.linalg.norm(triangle, axis=0)
    pivots = jnp.diagonal(triangle)
    least = _unit(triangle.dtype) * jnp.where(lengths > 0, lengths, 1)
    lifted = jnp.where(jnp.abs(pivots) < least, jnp.where(pivots < 0, -least, least), pivots)
    return matrices.triangular_inverse(jnp.triu(triangle, 1) + jnp.diag(lifted))


def _condition(triangle: Array, inverse: Array) -> Array:
    """Frobenius condition: d for an orthonormal matrix, at most d times the usual one and never below it."""
    return jnp.linalg.norm(triangle) * jnp.linalg.norm(inverse)


def _turn(factor: _Factor, triangle: Array) -> _Factor:
    inverse = _inverse(triangle)
    return _Factor(dd.matmul(factor.inverse, inverse), _condition(triangle, inverse), factor.turns + 1)


def _fold_basis(problem: _Problem, factor: _Factor, num_slices: int, join: Callable, start: Array) -> Array:
    """Fold ``join(total, rows)`` over the rows of ``W^1/2 A S X``, the product taken in pairs.

    In blocks, which keeps slices and rows in the cache and out of memory.
    """
    num_rows = _num_rows(problem)
    size = min(max(2048, -(-num_rows // 64)), num_rows)
    # Without the barrier the compiler slices the design outside the turns, also when there are none.
    problem, factor = lax.optimization_barrier((problem, factor))

    def join_block(block, total):
        # The last block starts early enough to be whole, and leaves out what the one before it had.
        first = jnp.minimum(block * size, num_rows - size)
        fresh = jnp.arange(size) >= block * size - first
        design, weights = jax.tree.map(
            lambda each: lax.dynamic_slice_in_dim(each, first, size), (problem.design, problem.weights)
        )
        basis = dd.sliced_matmul(_scaled(design, problem.scale), factor.inverse, num_slices=num_slices).high
        roots = fresh if weights is None else jnp.where(fresh, jnp.sqrt(weights), 0)
        return join(total, roots[:, None] * basis)

    return lax.fori_loop(0, -(-num_rows // size), join_block, start)


def _penalty_rows(problem: _Problem, factor: _Factor) -> Array:
    """``P^1/2 S X``, which is triangular."""
    if problem.penalty is None:
        return jnp.zeros_like(factor.inverse.high)
    return (jnp.sqrt(problem.penalty) * problem.scale)[:, None] * factor.inverse.high


def _triangle_by_rows(problem: _Problem, factor: _Factor) -> Array:
    """R of the basis by QR, for a first factor that says nothing about some directions."""

    def join(triangle, rows):
        return jnp.linalg.qr(jnp.concatenate([triangle, rows]), mode="r")

    num_slices = 6 if problem.scale.dtype == jnp.float64 else 7
    return _fold_basis(problem, factor, num_slices, join, _penalty_rows(problem, factor))


def _triangle_by_gram(problem: _Problem, factor: _Factor) -> Array:
    """R of a basis that is orthonormal but for rounding, so that its Gram matrix loses nothing."""

    def join(gram, rows):
        return gram + _product(rows.T, rows)

    num_slices = 3 if problem.scale.dtype == jnp.float64 else 4
    gram = join(jnp.zeros_like(factor.inverse.high), _penalty_rows(problem, factor))
    return jnp.linalg.cholesky(_fold_basis(problem, factor, num_slices, join, gram)).T


def _orthonormalise(problem: _Problem, first: _Factor) -> _Factor:
    """Turns until the last factor was well conditioned; none where the first one is.

    Loops rather than branches: under vmap a loop that no lane needs costs nothing.
    """
    separable = _separable(first)

    def unfinished(factor):
        return (factor.condition > WELL_CONDITIONED * len(problem.scale)) & (factor.turns < MAX_TURNS)

    def near(factor):
        return _turn(factor, _triangle_by_gram(problem, factor))

    def far(factor):
        return _turn(factor, _triangle_by_rows(problem, factor))

    factor = lax.while_loop(lambda factor: unfinished(factor) & separable, near, first)
    return lax.while_loop(unfinished, far, factor)


class _State(NamedTuple):
    coefficients: DoubleDouble  # of the scaled columns
    residuals: DoubleDouble
    change: Array  # the last step, which the residuals do not have yet
    remaining: Array  # bound on what the contraction has left
    noise: Array  # bound on what the rounding of residuals and gradient has left
    num_steps: Array
    stalled: Array


def _refine(problem: _Problem, factor: _Factor, start: Array) -> _State:
    """Steps x <- x + X X' g until what is left to correct is too small to matter."""
    unit = _unit(start.dtype)
    rate = jnp.minimum(1, (8 + _num_rows(problem) ** 0.5) * unit * factor.condition)
    lengths = jnp.linalg.norm(factor.inverse.high, axis=1)

    def unfinished(state):
        return (state.num_steps < MAX_STEPS) & ~state.stalled & ~_reached(state)

    def step(state):
        # Without the barrier the compiler stores the halves of the design, which cost less to cut again.
        data, coefficients = lax.optimization_barrier((problem, state.coefficients))
        residuals = _residuals(data, coefficients)
        gradient = _gradient(data, coefficients, residuals)
        rotated = dd.matmul(jax.tree.map(jnp.transpose, factor.inverse), gradient)
        change = dd.matmul(factor.inverse, rotated)
        remaining = rate * lengths * jnp.linalg.norm(rotated.high)
        return _State(
            coefficients=dd.add(state.coefficients, change),
            residuals=residuals,
            change=change.high,
            remaining=remaining,
            noise=_noise(problem, factor, state.coefficients, residuals, gradient),
            num_steps=state.num_steps + 1,
            stalled=(state.num_steps > 0) & ~jnp.any(remaining < state.remaining / 2),
        )

    infinite = jnp.full_like(start, jnp.inf)
    zeros = jax.tree.map(jnp.zeros_like, dd.as_pair(problem.targets))
    state = _State(dd.as_pair(start), zeros, start, infinite, 0 * start, jnp.int32(0), jnp.bool_(False))
    return lax.while_loop(unfinished, step, state)


def _reached(state: _State) -> Array:
    """Whether the contraction has left 2^-13 of the last place of ``high``, or far less than rounding has."""
    last_place = _unit(state.noise.dtype) * jnp.abs(state.coefficients.high)
    return jnp.all(state.remaining <= jnp.maximum(last_place / 2**13, state.noise / 2**10))


def _num_rows(problem: _Problem) -> int:
    return dd.as_pair(problem.targets).high.shape[0]


def _num_parts(problem: _Problem) -> int:
    """Parts of the running sums. A pair of float32 is short, so that sums of pairs would lose digits that count."""
    return 2 if problem.scale.dtype == jnp.float64 else 3


def _scaled(values: Any, scale: Array) -> Any:
    """Times powers of two, which is exact for each half of a pair."""
    return jax.tree.map(lambda each: each * scale, values)


def _residuals(problem: _Problem, coefficients: DoubleDouble) -> DoubleDouble:
    minus = _scaled(coefficients, -problem.scale)
    return dd.matmul(problem.design, minus, initial=problem.targets, num_parts=_num_parts(problem))


def _gradient(problem: _Problem, coefficients: DoubleDouble, residuals: DoubleDouble) -> DoubleDouble:
    """``S (A'W r - P S x)``, half the gradient's negative."""
    weighted = residuals if problem.weights is None else dd.multiply(residuals, problem.weights)
    column = jax.tree.map(lambda each: each[:, None], weighted)
    gradient = _scaled(dd.dot(problem.design, column, axis=0, num_parts=_num_parts(problem)), problem.scale)
    if problem.penalty is None:
        return gradient
    return dd.subtract(gradient, dd.multiply(coefficients, problem.penalty * problem.scale**2))


def _noise(problem, factor, coefficients, residuals, gradient) -> Array:
    """Bound on the error in each coefficient from rounding r, g and the coefficient itself.

    An error e in r moves x by ``X (A X)' e``, one in g by ``X X' e``; the columns of A have length 1 to 2. Sums of n
    terms take ``4 sqrt(n)`` roundings: errors walk at random, and four deviations are allowed for.
    """
    inverse = factor.inverse.high
    unit = _unit(inverse.dtype)
    sums = unit ** _num_parts(problem)
    roots = 1 if problem.weights is None else jnp.sqrt(problem.weights)
    residual_size = jnp.linalg.norm(roots * residuals.high)
    summed = jnp.linalg.norm(roots * dd.as_pair(problem.targets).high) + 2 * jnp.sum(jnp.abs(coefficients.high))
    in_residuals = sums * (4 + len(inverse)) * summed + 2 * unit**2 * residual_size
    in_gradient = sums * 2 * (8 + 4 * _num_rows(problem) ** 0.5) * residual_size + 2 * unit**2 * jnp.abs(gradient.high)
    if problem.penalty is not None:
        in_gradient = in_gradient + 4 * unit**2 * problem.penalty * problem.scale**2 * jnp.abs(coefficients.high)
    moved = jnp.linalg.norm(inverse, axis=1) * in_residuals + _product(
        jnp.abs(_product(inverse, inverse.T)), in_gradient
    )
    return moved + 2 * unit**2 * jnp.abs(coefficients.high)


def _certified(problem: _Problem, factor: _Factor, condition: Array, state: _State) -> Certified:
    # The last step is so small against the residuals that its product with the design needs no pair.
    last = _product(dd.as_pair(problem.design).high, problem.scale * state.change)
    residuals = dd.add(state.residuals, -last)
    weighted = residuals if problem.weights is None else dd.multiply(residuals, problem.weights)
    rank = _rank(problem, factor)
    finite = jnp.all(jnp.isfinite(state.coefficients.high))
    converged = finite & (rank == len(problem.scale)) & _reached(state)
    error = jnp.where(converged, state.remaining + state.noise, jnp.inf)
    return Certified(
        coefficients=_scaled(state.coefficients, problem.scale),
        error=error * problem.scale,
        residual_sum_of_squares=dd.dot(weighted, residuals),
        covariance_factor=problem.scale[:, None] * factor.inverse.high,
        condition=condition,
        rank=rank,
        num_steps=state.num_steps,
        converged=converged,
    )


def _rank(problem: _Problem, factor: _Factor) -> Array:
    """Columns that are not 0 and whose pivots of R, the reciprocals of X's, stand out of the rounding of pairs."""
    pivots = jnp.abs(jnp.diagonal(factor.inverse.high))
    limit = 1 / (64 * len(pivots) * _unit(pivots.dtype) ** 2)
    present = jnp.any(dd.as_pair(problem.design).high != 0, axis=0)
    if problem.penalty is not None:
        present = present | (problem.penalty > 0)
    return jnp.sum(present & (pivots < limit)).astype(jnp.int32)

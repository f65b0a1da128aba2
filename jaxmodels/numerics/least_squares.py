"""Weighted, penalised least squares that may be differentiated, batched and sharded.

    minimise  sum_i w_i (y_i - x_i'b)^2 + sum_j p_j b_j^2,    x_i = [1, data_i - center]

With ``A = X'WX + diag(p)``, ``A^-1 = F F'`` and residuals r, the implicit function theorem gives the derivative

    db = F F' (dX'W r + X'dW r + X'W (dy - dX b) - dp b),    dF = -F upper(F'dA F)

(``upper`` halves the diagonal), so that a fit is differentiated with the factor it already has, to any order.
``center`` is a constant in this, for the fit does not depend on it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from jaxmodels.numerics import centered, certified, side_by_side
from jaxmodels.numerics.problem import Form, Problem, Solved, clean, limit, matmul, weigh
from jaxmodels.numerics.problem import design as design_of

METHODS = ("qr", "svd", "cholesky", "certified")
# On a CPU, lanes of a batch are worked on in groups that fit its caches.
GROUP_BYTES = 2**19


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def solve(form: Form, problem: Problem) -> Solved:
    """The least-squares solution; differentiable in x, y, weights, offset and penalty.

    ``rank``, ``condition``, ``center`` and ``error`` are constants to differentiation; where the rank falls short, so
    is the choice of columns.

    >>> x, y = jnp.array([[1.0], [2.0], [3.0]]), jnp.array([[1.0], [2.0], [4.0]])
    >>> slope = lambda y: solve(Form(True, "qr"), Problem(x, y)).coefficients[1, 0]
    >>> [round(float(each), 4) for each in jax.grad(slope)(y)[:, 0]]
    [-0.5, 0.0, 0.5]
    """
    return _batchable(form)(problem)


def _solve_now(form: Form, problem: Problem) -> Solved:
    return (certified if form.method == "certified" else centered).solve(form, problem)


# Many at once --------------------------------------------------------------------------------------------------------


@functools.cache
def _batchable(form: Form) -> Callable[[Problem], Solved]:
    @jax.custom_batching.custom_vmap
    def one(problem: Problem) -> Solved:
        return _solve_now(form, problem)

    @one.def_vmap
    def many(axis_size, in_batched, problem):
        leaves, structure = jax.tree.flatten(problem)
        batched = jax.tree.leaves(in_batched[0])
        axes = jax.tree.unflatten(structure, [0 if is_batched else None for is_batched in batched])

        def merge(lanes, share):
            rest = iter(lanes)
            return structure.unflatten(
                [next(rest) if is_batched else share(leaf) for leaf, is_batched in zip(leaves, batched, strict=True)]
            )

        def all_at_once(lanes):
            return jax.vmap(functools.partial(_solve_now, form), in_axes=(axes,))(merge(lanes, lambda leaf: leaf))

        def vectors_of_lanes(lanes):
            copied = merge(lanes, lambda leaf: jnp.broadcast_to(leaf, (len(lanes[0]), *leaf.shape)))
            solved, trusted = side_by_side.solve(form, copied)

            def with_the_rest():
                return jax.tree.map(functools.partial(_choose, trusted), solved, all_at_once(lanes))

            return lax.cond(jnp.all(trusted), lambda: solved, with_the_rest)

        lanes = [leaf for leaf, is_batched in zip(leaves, batched, strict=True) if is_batched]
        by_vectors = axes.x == 0 and side_by_side.applies(form, problem)
        solved = lax.platform_dependent(
            lanes,
            cpu=functools.partial(_in_groups, vectors_of_lanes if by_vectors else all_at_once),
            default=all_at_once,
        )
        return solved, jax.tree.map(lambda _: True, solved)

    return one


def _choose(first: Array, a: Array, b: Array) -> Array:
    return jnp.where(first.reshape(-1, *[1] * (a.ndim - 1)), a, b)


def _in_groups(function: Callable, lanes: list[Array]) -> Solved:
    """``function`` of as many lanes at a time as fit the caches."""
    num_lanes = len(lanes[0])
    bytes_a_lane = sum(leaf.size * leaf.dtype.itemsize for leaf in lanes) // num_lanes
    size = max(1, GROUP_BYTES // max(1, bytes_a_lane))
    if size >= num_lanes:
        return function(lanes)
    # The last group starts early enough to be full, so that one trace serves all.
    starts = np.minimum(np.arange(0, num_lanes, size), num_lanes - size)
    repeated = len(starts) * size - num_lanes

    def one_group(start):
        return function([lax.dynamic_slice_in_dim(leaf, start, size) for leaf in lanes])

    def join(groups):
        return jnp.concatenate([groups[:-1].reshape(-1, *groups.shape[2:]), groups[-1, repeated:]])

    return jax.tree.map(join, lax.map(one_group, starts))


# The derivative ------------------------------------------------------------------------------------------------------


class _Tangents(NamedTuple):
    """Tangents of what enters the normal equations; ``None`` for zero."""

    design: Array | None
    targets: Array | None
    weights: Array | None
    penalty: Array | None


class _Linearised(NamedTuple):
    """The problem at its solution."""

    design: Array
    residuals: Array
    weights: Array | None


def _solve_jvp(form, primals, tangents):
    (problem,), (change,) = primals, tangents
    solved = solve(form, problem)
    at = _linearise(form, problem, solved)
    change = _tangents(form, problem, change, solved.finite > 0)
    gradient, gram, squares = _normal_equations_tangent(at, change, solved.coefficients)
    coefficients = matmul(solved.factor, matmul(solved.factor.T, gradient))
    if form.method == "svd" and change.design is not None:
        coefficients = coefficients + _minimum_norm_tangent(form, at, change.design, solved)
    normal = matmul(at.design.T, weigh(at.weights, at.residuals))
    zeros = jax.tree.map(jnp.zeros_like, solved)
    return solved, zeros._replace(
        coefficients=coefficients,
        factor=_factor_tangent(form, solved.factor, gram),
        residual_sum_of_squares=squares - 2 * jnp.sum(normal * coefficients, axis=0),
    )


solve.defjvp(_solve_jvp, symbolic_zeros=True)


def _linearise(form: Form, problem: Problem, solved: Solved) -> _Linearised:
    x, y, weights = clean(problem)
    sound = solved.finite > 0
    x = x - lax.stop_gradient(solved.center)
    columns = jnp.where(sound, design_of(form, x if problem.x_low is None else x + problem.x_low), 0)
    residuals = jnp.where(sound, y - matmul(columns, solved.coefficients), 0)
    return _Linearised(columns, residuals, weights)


def _tangents(form: Form, problem: Problem, change: Problem, sound: Array) -> _Tangents:
    """Tangents of design, targets, weights and penalty; those of what does not count are zero."""
    x, y, weights, offset, penalty = (
        None if tangent is None or isinstance(tangent, SymbolicZero) else tangent
        for tangent in (change.x, change.y, change.weights, change.offset, change.penalty)
    )
    if offset is not None:
        y = -offset if y is None else y - offset
    most = limit(problem)
    if most is not None and y is not None:
        y = jnp.where(jnp.abs(problem.y) <= most, y, 0)
    if most is not None and x is not None:
        x = jnp.where(jnp.abs(problem.x) <= most, x, 0)
    if weights is not None and problem.mask is not None:
        weights = jnp.where(problem.mask, weights, 0)
    if form.intercept:
        x = None if x is None else jnp.pad(x, ((0, 0), (1, 0)))
        penalty = None if penalty is None else jnp.pad(penalty, (1, 0))
    return jax.tree.map(lambda tangent: jnp.where(sound, tangent, 0), _Tangents(x, y, weights, penalty))


def _normal_equations_tangent(at: _Linearised, change: _Tangents, coefficients: Array) -> tuple[Array, Array, Array]:
    """Tangents, with the coefficients held, of ``X'W r - p b``, of ``A`` and of the residual sum of squares."""
    weighted = weigh(at.weights, at.residuals)
    gradient, squares = jnp.zeros_like(coefficients), jnp.zeros_like(coefficients[0])
    gram = jnp.zeros((len(coefficients),) * 2, coefficients.dtype)
    moved = jnp.zeros_like(at.residuals) if change.targets is None else change.targets
    if change.design is not None:
        moved = moved - matmul(change.design, coefficients)
        gradient = gradient + matmul(change.design.T, weighted)
        half = matmul(at.design.T, weigh(at.weights, change.design))
        gram = gram + half + half.T
    if change.weights is not None:
        rows = weigh(change.weights, at.design)
        gradient = gradient + matmul(rows.T, at.residuals)
        gram = gram + matmul(rows.T, at.design)
        squares = squares + jnp.sum(weigh(change.weights, at.residuals**2), axis=0)
    if change.penalty is not None:
        gradient = gradient - change.penalty[:, None] * coefficients
        gram = gram + jnp.diag(change.penalty)
    gradient = gradient + matmul(at.design.T, weigh(at.weights, moved))
    return gradient, gram, squares + 2 * jnp.sum(weighted * moved, axis=0)


def _factor_tangent(form: Form, factor: Array, gram: Array) -> Array:
    inner = matmul(matmul(factor.T, gram), factor)
    if form.method == "svd":  # not triangular, and any tangent with the right product will do
        return -matmul(factor, inner) / 2
    return -matmul(factor, jnp.triu(inner) - jnp.diag(jnp.diagonal(inner)) / 2)


def _minimum_norm_tangent(form: Form, at: _Linearised, design: Array, solved: Solved) -> Array:
    """What the moving null space adds where columns depend on each other (Golub and Pereyra 1973).

    The intercept has no part in the norm that is least.
    """
    size = solved.factor.shape[0]
    inverse = matmul(solved.factor, solved.factor.T)
    null = jnp.eye(size, dtype=inverse.dtype) - matmul(inverse, matmul(at.design.T, weigh(at.weights, at.design)))
    slopes = solved.coefficients.at[0].set(0) if form.intercept else solved.coefficients
    inner = matmul(at.design, matmul(inverse, slopes))
    turned = matmul(null, matmul(design.T, weigh(at.weights, inner)))
    return jnp.where(solved.rank < size, turned, 0)

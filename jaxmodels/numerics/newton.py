"""Newton's method for a sum of convex-ish losses of linear predictors, with step control and an implicit derivative.

    minimise over b [k, p]   sum_i w_i loss(offset_i + b z_i, targets_i) + 1/2 sum_j penalty_j b_j' C'C b_j

A step solves with the triangular factor of ``[W^1/2 z]``, never with an inverted Gram matrix, and where the expected
information W is not the second derivative, that one is factored in the basis of the first, so that steps are downhill
and still converge quadratically. The digits of the solution are those of the score, computed anew in each
step.

It stops when the coming step is at most ``tolerance`` standard errors in every direction (and takes that step) or when
the one after it is foretold to be about the square of that, so that units, scale and the number of rows make no
difference. A solution at infinity is found by its direction of recession (Albert and Anderson 1984): no loss grows
along it, and some shrink for ever.

The derivative of the solution is the implicit function theorem's: ``db = H^-1 d(score)``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.numerics import qr
from jaxmodels.numerics.centered import rounding_of
from jaxmodels.numerics.problem import matmul

RUNNING, CONVERGED, SEPARATED, STALLED = range(4)
# Halvings of a step before it counts as none.
MAX_HALVINGS = 30
# What one Gram matrix may lose: a step need not be exact.
GRAM_LOSS = 1e-2
# A step that is foretold to be below so many squares of the tolerance, and below it, is not waited for: it is rounding.
FORETOLD = 64.0
# A predictor that moves by less in a step may have converged; one on its way to infinity moves by about 1.
STILL = 0.1


class Loss(NamedTuple):
    """Static functions of ``(outputs [n, k], targets, parameter)``."""

    value: Callable[..., Array]
    """``[n]``."""
    score: Callable[..., Array]
    """``[n, k]``, minus the derivative."""
    root: Callable[..., Array]
    """``[n, k, m]``, L with ``L L'`` the expected second derivative, or the observed where they agree."""
    curvature: Callable[..., Array] | None
    """``[n, k, k]``, the second derivative; ``None`` where ``root`` has it."""
    margin: Callable[..., Array] | None
    """``(direction [n, k], targets) -> [n]``: at least 0 where the loss never grows that way. ``None``: it does."""
    fixed_dispersion: bool
    """Whether standard errors are those of the loss itself, else they are scaled by the deviance."""


class Problem(NamedTuple):
    """Cleaned: whatever stands in rows of weight 0 is finite."""

    design: Float[Array, "n p"]
    targets: Float[Array, "n *c"]
    weights: Float[Array, " n"]
    offset: Float[Array, "n k"]
    penalty: Float[Array, " p"]
    coupling: Float[Array, "k k"]
    """``C`` of the penalty."""
    center: Float[Array, " p"]
    """What was subtracted from the columns of the design; it says what rounding has left in them."""
    saturated: Float[Array, ""]
    """The weighted sum of the least values of the losses: half the deviance is what exceeds it."""
    parameter: Any
    """Of the loss, or ``None``."""


class Solved(NamedTuple):
    coefficients: Float[Array, "k p"]
    kept: Bool[Array, " kp"]
    """Columns that do not depend on those before them."""
    decrement: Float[Array, ""]
    """The last step, in standard errors."""
    num_steps: Int[Array, ""]
    ending: Int[Array, ""]
    """RUNNING (out of steps), CONVERGED, SEPARATED or STALLED."""


class _State(NamedTuple):
    solved: Solved
    outputs: Array
    value: Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def solve(
    loss: Loss, problem: Problem, start: Float[Array, "k p"], tolerance: Float[Array, ""], max_steps: Int[Array, ""]
) -> Solved:
    """The minimiser; differentiable in the problem. Under vmap a lane that has ended no longer changes."""
    outputs = predictor(problem, start)
    size = start.size
    none = Solved(start, jnp.ones(size, bool), jnp.asarray(jnp.inf, start.dtype), jnp.int32(0), jnp.int32(RUNNING))
    state = _State(none, outputs, value(loss, problem, start, outputs))

    def unfinished(state: _State) -> Array:
        return (state.solved.ending == RUNNING) & (state.solved.num_steps < max_steps)

    return lax.while_loop(unfinished, lambda state: _step(loss, problem, state, tolerance), state).solved


@solve.defjvp
def _(loss, primals, tangents):
    problem, *rest = primals
    solved = solve(loss, problem, *rest)
    coefficients = solved.coefficients

    def score_of(problem):
        return score(loss, problem, coefficients)

    _, change = jax.jvp(score_of, (problem,), (tangents[0],))
    moved = solve_linear(loss, problem, coefficients, change)
    return solved, jax.tree.map(no_tangent, solved)._replace(coefficients=moved)


def no_tangent(leaf: Array) -> Any:
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.zeros_like(leaf)
    return np.zeros(leaf.shape, jax.dtypes.float0)


def solve_linear(loss: Loss, problem: Problem, coefficients: Array, right: Array) -> Array:
    """``H^-1 right [k, p]`` with the second derivative H at the coefficients; differentiable to any order."""

    def times_hessian(vector):
        return -jax.jvp(lambda b: score(loss, problem, b), (coefficients,), (vector,))[1]

    fixed = jax.tree.map(lax.stop_gradient, (problem, coefficients))
    factor = hessian_factor(loss, *fixed)[0]

    def solve_by_factor(matvec, vector):
        first = _apply(factor, vector)
        return first + _apply(factor, vector - matvec(first))

    return lax.custom_linear_solve(times_hessian, right, solve_by_factor, symmetric=True)


# Parts of the objective -----------------------------------------------------------------------------------------------


def predictor(problem: Problem, coefficients: Float[Array, "k p"]) -> Float[Array, "n k"]:
    """``offset + b z``."""
    return problem.offset + matmul(problem.design, coefficients.T)


def score(loss: Loss, problem: Problem, coefficients: Float[Array, "k p"]) -> Float[Array, "k p"]:
    """Minus the derivative of the objective."""
    rows = _score_rows(loss, problem, predictor(problem, coefficients))
    return matmul(rows.T, problem.design) - _penalty_slope(problem, coefficients)


def _score_rows(loss: Loss, problem: Problem, outputs: Array) -> Array:
    rows = loss.score(outputs, problem.targets, problem.parameter)
    return jnp.where(problem.weights[:, None] > 0, problem.weights[:, None] * rows, 0)


def _penalty_slope(problem: Problem, coefficients: Array) -> Array:
    return problem.penalty * matmul(problem.coupling.T, matmul(problem.coupling, coefficients))


def value(loss: Loss, problem: Problem, coefficients: Array, outputs: Array) -> Array:
    """Less the saturated value, so that no digits are lost to what no step can change."""
    each = loss.value(outputs, problem.targets, problem.parameter)
    total = jnp.sum(jnp.where(problem.weights > 0, problem.weights * each, 0)) - problem.saturated
    return total + jnp.sum(_penalty_slope(problem, coefficients) * coefficients) / 2


def information_triangle(loss: Loss, problem: Problem, outputs: Float[Array, "n k"]) -> qr.Triangle:
    """R with ``R'R`` the expected information and the penalty, in the order of ``b [k, p]`` flattened."""
    root = loss.root(outputs, problem.targets, problem.parameter)
    root = jnp.where(problem.weights[:, None, None] > 0, jnp.sqrt(problem.weights)[:, None, None] * root, 0)
    num_rows, size = len(root), root.shape[1] * problem.design.shape[1]
    rows, scale = problem.design, root[:, 0, 0]
    if root.shape[1:] != (1, 1):
        rows, scale = jnp.swapaxes(root, 1, 2)[..., None] * problem.design[:, None, None, :], None
        rows = rows.reshape(-1, size)
    sums = jnp.sum(root**2, axis=(0, 2))
    rounding = jax.vmap(functools.partial(rounding_of, problem.center))(sums).reshape(-1)
    penalty = problem.penalty * problem.coupling[0, 0] ** 2
    if root.shape[1] > 1:
        below = jnp.kron(problem.coupling, jnp.diag(jnp.sqrt(problem.penalty)))
        rows, penalty = jnp.concatenate([rows, below]), None
    return qr.triangle(
        rows,
        scale=scale,
        penalty=penalty,
        dependent=qr.DEPENDENT,
        rounding=rounding,
        num_rows=root.shape[2] * jnp.sum(problem.weights > 0) + (size if penalty is None else 0),
        trusted=max(qr.WELL_CONDITIONED * size, (GRAM_LOSS / qr.gram_error(rows.dtype, num_rows, size)) ** 0.5),
    )


def hessian_factor(loss: Loss, problem: Problem, coefficients: Array) -> tuple[Array, qr.Triangle]:
    """``F`` with ``F F' = H^-1``; where H is not positive definite the expected information's."""
    outputs = predictor(problem, coefficients)
    triangle = information_triangle(loss, problem, outputs)
    if loss.curvature is None:
        return triangle.inverse, triangle
    return _observed_factor(loss, problem, coefficients, outputs, triangle), triangle


def _observed_factor(loss: Loss, problem: Problem, coefficients: Array, outputs: Array, triangle: qr.Triangle) -> Array:
    """In the basis of the expected information, where the second derivative is near the identity."""
    assert loss.curvature is not None
    curvature = problem.weights[:, None, None] * loss.curvature(outputs, problem.targets, problem.parameter)
    curvature = jnp.where(problem.weights[:, None, None] > 0, curvature, 0)[:, 0, 0]  # of one output: k = 1
    basis = matmul(problem.design, triangle.inverse)
    square = matmul(basis.T, curvature[:, None] * basis)
    rows = jnp.sqrt(problem.penalty)[:, None] * triangle.inverse
    square = square + matmul(rows.T, rows) + jnp.diag(1 - triangle.kept.astype(square.dtype))
    upper = lax.linalg.cholesky(square).mT
    sound = jnp.all(jnp.isfinite(upper))
    upper = jnp.where(sound, upper, jnp.eye(len(upper), dtype=upper.dtype))
    return matmul(triangle.inverse, qr.triangular_inverse(upper))


def _apply(factor: Array, vectors: Array) -> Array:
    return matmul(factor, matmul(factor.T, vectors.reshape(-1))).reshape(vectors.shape)


# A step ---------------------------------------------------------------------------------------------------------------


def _step(loss: Loss, problem: Problem, state: _State, tolerance: Array) -> _State:
    coefficients, outputs = state.solved.coefficients, state.outputs
    slope = matmul(_score_rows(loss, problem, outputs).T, problem.design) - _penalty_slope(problem, coefficients)
    triangle = information_triangle(loss, problem, outputs)
    factor = triangle.inverse
    if loss.curvature is not None:
        factor = _observed_factor(loss, problem, coefficients, outputs, triangle)
    direction = _apply(factor, slope)
    square = jnp.sum(direction * slope)
    aimed = predictor(problem, coefficients + direction)
    length, value = _halved(loss, problem, state, direction, aimed)
    stalled = length == 0
    error = jnp.sqrt(jnp.maximum(square, 0) / _dispersion(loss, problem, state.value))
    small = (error <= tolerance) | (square <= _noise(problem, triangle, coefficients))
    # Steps shrink as their squares, so that the last two foretell the next.
    previous = state.solved.decrement
    foretold = jnp.where(jnp.isfinite(previous), error * (error / previous) ** 2, jnp.inf)
    small |= foretold <= tolerance * jnp.minimum(FORETOLD * tolerance, 1)
    move = jnp.max(jnp.where(problem.weights[:, None] > 0, jnp.abs(aimed - outputs), 0), initial=0)
    separated = _recedes(loss, problem, direction, aimed - outputs, strict=False) & (move > STILL)
    separated |= _recedes(loss, problem, coefficients, outputs - problem.offset, strict=True)
    converged = small & (move <= jnp.where(loss.margin is None, jnp.inf, STILL))
    ending = jnp.where(stalled, STALLED, RUNNING)
    ending = jnp.where(separated, SEPARATED, jnp.where(converged, CONVERGED, ending)).astype(jnp.int32)
    coefficients = coefficients + length * direction
    outputs = jnp.where(length == 1, aimed, outputs + length * (aimed - outputs))
    solved = Solved(coefficients, triangle.kept, error, state.solved.num_steps + 1, ending)
    return _State(solved, outputs, value)


def _halved(loss: Loss, problem: Problem, state: _State, direction: Array, aimed: Array) -> tuple[Array, Array]:
    """The first of 1, 1/2, 1/4, ... of the step that does not raise the objective, else 0; and the value there."""
    eps = float(jnp.finfo(state.value.dtype).eps)
    slack = eps * (jnp.abs(state.value) + jnp.abs(problem.saturated)) * max(8.0, len(problem.weights) ** 0.5)

    def value_at(length):
        outputs = state.outputs + length * (aimed - state.outputs)
        return value(loss, problem, state.solved.coefficients + length * direction, outputs)

    def too_long(trial):
        length, value = trial
        return ~(value <= state.value + slack) & (length > 0)

    def halve(trial):
        length = jnp.where(trial[0] > 0.5**MAX_HALVINGS, trial[0] / 2, 0)
        return length, value_at(length)

    whole = jnp.ones_like(state.value)
    return lax.while_loop(too_long, halve, (whole, value_at(whole)))


def _dispersion(loss: Loss, problem: Problem, value: Array) -> Array:
    if loss.fixed_dispersion:
        return jnp.ones_like(value)
    deviance = 2 * jnp.maximum(value, 0)
    smallest = float(jnp.finfo(value.dtype).tiny)
    return jnp.maximum(deviance / jnp.maximum(jnp.sum(problem.weights > 0), 1), smallest)


def _noise(problem: Problem, triangle: qr.Triangle, coefficients: Array) -> Array:
    """The decrement squared that rounding the predictor leaves."""
    eps = float(jnp.finfo(coefficients.dtype).eps)
    return (4 * eps) ** 2 * jnp.sum(matmul(triangle.upper, coefficients.reshape(-1)) ** 2)


def _recedes(loss: Loss, problem: Problem, coefficients: Array, change: Array, *, strict: bool) -> Array:
    """Whether no loss grows along ``change`` of the outputs; strictly: whether all of them shrink, which proves it.

    Without ``strict`` a margin of rounding is left, into which the finite part of a step falls after some steps.
    """
    if loss.margin is None:
        return jnp.bool_(False)
    eps = float(jnp.finfo(change.dtype).eps)
    counts = problem.weights > 0
    size = jnp.max(jnp.where(counts[:, None], jnp.abs(change), 0), initial=0)
    margin = jnp.where(counts, loss.margin(change, problem.targets), jnp.inf)
    least = jnp.min(margin, initial=jnp.inf)
    bound = 64 * eps * size if strict else -(eps**0.5) * size
    penalised = jnp.sqrt(jnp.maximum(jnp.sum(_penalty_slope(problem, coefficients) * coefficients), 0))
    return (least > bound) & (size > 0) & (penalised <= eps**0.5 * size) & jnp.any(counts)

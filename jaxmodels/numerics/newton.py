"""Newton's method for a sum of convex-ish losses of linear predictors, with step control and an implicit derivative.

    minimise over b [k, p]   sum_i w_i loss(offset_i + b z_i, targets_i) + 1/2 sum_j penalty_j b_j' C'C b_j

A step solves with the triangular factor of ``[W^1/2 z]``, never with an inverted Gram matrix, and where the expected
information W is not the second derivative, that one is factored in the basis of the first, so that steps are downhill
and still converge quadratically. The digits of the solution are those of the score, computed anew in each step.

Of a large problem the Gram matrix costs many times what the score does. There it is summed in float32 where that is
enough for a step, and a factor serves for several, each of which brings it nearer to the true one by the change of the
score that it has seen (BFGS in product form); where they gain too little it is taken anew.

It stops when the coming step of Newton's method is at most ``tolerance`` standard errors in every direction (and takes
that step) or when the one after it is foretold to be about the square of that, so that units, scale and the number of
rows make no difference. A solution at infinity is found by its direction of recession (Albert and Anderson 1984): no
loss grows along it, and some shrink for ever.

The derivative of the solution is the implicit function theorem's: ``db = H^-1 d(score)``.

Source of the update: Brodlie, Gourlay and Greenstadt, Rank-one and rank-two corrections to positive definite matrices
expressed in product form (1973).
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

from jaxmodels.numerics import matrices, qr
from jaxmodels.numerics.centered import rounding_of
from jaxmodels.numerics.lanes import at_most_once, is_alone
from jaxmodels.numerics.problem import matmul
from jaxmodels.numerics.row_parts import over_parts, sum_of_parts

RUNNING, CONVERGED, SEPARATED, STALLED = range(4)
# Halvings of a step before it counts as none.
MAX_HALVINGS = 30
# What one Gram matrix may lose: a step need not be exact.
GRAM_LOSS = 1e-2
# A step that is foretold to be below so many squares of the tolerance, and below it, is not waited for: it is rounding.
FORETOLD = 64.0
# A factor serves on while steps shrink to this part of the one before.
SHRINK = 0.25
# It does so where x has as many entries and the design as many columns: else a Gram matrix is soon made.
LARGE, WIDE = 1 << 20, 32
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
    """The design is ``x - center``. Where p = d + 1 its first column is one of ones: of zeros whose center is -1."""

    x: Float[Array, "n d"]
    usable: Bool[Array, " n"]
    """Rows of x that are read; in the others, of weight 0, there may be anything."""
    center: Float[Array, " p"]
    """It bounds what rounding has left in the columns."""
    targets: Float[Array, "n *c"]
    weights: Float[Array, " n"]
    offset: Float[Array, "n k"]
    penalty: Float[Array, " p"]
    coupling: Float[Array, "k k"]
    """``C`` of the penalty."""
    saturated: Float[Array, ""]
    """The weighted sum of the least values of the losses: half the deviance is what exceeds it."""
    parameter: Any
    """Of the loss, or ``None``."""


class Solved(NamedTuple):
    coefficients: Float[Array, "k p"]
    outputs: Float[Array, "n k"]
    kept: Bool[Array, " kp"]
    """Columns that do not depend on those before them."""
    decrement: Float[Array, ""]
    """The last step, in standard errors."""
    num_steps: Int[Array, ""]
    ending: Int[Array, ""]
    """RUNNING (out of steps), CONVERGED, SEPARATED or STALLED."""


class _State(NamedTuple):
    solved: Solved
    value: Array
    slope: Array
    """Minus the derivative of the objective."""
    triangle: qr.Triangle
    """Of the last information that was taken."""
    factor: Array
    """``F`` with ``F F'`` near ``H^-1``."""
    worn: Array
    """Whether it is to be taken anew; within a step, whether it was."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def solve(
    loss: Loss, problem: Problem, start: Float[Array, "k p"], tolerance: Float[Array, ""], max_steps: Int[Array, ""]
) -> Solved:
    """The minimiser; differentiable in the problem. Under vmap a lane that has ended no longer changes."""
    outputs, slope = look(loss, problem, start)
    square = jnp.zeros((start.size, start.size), start.dtype)
    kept = jnp.ones(start.size, bool)
    solved = Solved(start, outputs, kept, jnp.asarray(jnp.inf, start.dtype), jnp.int32(0), jnp.int32(RUNNING))
    none = qr.Triangle(square, square, kept, jnp.int32(0))
    state = _State(solved, value(loss, problem, start, outputs), slope, none, square, jnp.bool_(True))

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
    _, outputs = jax.jvp(predictor, (problem, coefficients), (tangents[0], moved))
    return solved, jax.tree.map(no_tangent, solved)._replace(coefficients=moved, outputs=outputs)


def no_tangent(leaf: Array) -> Any:
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.zeros_like(leaf)
    return np.zeros(leaf.shape, jax.dtypes.float0)


def solve_linear(loss: Loss, problem: Problem, coefficients: Array, right: Array) -> Array:
    """``H^-1 right [k, p]`` with the second derivative H at the coefficients; differentiable to any order."""

    def times_hessian(vector):
        return -jax.jvp(lambda b: score(loss, problem, b), (coefficients,), (vector,))[1]

    fixed, at = jax.tree.map(lax.stop_gradient, (problem, coefficients))
    factor = hessian_factor(loss, fixed, predictor(fixed, at))[0]

    def solve_by_factor(matvec, vector):
        first = _apply(factor, vector)
        return first + _apply(factor, vector - matvec(first))

    return lax.custom_linear_solve(times_hessian, right, solve_by_factor, symmetric=True)


# Parts of the objective -----------------------------------------------------------------------------------------------


def design(problem: Problem) -> Float[Array, "n p"]:
    """``[1, x - center]`` or ``x - center``."""
    x, center = jnp.where(problem.usable[:, None], problem.x, 0), problem.center
    return jnp.pad(x, ((0, 0), (len(center) - x.shape[1], 0))) - center


def predictor(problem: Problem, coefficients: Float[Array, "k p"]) -> Float[Array, "n k"]:
    """``offset + b z``."""
    return problem.offset + matmul(design(problem), coefficients.T)


def score(loss: Loss, problem: Problem, coefficients: Float[Array, "k p"]) -> Float[Array, "k p"]:
    """Minus the derivative of the objective."""
    rows = _score_rows(loss, problem, predictor(problem, coefficients))
    return matmul(rows.T, design(problem)) - _penalty_slope(problem, coefficients)


def look(loss: Loss, problem: Problem, coefficients: Float[Array, "k p"]) -> tuple[Array, Array]:
    """``predictor`` and ``score`` in one reading of x. Do not differentiate through it."""

    def of_run(x, usable, targets, weights, offset):
        run = problem._replace(x=x, usable=usable, targets=targets, weights=weights, offset=offset)
        rows = design(run)
        outputs = offset + matmul(rows, coefficients.T)
        return matmul(_score_rows(loss, run, outputs).T, rows), outputs

    slope, outputs = over_parts(of_run, problem.x, problem.usable, problem.targets, problem.weights, problem.offset)
    return outputs, slope - _penalty_slope(problem, coefficients)


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


def slack(problem: Problem, value: Array) -> Array:
    """By how much rounding may raise a value."""
    eps = float(jnp.finfo(value.dtype).eps)
    return eps * (jnp.abs(value) + jnp.abs(problem.saturated)) * max(8.0, len(problem.weights) ** 0.5)


def information_triangle(loss: Loss, problem: Problem, outputs: Array, rough: bool = False) -> qr.Triangle:
    """R with ``R'R`` the expected information and the penalty, in the order of ``b [k, p]`` flattened.

    ``rough``: to the digits of a step; a well-conditioned matrix is then summed in float32.
    """
    root = loss.root(outputs, problem.targets, problem.parameter)
    root = jnp.where(problem.weights[:, None, None] > 0, jnp.sqrt(problem.weights)[:, None, None] * root, 0)
    size = root.shape[1] * len(problem.center)

    def rows_of(x, usable, root):
        rows = jnp.swapaxes(root, 1, 2)[..., None] * design(problem._replace(x=x, usable=usable))[:, None, None, :]
        return rows.reshape(-1, size)

    sums = jnp.sum(root**2, axis=(0, 2))
    rounding = jax.vmap(functools.partial(rounding_of, problem.center))(sums).reshape(-1)
    error = matrices.gram_error(root.dtype, root.shape[0] * root.shape[2], size)
    return qr.triangle(
        qr.Rows(rows_of, (problem.x, problem.usable, root)),
        penalty=penalty_matrix(problem),
        dependent=qr.DEPENDENT,
        rounding=rounding,
        num_rows=root.shape[2] * jnp.sum(problem.weights > 0),
        trusted=max(qr.WELL_CONDITIONED * size, (GRAM_LOSS / error) ** 0.5),
        try_float32=qr.WELL_CONDITIONED * size if rough and root.dtype == jnp.float64 else 0.0,
    )


def penalty_matrix(problem: Problem) -> Float[Array, "kp kp"]:
    return jnp.kron(matmul(problem.coupling.T, problem.coupling), jnp.diag(problem.penalty))


def hessian_factor(loss: Loss, problem: Problem, outputs: Array, rough: bool = False) -> tuple[Array, qr.Triangle]:
    """``F`` with ``F F' = H^-1``; where H is not positive definite the expected information's."""
    triangle = information_triangle(loss, problem, outputs, rough)
    if loss.curvature is None:
        return triangle.inverse, triangle
    return _observed_factor(loss, problem, outputs, triangle), triangle


def _observed_factor(loss: Loss, problem: Problem, outputs: Array, triangle: qr.Triangle) -> Array:
    """In the basis of the expected information, where the second derivative is near the identity."""
    assert loss.curvature is not None
    curvature = problem.weights[:, None, None] * loss.curvature(outputs, problem.targets, problem.parameter)
    curvature = jnp.where(problem.weights[:, None, None] > 0, curvature, 0)[:, 0, 0]  # of one output: k = 1

    def of_run(x, usable, curvature):
        basis = matmul(design(problem._replace(x=x, usable=usable)), triangle.inverse)
        return matmul(basis.T, curvature[:, None] * basis)

    square = sum_of_parts(of_run, problem.x, problem.usable, curvature)
    rows = jnp.sqrt(problem.penalty)[:, None] * triangle.inverse
    square = square + matmul(rows.T, rows) + jnp.diag(1 - triangle.kept.astype(square.dtype))
    upper = lax.linalg.cholesky(square).mT
    sound = jnp.all(jnp.isfinite(upper))
    upper = jnp.where(sound, upper, jnp.eye(len(upper), dtype=upper.dtype))
    return matmul(triangle.inverse, matrices.triangular_inverse(upper))


def _apply(factor: Array, vectors: Array) -> Array:
    return matmul(factor, matmul(factor.T, vectors.reshape(-1))).reshape(vectors.shape)


# A step ---------------------------------------------------------------------------------------------------------------


def _step(loss: Loss, problem: Problem, state: _State, tolerance: Array) -> _State:
    def with_new_factor(state):
        factor, triangle = hessian_factor(loss, problem, state.solved.outputs, reused)
        return state._replace(factor=factor, triangle=triangle)

    reused = _is_reused(problem)
    state = at_most_once(state.worn, with_new_factor, state) if reused else with_new_factor(state)
    direction = _apply(state.factor, state.slope)
    coefficients = state.solved.coefficients
    aimed, aimed_slope = look(loss, problem, coefficients + direction)
    length, value = _halved(loss, problem, state, direction, aimed)
    error, ending = _ending(loss, problem, state, direction, aimed, tolerance)
    # Without a gain along the direction of a factor that has served there may be one along that of its successor.
    ending = jnp.where((ending == RUNNING) & (length == 0) & state.worn, STALLED, ending).astype(jnp.int32)
    coefficients = coefficients + length * direction

    def look_again(_, problem, coefficients):
        return look(loss, problem, coefficients)

    outputs, slope = at_most_once(length < 1, look_again, (aimed, aimed_slope), problem, coefficients)
    factor, worn = state.factor, jnp.bool_(True)
    if reused:
        factor, worn = _updated(factor, direction, state.slope, slope)
        worn |= (length < 1) | ~is_alone(slope)  # lanes would wait for one another's factors
    solved = Solved(coefficients, outputs, state.triangle.kept, error, state.solved.num_steps + 1, ending)
    return _State(solved, value, slope, state.triangle, factor, worn)


def _ending(
    loss: Loss, problem: Problem, state: _State, direction: Array, aimed: Array, tolerance: Array
) -> tuple[Array, Array]:
    """The step in standard errors, and whether it is the last: RUNNING, CONVERGED or SEPARATED."""
    coefficients, outputs = state.solved.coefficients, state.solved.outputs
    square, dispersion = jnp.sum(direction * state.slope), _dispersion(loss, problem, state.value)
    error, noise = jnp.sqrt(jnp.maximum(square, 0) / dispersion), _noise(problem, state.triangle, coefficients)
    # Steps of Newton's method shrink as their squares, so that the last two foretell the next; others by their ratio.
    # A factor summed in float32 leaves some 1e-6 of each step too, and the tolerance of the square room for it.
    rate = error / state.solved.decrement
    foretold = jnp.where(jnp.isfinite(state.solved.decrement), error * jnp.where(state.worn, rate**2, rate), jnp.inf)
    small = foretold <= tolerance * jnp.minimum(FORETOLD * tolerance, 1)
    small |= jnp.where(state.worn, (error <= tolerance) | (square <= noise), foretold**2 * dispersion <= noise)
    move = jnp.max(jnp.where(problem.weights[:, None] > 0, jnp.abs(aimed - outputs), 0), initial=0)
    separated = _recedes(loss, problem, direction, aimed - outputs, strict=False) & (move > STILL)
    separated |= _recedes(loss, problem, coefficients, outputs - problem.offset, strict=True)
    converged = small & (move <= jnp.where(loss.margin is None, jnp.inf, STILL))
    return error, jnp.where(separated, SEPARATED, jnp.where(converged, CONVERGED, RUNNING))


def _is_reused(problem: Problem) -> bool:
    """Whether a factor serves for several steps: its Gram matrix costs many times the rest of a step."""
    return problem.x.size >= LARGE and len(problem.center) >= WIDE


def _updated(factor: Array, step: Array, before: Array, after: Array) -> tuple[Array, Array]:
    """The factor by the change of the slope along a whole step (BFGS), and whether another one like it is too little.

    ``F <- (I - s v') F`` keeps ``F F'`` positive definite and makes ``F F' y = s``.
    """
    step, before, after = (each.reshape(-1) for each in (step, before, after))
    change = before - after
    along, square = jnp.sum(step * change), jnp.sum(step * before)
    bent = along > 0
    along = jnp.where(bent, along, jnp.inf)
    away = change / along - before / jnp.sqrt(along * square)
    factor = factor - step[:, None] * matmul(factor.T, away)
    return factor, ~(bent & (jnp.sum(matmul(factor.T, after) ** 2) <= SHRINK**2 * square))


def _halved(loss: Loss, problem: Problem, state: _State, direction: Array, aimed: Array) -> tuple[Array, Array]:
    """The first of 1, 1/2, 1/4, ... of the step that does not raise the objective, else 0; and the value there."""

    def value_at(length):
        outputs = state.solved.outputs + length * (aimed - state.solved.outputs)
        return value(loss, problem, state.solved.coefficients + length * direction, outputs)

    def too_long(trial):
        length, value = trial
        return ~(value <= state.value + slack(problem, state.value)) & (length > 0)

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

"""Nonlinear least squares by the method of Levenberg and Marquardt, in the trust-region form of Moré.

    minimise  sum_i rho(r_i(b)^2),    step = argmin |z - R s|^2 + damping |D s|^2,    |D s| <= radius

R is the triangular factor of the Jacobian of -r and ``z = Q'r``; D holds the largest lengths that its columns have had,
so that the units of the parameters do not matter; the damping is sought so that the step has the length of the radius.
A step is taken if the cost falls enough of what the linear model promised. The fit has converged when ``|z| / |r|``,
the length of the undamped step in units of its own uncertainty (Bates and Watts), is small, or when that step is small
beside each parameter; where rounding hides further progress of the cost, steps are judged by ``|z|`` alone.

Linear parameters, the first ones, are eliminated (variable projection, with Kaufman's Jacobian): put first in R, they
leave in its lower corner the projected problem of the others. Bounds hold by projection: a parameter that lies on one
and would leave takes no part in the step.

Sources: Moré, The Levenberg-Marquardt algorithm: implementation and theory (1978); Golub and Pereyra (1973); Kaufman
(1975); Bates and Watts, A relative offset orthogonality convergence criterion (1981); Kanzow, Yamashita and Fukushima
(2004) for bounds. The initial radius is one length of the starting point, 100 in MINPACK: a first step many times
longer than the start lands where nothing can be learnt.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.core import Status
from jaxmodels.numerics import lanes, qr
from jaxmodels.numerics.matrices import (
    cholesky,
    diagonal,
    on_diagonal,
    one_by_one,
    product,
    transposed,
    triangular_inverse,
)
from jaxmodels.numerics.problem import matmul
from jaxmodels.numerics.robust import LEAST_CURVATURE, Rho

RUNNING = -1
LEAST_GAIN, POOR_GAIN, GOOD_GAIN = 1e-4, 0.25, 0.75
MAX_DAMPINGS, RADIUS_ERROR = 10, 0.1


class Problem(NamedTuple):
    """What is minimised; static."""

    residuals: Callable[[Any, Array], Array]
    """``(data, [p]) -> [m]``."""
    loss: Callable[[Array], Rho]
    num_linear: int
    """So many parameters, the first, enter linearly."""
    tolerance: float
    max_steps: int


class Limits(NamedTuple):
    """What a search keeps to."""

    lower: Float[Array, "p *lanes"] | None
    upper: Float[Array, "p *lanes"] | None
    """Of both bounds, ``None`` where there are none."""
    magnitude: Float[Array, "*lanes"]
    """``|r|`` is the difference of terms as large as this: what its rounding is measured by."""


class Linearised(NamedTuple):
    """``cost(params + s) ~ cost - |rotated|^2 + |rotated - upper s|^2``."""

    params: Float[Array, "p *lanes"]
    cost: Float[Array, "*lanes"]
    """Infinite where the residuals or their derivatives are not finite."""
    upper: Float[Array, "p p *lanes"]
    inverse: Float[Array, "p p *lanes"]
    """Of both, zero rows and columns for a parameter that a bound holds, or that depends on the others."""
    rotated: Float[Array, "p *lanes"]
    held: Bool[Array, "p *lanes"]
    """By a bound."""


class Seen(NamedTuple):
    """The normal equations at a point, in a basis of the parameters."""

    params: Float[Array, "p *lanes"]
    cost: Float[Array, "*lanes"]
    gram: Float[Array, "p p *lanes"]
    descent: Float[Array, "p *lanes"]


class State(NamedTuple):
    """Where a search stands."""

    limits: Limits
    at: Linearised
    trial: Float[Array, "p *lanes"]
    """Where the next turn looks."""
    scale: Float[Array, "p *lanes"]
    radius: Float[Array, "*lanes"]
    rejected: Int[Array, "*lanes"]
    """Steps in a row that were not taken."""
    num_steps: Int[Array, "*lanes"]
    """Of which the first looks at the starting point."""
    status: Int[Array, "*lanes"]


def search(problem: Problem) -> Callable[[tuple[Any, Array, Limits]], State]:
    """``(data, params, limits) -> the last state`` of a search from params, which ``vmap`` maps over many."""
    return lanes.loop(
        functools.partial(start, problem), functools.partial(turn, problem), lambda state: state.status == RUNNING
    )


def start(problem: Problem, each: Callable) -> State:
    """Before anything is known but where to begin."""
    params, limits = each(lambda inputs: inputs[1:])
    square, zero = jnp.zeros((len(params), *params.shape), params.dtype), jnp.zeros_like(params[0])
    at = Linearised(params, zero + jnp.inf, square, square, square[0], jnp.zeros(params.shape, bool))
    count = jnp.zeros(zero.shape, jnp.int32)
    return State(limits, at, params, square[0, problem.num_linear :], zero, count, count, count + RUNNING)


def turn(problem: Problem, state: State, each: Callable) -> State:
    """Look at the trial point, move to it or not, and choose the next."""
    q, at, new = problem.num_linear, state.at, look(problem, state, each)
    first = state.num_steps == 0
    step = (state.trial - at.params)[q:]
    gain = jnp.where(first, jnp.where(jnp.isfinite(new.cost), 1, -1), _gain(problem, state, new, step))
    taken = gain > LEAST_GAIN
    scale = jnp.where(taken, _lengths(problem, new, state.scale), state.scale)
    reach = jnp.linalg.norm(scale * new.params[q:], axis=0)
    after = state._replace(
        at=lanes.select(taken, new, at),
        scale=scale,
        radius=jnp.where(first, jnp.where(reach > 0, reach, 1), _radius(problem, state, gain, step)),
        rejected=jnp.where(taken, 0, state.rejected + 1),
        num_steps=state.num_steps + 1,
    )
    unmoved = jnp.all(jnp.abs(step) <= jnp.finfo(step.dtype).eps * jnp.abs(at.params[q:]), axis=0)
    status = jnp.where(first & ~taken, Status.nonfinite, _status(problem, after, unmoved & ~taken & ~first))
    trial = after.at.params.at[q:].add(_damped_step(problem, after))
    lower, upper, _ = after.limits
    trial = trial if lower is None else jnp.clip(trial, lower, upper)
    return after._replace(trial=trial, status=status.astype(jnp.int32))


def _radius(problem: Problem, state: State, gain: Array, step: Array) -> Array:
    length = jnp.linalg.norm(state.scale * step, axis=0)
    shorter = (gain <= LEAST_GAIN) | ((gain < POOR_GAIN) & ~_rounded(problem, state))
    radius = jnp.where(gain > GOOD_GAIN, jnp.maximum(state.radius, 2 * length), state.radius)
    return jnp.where(shorter, POOR_GAIN * jnp.minimum(length, state.radius), radius)


# The linear model ----------------------------------------------------------------------------------------------------


def look(problem: Problem, state: State, each: Callable) -> Linearised:
    """At the trial point, whose linear part is first put where it is best.

    In the basis that the last factor gives the Jacobian is nearly orthonormal, so that one Gram matrix is enough.
    """
    basis = _basis(state.at)
    seen = each(lambda inputs, trial, basis: _normal_equations(problem, inputs[0], trial, basis), state.trial, basis)
    _, factor, condition = cholesky(seen.gram, 1)
    inverse = product(basis, factor)
    upper = triangular_inverse(inverse)  # a product of the factors so far would add up their rounding
    new = _finite(seen.params, seen.cost, upper, inverse, product(transposed(factor), seen.descent))
    distinct = diagonal(upper) > qr.least_pivots(upper)
    # NaN compares false.
    sound = jnp.all(qr.squares_are_safe(diagonal(seen.gram)) & distinct, axis=0)
    sound &= condition <= _trusted(upper.dtype)
    new = each(
        lambda inputs, params: linearise(problem, inputs[0], params, inputs[2]),
        seen.params,
        wanted=jnp.isfinite(seen.cost) & ~sound,
        otherwise=new,
    )
    return _hold(state.limits, new)


def _normal_equations(problem: Problem, data: Any, params: Float[Array, " p"], basis: Float[Array, "p p"]) -> Seen:
    params = _with_best_linear(problem, data, params)
    cost, residuals, jacobian = _model(problem, data, params, basis)
    return Seen(params, cost, qr.gram_of_columns(jacobian), matmul(jacobian, residuals))


def linearise(problem: Problem, data: Any, params: Float[Array, " p"], limits: Limits) -> Linearised:
    """By a factor that loses no digits, whatever the Jacobian; of one lane.

    No parameter is dropped for its dependence on one that a bound holds.
    """
    cost, residuals, jacobian = _model(problem, data, params, jnp.eye(len(params), dtype=params.dtype))
    descent = matmul(jacobian, residuals)
    held = _leaves(limits, params, descent) & jnp.any(jacobian != 0, axis=1)
    triangle = _triangle(jnp.where(held[:, None], 0, jacobian))
    at = _finite(params, cost, triangle.upper, triangle.inverse, product(triangle.inverse.T, descent))
    return at._replace(held=held)


def _basis(at: Linearised) -> Array:
    """``R^-1`` at a point nearby, whose columns make a Jacobian nearly orthonormal; a held parameter's is its own."""
    return jnp.where(on_diagonal(at.inverse) & (at.inverse == 0), 1, at.inverse)


def _finite(params: Array, cost: Array, upper: Array, inverse: Array, rotated: Array) -> Linearised:
    """With an infinite cost where something is not finite."""
    finite = jnp.isfinite(cost) & jnp.all(jnp.isfinite(rotated), axis=0)
    upper, inverse, rotated = (jnp.where(finite, part, 0) for part in (upper, inverse, rotated))
    cost = jnp.where(finite, cost, jnp.inf)
    return Linearised(params, cost, upper, inverse, rotated, jnp.zeros(params.shape, bool))


def _with_best_linear(problem: Problem, data: Any, params: Array) -> Array:
    q = problem.num_linear
    if not q:
        return params
    residuals, jacobian = rows(problem, data, params, jnp.eye(len(params), q, dtype=params.dtype))
    factor = _triangle(jacobian).inverse
    return params.at[:q].add(product(factor, product(factor.T, matmul(jacobian, residuals))))


def _model(problem: Problem, data: Any, params: Array, basis: Array) -> tuple[Array, Array, Array]:
    """The cost, and residuals and Jacobian of the squares that are like it nearby, in a basis of the parameters."""
    residuals, jacobian = rows(problem, data, params, basis)
    rho = problem.loss(residuals**2)
    curvature = jnp.maximum(rho.curvature, LEAST_CURVATURE * rho.slope)
    root = jnp.sqrt(curvature)
    residuals = jnp.where(curvature > 0, residuals * rho.slope / jnp.where(curvature > 0, root, 1), 0)
    return jnp.sum(rho.value), residuals, root * jacobian


def rows(problem: Problem, data: Any, params: Array, basis: Float[Array, "p k"]) -> tuple[Array, Array]:
    """``r`` and ``-dr/db`` times each column of ``basis``, a row for each."""
    residuals, push = jax.linearize(lambda params: problem.residuals(data, params), params)
    return residuals, -jax.vmap(push)(basis.T)


def _triangle(jacobian: Array) -> qr.Triangle:
    return qr.triangle(jacobian, transposed=True, dependent=qr.DEPENDENT, trusted=_trusted(jacobian.dtype))


def _trusted(dtype) -> float:
    # A step needs no more digits than this; the gradient that it is to bring to zero is accurate in any case.
    return float(jnp.finfo(dtype).eps) ** (-1 / 3)


def _hold(limits: Limits, at: Linearised) -> Linearised:
    """Without the parameters that lie on a bound and would leave."""
    if limits.lower is None or limits.upper is None:
        return at
    leaves = _leaves(limits, at.params, product(transposed(at.upper), at.rotated))
    upper = jnp.where(leaves, 0, at.upper)
    triangle = one_by_one(lambda upper: qr.triangle(upper, dependent=qr.DEPENDENT))(upper)
    rotated = product(transposed(triangle.inverse), product(transposed(upper), at.rotated))
    held = at.held | (leaves & jnp.any(at.upper != 0, axis=0))  # what changes nothing is not determined by its bound
    return Linearised(at.params, at.cost, triangle.upper, triangle.inverse, rotated, held)


def _leaves(limits: Limits, params: Float[Array, "p *lanes"], descent: Float[Array, "p *lanes"]) -> Array:
    """Which parameters lie on a bound with the direction of descent pointing out."""
    if limits.lower is None or limits.upper is None:
        return jnp.zeros(params.shape, bool)
    return ((params <= limits.lower) & (descent <= 0)) | ((params >= limits.upper) & (descent >= 0))


def _lengths(problem: Problem, at: Linearised, least: Array | float) -> Array:
    """D: column lengths, never less than they were."""
    lengths = jnp.maximum(qr.column_lengths(_nonlinear(problem, at).upper), least)
    return jnp.where(lengths > 0, lengths, 1)


# The step ------------------------------------------------------------------------------------------------------------


class _Nonlinear(NamedTuple):
    """The corner of the model that the nonlinear parameters have to themselves."""

    params: Array
    upper: Array
    inverse: Array
    rotated: Array


def _nonlinear(problem: Problem, at: Linearised) -> _Nonlinear:
    q = problem.num_linear
    return _Nonlinear(at.params[q:], at.upper[q:, q:], at.inverse[q:, q:], at.rotated[q:])


def _damped_step(problem: Problem, state: State) -> Array:
    """The step of the length of the radius, nearly (Moré 1978, section 5)."""
    at, scale, radius = _nonlinear(problem, state.at), state.scale, state.radius
    # In units of the scale, in which no column is longer than 1.
    upper, inverse = at.upper / scale, scale[:, None] * at.inverse
    newton = product(inverse, at.rotated)
    gradient = product(transposed(upper), at.rotated)
    length = jnp.linalg.norm(newton, axis=0)
    inside = length <= (1 + RADIUS_ERROR) * radius

    def newton_damping(factor, step, length):
        """How much more damping brings the step to the radius: as if its length were ``a / (b + damping)``."""
        slope = product(transposed(factor), step / jnp.where(length > 0, length, 1))
        return (length - radius) / radius / jnp.sum(slope**2, axis=0)

    def improve(carry):
        count, _, damping, low, high, _ = carry
        factor = _damped_factor(upper, damping)
        step = product(factor, product(transposed(factor), gradient))
        length = jnp.linalg.norm(step, axis=0)
        low, high = jnp.where(length > radius, damping, low), jnp.where(length < radius, damping, high)
        damping += newton_damping(factor, step, length)
        damping = jnp.where((damping >= low) & (damping <= high), damping, between(low, high))
        return count + 1, step, damping, low, high, jnp.abs(length - radius) <= RADIUS_ERROR * radius

    def between(low, high):
        return jnp.maximum(1e-3 * high, jnp.sqrt(low * high))

    def searching(carry):
        return ~carry[-1] & (carry[0] < MAX_DAMPINGS)

    # Damping by the first is too little, by the second too much.
    least, most = newton_damping(inverse, newton, length), jnp.linalg.norm(gradient, axis=0) / radius
    least = jnp.where(inside | ~jnp.isfinite(least), 0, least)
    carry = (jnp.zeros(radius.shape, jnp.int32), newton, between(least, most), least, most, inside)
    return lanes.while_loop(searching, improve, carry)[1] / scale


def _damped_factor(upper: Array, damping: Array) -> Array:
    """``F`` with ``F F' = (R'R + damping)^-1``; a direction that rounding hides twice is damped a little more."""
    gram = product(transposed(upper), upper) + damping * on_diagonal(upper)
    _, factor, condition = cholesky(gram, 1)
    hidden = condition > _trusted(factor.dtype)

    def again(factor, upper):
        rows = product(upper, factor)
        gram = product(transposed(rows), rows) + damping * product(transposed(factor), factor)
        return jnp.where(hidden, product(factor, cholesky(gram, 1)[1]), factor)

    return lanes.at_most_once(jnp.any(hidden), again, factor, upper)


def _gain(problem: Problem, state: State, new: Linearised, step: Array) -> Array:
    """The fall of the cost over the fall that was promised; that of ``|rotated|^2`` where rounding hides the former."""
    before = _nonlinear(problem, state.at)
    move = product(before.upper, step)
    promised = jnp.sum(move * (2 * before.rotated - move), axis=0)
    fall = (state.at.cost - new.cost) / jnp.where(promised > 0, promised, jnp.inf)
    squares, new_squares = (jnp.sum(part**2, axis=0) for part in (before.rotated, _nonlinear(problem, new).rotated))
    turned = 1 - new_squares / jnp.where(squares > 0, squares, 1)
    gain = jnp.where(_rounded(problem, state), turned, fall)
    return jnp.where(jnp.isfinite(new.cost) & jnp.isfinite(gain), gain, -1)


def _rounded(problem: Problem, state: State) -> Array:
    """Whether the undamped step promises less than rounding leaves uncertain in the cost."""
    at, cost = _nonlinear(problem, state.at), state.at.cost
    uncertain = 100 * jnp.finfo(cost.dtype).eps * (cost + jnp.sqrt(cost) * state.limits.magnitude)
    return jnp.sum(at.rotated**2, axis=0) <= uncertain


def _status(problem: Problem, state: State, unmoved: Bool[Array, "*lanes"]) -> Array:
    at = _nonlinear(problem, state.at)
    offset = jnp.sum(at.rotated**2, axis=0) <= problem.tolerance**2 * state.at.cost
    short = jnp.all(jnp.abs(product(at.inverse, at.rotated)) <= problem.tolerance * jnp.abs(at.params), axis=0)
    rounded = _rounded(problem, state)
    running = jnp.where(state.num_steps >= problem.max_steps, Status.max_steps, RUNNING)
    running = jnp.where(unmoved & ~rounded, Status.stalled, running)
    return jnp.where(offset | short | (rounded & (state.rejected >= 2)), Status.ok, running).astype(jnp.int32)

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

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.core import Status
from jaxmodels.numerics import qr
from jaxmodels.numerics.lanes import at_most_once
from jaxmodels.numerics.problem import matmul
from jaxmodels.numerics.qr import product
from jaxmodels.numerics.robust import LEAST_CURVATURE, Rho

RUNNING = -1
LEAST_GAIN, POOR_GAIN, GOOD_GAIN = 1e-4, 0.25, 0.75
MAX_DAMPINGS = 10


class Problem(NamedTuple):
    """What is minimised; static but for the bounds and ``magnitude``."""

    residuals: Callable[[Array], Array]
    """``[p] -> [m]``."""
    loss: Callable[[Array], Rho]
    num_linear: int
    """So many parameters, the first, enter linearly."""
    lower: Float[Array, " p"] | None
    upper: Float[Array, " p"] | None
    """Of both bounds, ``None`` where there are none."""
    magnitude: Float[Array, ""]
    """``|r|`` is the difference of terms as large as this: what its rounding is measured by."""
    tolerance: float
    max_steps: int


class Linearised(NamedTuple):
    """``cost(params + s) ~ cost - |rotated|^2 + |rotated - upper s|^2``."""

    params: Float[Array, " p"]
    cost: Float[Array, ""]
    """Infinite where the residuals or their derivatives are not finite."""
    upper: Float[Array, "p p"]
    inverse: Float[Array, "p p"]
    """Zero rows and columns for a parameter that is held: it lies on its bound, or depends on the others."""
    rotated: Float[Array, " p"]


class State(NamedTuple):
    """Where a fit stands."""

    at: Linearised
    trial: Float[Array, " p"]
    """Where the next turn looks."""
    scale: Float[Array, " p"]
    radius: Float[Array, ""]
    damping: Float[Array, ""]
    rejected: Int[Array, ""]
    """Steps in a row that were not taken."""
    num_steps: Int[Array, ""]
    """Of which the first looks at the starting point."""
    status: Int[Array, ""]


def start(problem: Problem, params: Float[Array, " p"]) -> State:
    """The state before anything is known but where to begin."""
    square = jnp.zeros((len(params),) * 2, params.dtype)
    at = Linearised(params, jnp.asarray(jnp.inf, params.dtype), square, square, jnp.zeros_like(params))
    zero, count = jnp.zeros((), params.dtype), jnp.zeros((), jnp.int32)
    return State(at, params, jnp.zeros_like(params[problem.num_linear :]), zero, zero, count, count, count + RUNNING)


def unfinished(state: State) -> Array:
    """Whether there is a step to take."""
    return state.status == RUNNING


def turn(problem: Problem, state: State) -> State:
    """Look at the trial point, move to it or not, and choose the next."""
    q, at, new = problem.num_linear, state.at, look(problem, state)
    first = state.num_steps == 0
    step = (state.trial - at.params)[q:]
    gain = jnp.where(first, jnp.where(jnp.isfinite(new.cost), 1, -1), _gain(problem, at, new, step))
    taken = gain > LEAST_GAIN
    length = jnp.linalg.norm(state.scale * step)
    shorter = ~taken | ((gain < POOR_GAIN) & ~_rounded(problem, at))
    radius = jnp.where(gain > GOOD_GAIN, jnp.maximum(state.radius, 2 * length), state.radius)
    radius = jnp.where(shorter, POOR_GAIN * jnp.minimum(length, state.radius), radius)
    scale = jnp.where(taken, _lengths(problem, new, state.scale), state.scale)
    reach = jnp.linalg.norm(scale * new.params[q:])
    after = State(
        at=jax.tree.map(lambda moved, still: jnp.where(taken, moved, still), new, at),
        trial=state.trial,
        scale=scale,
        radius=jnp.where(first, jnp.where(reach > 0, reach, 1), radius),
        damping=state.damping,
        rejected=jnp.where(taken, 0, state.rejected + 1),
        num_steps=state.num_steps + 1,
        status=state.status,
    )
    unmoved = jnp.all(jnp.abs(step) <= jnp.finfo(step.dtype).eps * jnp.abs(at.params[q:]))
    status = jnp.where(first & ~taken, Status.nonfinite, _status(problem, after, unmoved & ~taken & ~first))
    move, damping = _damped_step(problem, after)
    trial = after.at.params.at[q:].add(move)
    trial = trial if problem.lower is None else jnp.clip(trial, problem.lower, problem.upper)
    return after._replace(trial=trial, damping=damping, status=status.astype(jnp.int32))


# The linear model ----------------------------------------------------------------------------------------------------


def look(problem: Problem, state: State) -> Linearised:
    """At the trial point, whose linear part is first put where it is best.

    In the basis that the last factor gives the Jacobian is nearly orthonormal, so that one Gram matrix is enough.
    """
    params, basis = _with_best_linear(problem, state.trial), _basis(state.at)
    cost, residuals, jacobian = _model(problem, params, basis)
    gram, descent = qr.gram_of_columns(jacobian), matmul(jacobian, residuals)
    _, factor, condition = qr.cholesky(gram, 1)
    inverse = product(basis, factor)
    upper = qr.triangular_inverse(inverse)  # a product of the factors so far would add up their rounding
    new = _finite(Linearised(params, cost, upper, inverse, product(factor.T, descent)))
    distinct = jnp.diagonal(upper) > qr.least_pivots(upper)
    # NaN compares false.
    sound = (condition <= _trusted(upper.dtype)) & jnp.all(qr.squares_are_safe(jnp.diagonal(gram)) & distinct)
    doubtful = jnp.isfinite(cost) & ~sound
    new = at_most_once(doubtful, lambda _, params: linearise(problem, params), new, params)
    return _hold(problem, new)


def linearise(problem: Problem, params: Float[Array, " p"]) -> Linearised:
    """By a factor that loses no digits, whatever the Jacobian."""
    cost, residuals, jacobian = _model(problem, params, jnp.eye(len(params), dtype=params.dtype))
    triangle = _triangle(jacobian)
    rotated = product(triangle.inverse.T, matmul(jacobian, residuals))
    return _finite(Linearised(params, cost, triangle.upper, triangle.inverse, rotated))


def _basis(at: Linearised) -> Array:
    """``R^-1`` at a point nearby, whose columns make a Jacobian nearly orthonormal; a held parameter's is its own."""
    return at.inverse + jnp.diag((jnp.diagonal(at.inverse) == 0).astype(at.inverse.dtype))


def _finite(at: Linearised) -> Linearised:
    """With an infinite cost where something is not finite."""
    finite = jnp.isfinite(at.cost) & jnp.all(jnp.isfinite(at.rotated))
    upper, inverse, rotated = (jnp.where(finite, each, 0) for each in (at.upper, at.inverse, at.rotated))
    return Linearised(at.params, jnp.where(finite, at.cost, jnp.inf), upper, inverse, rotated)


def _with_best_linear(problem: Problem, params: Array) -> Array:
    q = problem.num_linear
    if not q:
        return params
    residuals, jacobian = rows(problem, params, jnp.eye(len(params), q, dtype=params.dtype))
    factor = _triangle(jacobian).inverse
    return params.at[:q].add(product(factor, product(factor.T, matmul(jacobian, residuals))))


def _model(problem: Problem, params: Array, basis: Array) -> tuple[Array, Array, Array]:
    """The cost, and residuals and Jacobian of the squares that are like it nearby, in a basis of the parameters."""
    residuals, jacobian = rows(problem, params, basis)
    rho = problem.loss(residuals**2)
    curvature = jnp.maximum(rho.curvature, LEAST_CURVATURE * rho.slope)
    root = jnp.sqrt(curvature)
    residuals = jnp.where(curvature > 0, residuals * rho.slope / jnp.where(curvature > 0, root, 1), 0)
    return jnp.sum(rho.value), residuals, root * jacobian


def rows(problem: Problem, params: Array, basis: Float[Array, "p k"]) -> tuple[Array, Array]:
    """``r`` and ``-dr/db`` times each column of ``basis``, a row for each."""
    residuals, push = jax.linearize(problem.residuals, params)
    return residuals, -jax.vmap(push)(basis.T)


def _triangle(jacobian: Array) -> qr.Triangle:
    return qr.triangle(jacobian, transposed=True, dependent=qr.DEPENDENT, trusted=_trusted(jacobian.dtype))


def _trusted(dtype) -> float:
    # A step needs no more digits than this; the gradient that it is to bring to zero is accurate in any case.
    return float(jnp.finfo(dtype).eps) ** -0.25


def _hold(problem: Problem, at: Linearised) -> Linearised:
    """Without the parameters that lie on a bound and would leave."""
    if problem.lower is None:
        return at
    held = on_bound(problem, at.params, product(at.upper.T, at.rotated))
    upper = jnp.where(held, 0, at.upper)
    triangle = qr.triangle(upper, dependent=qr.DEPENDENT)
    rotated = product(triangle.inverse.T, product(upper.T, at.rotated))
    return Linearised(at.params, at.cost, triangle.upper, triangle.inverse, rotated)


def on_bound(problem: Problem, params: Float[Array, " p"], descent: Float[Array, " p"]) -> Array:
    """Which parameters lie on a bound with the descent direction pointing out."""
    if problem.lower is None or problem.upper is None:
        return jnp.zeros(params.shape, bool)
    return ((params <= problem.lower) & (descent <= 0)) | ((params >= problem.upper) & (descent >= 0))


def _lengths(problem: Problem, at: Linearised, least: Array | float) -> Array:
    """D: column lengths, never less than they were."""
    lengths = qr.column_lengths(at.upper[problem.num_linear :, problem.num_linear :])
    lengths = jnp.maximum(lengths, least)
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


def _damped_step(problem: Problem, state: State) -> tuple[Array, Array]:
    """The step of the length of the radius, to a tenth, and its damping (Moré 1978, section 5)."""
    at, scale, radius = _nonlinear(problem, state.at), state.scale, state.radius
    # In units of the scale, in which no column is longer than 1.
    upper, newton = at.upper / scale, scale * product(at.inverse, at.rotated)
    gradient = product(upper.T, at.rotated)
    most = jnp.linalg.norm(gradient) / radius
    inside = jnp.linalg.norm(newton) <= 1.1 * radius
    first = jnp.where((state.damping > 0) & (state.damping <= most), state.damping, 1e-3 * most)

    def improve(carry):
        count, _, _, damping, low, high, _ = carry
        factor = _damped_factor(upper, damping)
        step = product(factor, product(factor.T, gradient))
        length = jnp.linalg.norm(step)
        excess = length - radius
        slope = product(factor.T, step / jnp.where(length > 0, length, 1))
        low, high = jnp.where(excess > 0, damping, low), jnp.where(excess < 0, damping, high)
        next_damping = damping + excess / radius / jnp.sum(slope**2)
        within = (next_damping >= low) & (next_damping <= high)
        next_damping = jnp.where(within, next_damping, jnp.maximum(1e-3 * high, jnp.sqrt(low * high)))
        return count + 1, step, damping, next_damping, low, high, jnp.abs(excess) <= 0.1 * radius

    def searching(carry):
        return ~carry[-1] & (carry[0] < MAX_DAMPINGS)

    carry = (0, newton, jnp.zeros_like(first), first, jnp.zeros_like(first), most, inside)
    _, step, damping, *_ = lax.while_loop(searching, improve, carry)
    return step / scale, damping


def _damped_factor(upper: Array, damping: Array) -> Array:
    """``F`` with ``F F' = (R'R + damping)^-1``; a direction that rounding hides twice is damped a little more."""
    identity = jnp.eye(len(upper), dtype=upper.dtype)
    _, factor, condition = qr.cholesky(product(upper.T, upper) + damping * identity, 1)

    def again(factor, upper):
        rows = product(upper, factor)
        gram = product(rows.T, rows) + damping * product(factor.T, factor)
        return product(factor, qr.cholesky(gram, 1)[1])

    return at_most_once(condition > _trusted(factor.dtype), again, factor, upper)


def _gain(problem: Problem, at: Linearised, new: Linearised, step: Array) -> Array:
    """The fall of the cost over the fall that was promised; that of ``|rotated|^2`` where rounding hides the former."""
    before = _nonlinear(problem, at)
    move = product(before.upper, step)
    promised = jnp.sum(move * (2 * before.rotated - move))
    fall = (at.cost - new.cost) / jnp.where(promised > 0, promised, jnp.inf)
    squares, new_squares = (jnp.sum(_nonlinear(problem, each).rotated ** 2) for each in (at, new))
    turned = 1 - new_squares / jnp.where(squares > 0, squares, 1)
    gain = jnp.where(_rounded(problem, at), turned, fall)
    return jnp.where(jnp.isfinite(new.cost) & jnp.isfinite(gain), gain, -1)


def _rounded(problem: Problem, at: Linearised) -> Array:
    """Whether the undamped step promises less than rounding leaves uncertain in the cost."""
    eps = jnp.finfo(at.cost.dtype).eps
    uncertain = 100 * eps * (at.cost + jnp.sqrt(at.cost) * problem.magnitude)
    return jnp.sum(_nonlinear(problem, at).rotated ** 2) <= uncertain


def _status(problem: Problem, state: State, unmoved: Array) -> Array:
    at = _nonlinear(problem, state.at)
    offset = jnp.sum(at.rotated**2) <= problem.tolerance**2 * state.at.cost
    short = jnp.abs(product(at.inverse, at.rotated)) <= problem.tolerance * jnp.abs(at.params)
    rounded = _rounded(problem, state.at)
    done = offset | jnp.all(short) | (rounded & (state.rejected >= 2))
    running = jnp.where(state.num_steps >= problem.max_steps, Status.max_steps, RUNNING)
    running = jnp.where(unmoved & ~rounded, Status.stalled, running)
    return jnp.where(done, Status.ok, running).astype(jnp.int32)

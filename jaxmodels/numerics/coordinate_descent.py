"""Coordinate descent on a quadratic with a penalty that makes zeros.

    minimise over b [m]   b'Qb / 2 + g'b + sum_u l1_u |b_u| + sum_j l2_j b_j^2 / 2

where a unit u is a coefficient, or a group of them with ``|b_u|`` its Euclidean norm (group lasso); coefficients may be
held at 0 or above. A sweep updates unit after unit. Where sweeps alone are slow, a Newton step on the nonzero
coefficients is tried between them and kept if it improves the objective, so that correlated columns cost a few
factorisations and the solution has all its digits.

Sources: Friedman, Hastie and Tibshirani, Regularization Paths for Generalized Linear Models via Coordinate Descent
(2010); Yuan and Lin, Model Selection and Estimation in Regression with Grouped Variables (2006).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.numerics.lanes import at_most_once
from jaxmodels.numerics.problem import matmul

# Sweeps before a Newton step is tried: few problems need more, and a factorisation costs as much as several.
SWEEPS = 10
# Newton steps before a working set is given back: the next ones belong to the duality gap of all columns.
ROUNDS = 10


class Form(NamedTuple):
    """What is static of a penalty."""

    num_groups: int = 0
    """0: each coefficient is a unit."""


class Penalty(NamedTuple):
    """One value a coefficient; of a group all are the same."""

    l1: Float[Array, "*m"]
    l2: Float[Array, "*m"]
    lower: Float[Array, "*m"]
    """0, or -infinity where the coefficient may be negative."""
    groups: Int[Array, "*m"] | None = None


class _State(NamedTuple):
    coefficients: Array
    slope: Array
    """Of the quadratic."""
    change: Array
    """Sum of curvature times squared change over the last sweep, about twice what it gained."""
    round: Array


def descend(
    form: Form,
    penalty: Penalty,
    curvature: Float[Array, "m m"],
    slope: Float[Array, " m"],
    start: Float[Array, " m"],
    order: Int[Array, " m"],
    size: Int[Array, ""],
    tolerance: Float[Array, ""],
) -> Float[Array, " m"]:
    """Minimise over the coefficients ``order[:size]``; the others stay.

    Args:
      curvature: Q.
      slope: of the quadratic at ``start``, so ``Q start + g``.
      tolerance: stop when a sweep gains less.
    """
    sweep = _sweep_groups if form.num_groups else _sweep
    diagonal = jnp.diagonal(curvature)

    def sweeps(state: _State) -> _State:
        def unfinished(loop):
            return (loop[0].change > tolerance) & (loop[1] < SWEEPS)

        def one(loop):
            state, count = loop
            return sweep(form, penalty, curvature, diagonal, order, size, state), count + 1

        return lax.while_loop(unfinished, one, (state, 0))[0]

    def one_round(state: _State) -> _State:
        state = at_most_once(state.round > 0, lambda now: _newton(form, penalty, curvature, now), state)
        return sweeps(state)._replace(round=state.round + 1)

    def unfinished(state: _State) -> Array:
        return (state.change > tolerance) & (state.round < ROUNDS)

    infinity = jnp.asarray(jnp.inf, slope.dtype)
    state = _State(start, slope, jnp.where(size > 0, infinity, 0), jnp.int32(0))
    return lax.while_loop(unfinished, one_round, state).coefficients


def _sweep(form, penalty, curvature, diagonal, order, size, state: _State) -> _State:
    def update(position, loop):
        coefficients, slope = loop
        j = order[position]
        old, l1, total = coefficients[j], penalty.l1[j], diagonal[j] + penalty.l2[j]
        target = diagonal[j] * old - slope[j]
        shrunk = jnp.maximum(target - jnp.clip(target, -l1, l1), penalty.lower[j])
        new = jnp.where(total > 0, shrunk / jnp.where(total > 0, total, 1), 0)
        # XLA:CPU would compute a difference anew in both updates, from a copy of all coefficients; not so a division.
        step = (new - old) / jnp.where(total >= 0, 1, jnp.inf)
        return coefficients.at[j].add(step), slope + step * curvature[j]

    coefficients, slope = lax.fori_loop(0, size, update, state[:2])
    change = jnp.sum((diagonal + penalty.l2) * (coefficients - state.coefficients) ** 2)
    return _State(coefficients, slope, change, state.round)


def _sweep_groups(form, penalty, curvature, diagonal, order, size, state: _State) -> _State:
    """Proximal steps a group, whose length is safe for the largest eigenvalue of its block."""
    inside = (
        jnp.zeros(len(order), bool)
        .at[jnp.where(jnp.arange(len(order)) < size, order, len(order))]
        .set(True, mode="drop")
    )
    rows = jnp.where(inside, penalty.groups, -1)
    same = (rows[:, None] == rows) & (rows >= 0)
    bound = jnp.sum(jnp.where(same, jnp.abs(curvature), 0), axis=1)

    def update(group, loop):
        coefficients, slope, change = loop
        mine = rows == group
        length = jnp.max(jnp.where(mine, bound, 0))
        l1, l2 = (jnp.max(jnp.where(mine, each, 0)) for each in (penalty.l1, penalty.l2))
        target = jnp.where(mine, jnp.maximum(length * coefficients - slope, penalty.lower), 0)
        norm = jnp.sqrt(jnp.sum(target**2))
        factor = jnp.maximum(norm - l1, 0) / jnp.where(norm > 0, norm, 1)
        new = target * factor / jnp.where(length + l2 > 0, length + l2, 1)
        step = jnp.where(mine, new - coefficients, 0)
        return coefficients + step, slope + matmul(step, curvature), change + (length + l2) * jnp.sum(step**2)

    zero = jnp.zeros_like(state.change)
    coefficients, slope, change = lax.fori_loop(0, form.num_groups, update, (*state[:2], zero))
    return _State(coefficients, slope, change, state.round)


def _newton(form, penalty: Penalty, curvature: Array, state: _State) -> _State:
    """Newton steps on the nonzero coefficients, each up to the first that would turn its sign, until none would."""

    def unfinished(loop):
        _, turned, count = loop
        return turned & (count <= len(penalty.l1))

    def one(loop):
        state, turned = _newton_step(form, penalty, curvature, loop[0])
        return state, turned, loop[2] + 1

    return lax.while_loop(unfinished, one, (state, jnp.bool_(True), 0))[0]


def _newton_step(form, penalty: Penalty, curvature: Array, state: _State) -> tuple[_State, Array]:
    """A step, and whether a sign kept it from its end."""
    old = state.coefficients
    hessian, slope, free = smooth_parts(form, penalty, curvature, state.slope, old)
    factor = masked_cholesky(hessian, free)
    step = -jax.scipy.linalg.cho_solve((factor, True), jnp.where(free, slope, 0))
    if form.num_groups:
        # Beyond its quadratic model the norm of a group may grow: half of a step is the second try.
        for length in (0.5, 1.0):
            state = _better(
                form, penalty, curvature, state, jnp.where(free, jnp.maximum(old + length * step, penalty.lower), old)
            )
        return state, jnp.bool_(False)
    turns = free & (penalty.l1 > 0) & (old * (old + step) < 0)
    reach = jnp.where(turns, -old / jnp.where(turns, step, 1), 1)
    first = jnp.min(reach)
    new = jnp.where(turns & (reach <= first), 0, old + first * step)
    moved = _better(form, penalty, curvature, state, jnp.where(free, jnp.maximum(new, penalty.lower), old))
    return moved, jnp.any(turns) & jnp.any(moved.coefficients != old)


def _better(form, penalty: Penalty, curvature: Array, state: _State, new: Array) -> _State:
    old = state.coefficients
    step = new - old
    turned = matmul(curvature, step)
    gain = jnp.dot(step, state.slope + turned / 2) + value(form, penalty, new) - value(form, penalty, old)
    return state._replace(
        coefficients=jnp.where(gain <= 0, new, old), slope=state.slope + jnp.where(gain <= 0, turned, 0)
    )


def masked_cholesky(hessian: Array, free: Array) -> Array:
    """The lower factor of the block of ``free``, with ones elsewhere; lifted so that dependent columns have one."""
    lift = 1 + 10 * len(free) * float(jnp.finfo(hessian.dtype).eps)
    identity = jnp.eye(len(free), dtype=hessian.dtype)
    block = jnp.where(free[:, None] & free, hessian, 0)
    diagonal = jnp.where(free, jnp.diagonal(hessian) * lift, 1)
    return jnp.linalg.cholesky(block * (1 - identity) + jnp.diag(diagonal))


# The penalty ----------------------------------------------------------------------------------------------------------


def smooth_parts(form, penalty, curvature, slope, coefficients) -> tuple[Array, Array, Array]:
    """Second and first derivative of the objective where it has them, and the mask of those coefficients."""
    l1, l2 = penalty.l1, penalty.l2
    hessian, slope = curvature + jnp.diag(l2), slope + l2 * coefficients
    inside = (coefficients > penalty.lower) & (jnp.diagonal(curvature) > 0)
    if not form.num_groups:
        return hessian, slope + l1 * jnp.sign(coefficients), inside & ((coefficients != 0) | (l1 == 0))
    norm = _of_unit(norms(form, penalty, coefficients), penalty)
    active = norm > 0
    over = jnp.where(active, l1 / jnp.where(active, norm, 1), 0)
    unit = jnp.where(active, coefficients / jnp.where(active, norm, 1), 0)
    same = penalty.groups[:, None] == penalty.groups
    hessian = hessian + jnp.diag(over) - jnp.where(same, over[:, None] * unit[:, None] * unit, 0)
    return hessian, slope + over * coefficients, inside & (active | (l1 == 0))


def norms(form: Form, penalty: Penalty, values: Float[Array, "*m"]) -> Array:
    """The length of each unit: ``[*m]``, or ``[num_groups]``; of values below 0 nothing where those are not allowed."""
    values = jnp.maximum(values, penalty.lower)
    if not form.num_groups:
        return jnp.abs(values)
    assert penalty.groups is not None
    squares = jax.ops.segment_sum((values**2).reshape(-1), penalty.groups.reshape(-1), form.num_groups)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def per_unit(form: Form, penalty: Penalty) -> Array:
    """``l1`` of each unit, as ``norms`` has them."""
    if not form.num_groups:
        return penalty.l1
    assert penalty.groups is not None
    # A group without members has the norm 0 and must not have the penalty -infinity.
    highest = jax.ops.segment_max(penalty.l1.reshape(-1), penalty.groups.reshape(-1), form.num_groups)
    return jnp.maximum(highest, 0)


def _of_unit(values: Array, penalty: Penalty) -> Array:
    return values if penalty.groups is None else values.at[penalty.groups].get(mode="fill", fill_value=0)


def of_unit(form: Form, penalty: Penalty, values: Array) -> Array:
    """What holds for a unit, for each of its coefficients."""
    return _of_unit(values, penalty) if form.num_groups else values


def value(form: Form, penalty: Penalty, coefficients: Float[Array, "*m"]) -> Float[Array, ""]:
    """The penalty's."""
    return (
        jnp.sum(per_unit(form, penalty) * norms(form, penalty, coefficients))
        + jnp.sum(penalty.l2 * coefficients**2) / 2
    )

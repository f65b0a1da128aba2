"""A parameter of the loss, positive, estimated together with the coefficients by maximum likelihood.

    0 = d/da sum_i w_i nll(outputs_i(a), targets_i, a),   outputs(a) those of the coefficients that are best for a

The dispersion of the negative binomial, say: in its information it is orthogonal to the coefficients, so that turning
to the one and the other converges in a few turns. The derivative is the implicit function theorem's, of this equation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.numerics import newton
from jaxmodels.numerics.newton import Loss, Problem

MAX_TURNS = 50


def bound(dtype: Any) -> float:
    """A logarithm of the parameter beyond it, above or below 0, counts as no maximum: rounding makes some there."""
    return min(18.0, -math.log(8 * float(jnp.finfo(dtype).eps)))


class _State(NamedTuple):
    log_parameter: Array
    coefficients: Array
    change: Array
    turns: Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def estimate(
    loss: Loss,
    nll: Callable[..., Array],
    problem: Problem,
    start: Float[Array, "k p"],
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> Float[Array, ""]:
    """The logarithm of the parameter; ``-bound`` or ``bound`` where the likelihood has no maximum in between.

    Args:
      nll: static, ``(outputs [n, k], targets, parameter) -> [n]``, minus log density with all that depends on the
        parameter.
      problem: its own parameter is not used.
      start, tolerance, max_steps: of ``newton.solve``.
    """
    still = 1e3 * float(jnp.finfo(start.dtype).eps)

    def unfinished(state: _State) -> Array:
        return (state.change > still) & (state.turns < MAX_TURNS)

    def turn(state: _State) -> _State:
        there = problem._replace(parameter=jnp.exp(state.log_parameter))
        found = newton.solve(loss, there, state.coefficients, tolerance, max_steps)
        best = _best(nll, problem, found.outputs, state.log_parameter)
        return _State(best, found.coefficients, jnp.abs(best - state.log_parameter), state.turns + 1)

    zero = jnp.zeros((), start.dtype)
    return lax.while_loop(unfinished, turn, _State(zero, start, zero + jnp.inf, jnp.int32(0))).log_parameter


@estimate.defjvp
def _(loss, nll, primals, tangents):
    problem, *rest = primals
    found = estimate(loss, nll, problem, *rest)

    def slope(log_parameter, problem):
        there = problem._replace(parameter=jnp.exp(log_parameter))
        return _slope(nll, problem, newton.solve(loss, there, *rest).outputs, log_parameter)

    _, change = jax.jvp(functools.partial(slope, found), (problem,), (tangents[0],))
    _, curvature = jax.jvp(lambda each: slope(each, problem), (found,), (jnp.ones_like(found),))
    return found, -change / curvature


def _slope(nll: Callable[..., Array], problem: Problem, outputs: Array, log_parameter: Array) -> Array:
    def total(log_parameter):
        each = nll(outputs, problem.targets, jnp.exp(log_parameter))
        return jnp.sum(jnp.where(problem.weights > 0, problem.weights * each, 0))

    return jax.grad(total)(log_parameter)


def _best(nll: Callable[..., Array], problem: Problem, outputs: Array, first: Array) -> Array:
    """Newton's method on the logarithm, steps at most 1 and downhill."""
    slope = functools.partial(_slope, nll, problem, outputs)
    eps, most = float(jnp.finfo(first.dtype).eps), bound(first.dtype)

    def step(state):
        point, _, turns = state
        value, curvature = jax.jvp(slope, (point,), (jnp.ones_like(point),))
        size = jnp.abs(value) / jnp.maximum(jnp.abs(curvature), float(jnp.finfo(first.dtype).tiny))
        move = -jnp.sign(value) * jnp.minimum(size, 1)
        return jnp.clip(point + move, -most, most), jnp.abs(move), turns + 1

    def unfinished(state):
        return (state[1] > 4 * eps) & (state[2] < MAX_TURNS)

    return lax.while_loop(unfinished, step, (first, jnp.ones_like(first), jnp.int32(0)))[0]

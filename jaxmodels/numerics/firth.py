"""Firth's correction: the likelihood times the root of the determinant of the information (Jeffreys' prior).

    score*(b) = score(b) + 1/2 sum_i h_i (W_i' / W_i) z_i,   h_i = w_i W_i |F'z_i|^2,   F F' = (Z'wWZ)^-1

It takes the first-order bias out of the estimates of canonical families, and they are finite where classes are
separated.

Source: Firth, Bias reduction of maximum likelihood estimates (1993).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.numerics import newton
from jaxmodels.numerics.newton import CONVERGED, RUNNING, STALLED, Loss, Problem, Solved
from jaxmodels.numerics.problem import matmul


class _State(NamedTuple):
    solved: Solved
    value: Array
    direction: Array
    """Of the step from ``solved.coefficients`` that is tried next."""


class _Seen(NamedTuple):
    """What is known of a point."""

    value: Array
    direction: Array
    """The step from there."""
    kept: Array
    size: Array
    """The step's length in standard errors."""
    outputs: Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def solve(
    loss: Loss, problem: Problem, start: Float[Array, "1 p"], tolerance: Float[Array, ""], max_steps: Int[Array, ""]
) -> Solved:
    """As ``newton.solve``, for a canonical loss of one output; the last step is at most ``tolerance^1.5``.

    Steps are those of scoring, which converge linearly.
    """
    at = _look(loss, problem, start)
    infinity = jnp.asarray(jnp.inf, start.dtype)
    solved = Solved(start, at.outputs, at.kept, infinity, jnp.int32(0), jnp.int32(RUNNING))

    def unfinished(state: _State) -> Array:
        return (state.solved.ending == RUNNING) & (state.solved.num_steps < max_steps)

    state = _State(solved, at.value, at.direction)
    return lax.while_loop(unfinished, lambda state: _try(loss, problem, state, tolerance), state).solved


@solve.defjvp
def _(loss, primals, tangents):
    problem, *rest = primals
    solved = solve(loss, problem, *rest)
    coefficients = solved.coefficients
    _, change = jax.jvp(lambda problem: _score(loss, problem, coefficients), (problem,), (tangents[0],))
    slope = jax.jacfwd(lambda b: _score(loss, problem, b[None])[0])(coefficients[0])
    moved = -jnp.linalg.solve(slope, change[0])[None]
    _, outputs = jax.jvp(newton.predictor, (problem, coefficients), (tangents[0], moved))
    return solved, jax.tree.map(newton.no_tangent, solved)._replace(coefficients=moved, outputs=outputs)


def _try(loss: Loss, problem: Problem, state: _State, tolerance: Array) -> _State:
    """Look at the end of the step; go there, or halve it."""
    solved, direction = state.solved, state.direction
    there = solved.coefficients + direction
    at = _look(loss, problem, there)
    good = at.value <= state.value + newton.slack(problem, state.value)
    short = jnp.all(jnp.abs(direction) <= 0.5**newton.MAX_HALVINGS * (1 + jnp.abs(solved.coefficients)))
    ending = jnp.where(good & (at.size <= tolerance**1.5), CONVERGED, jnp.where(~good & short, STALLED, RUNNING))
    after = Solved(
        jnp.where(good, there, solved.coefficients),
        jnp.where(good, at.outputs, solved.outputs),
        jnp.where(good, at.kept, solved.kept),
        jnp.where(good, at.size, solved.decrement),
        solved.num_steps + 1,
        ending.astype(jnp.int32),
    )
    return _State(after, jnp.where(good, at.value, state.value), jnp.where(good, at.direction, direction / 2))


def _look(loss: Loss, problem: Problem, coefficients: Array) -> _Seen:
    outputs = newton.predictor(problem, coefficients)
    triangle = newton.information_triangle(loss, problem, outputs)
    diagonal = jnp.where(triangle.kept, jnp.diagonal(triangle.upper), 1)
    value = newton.value(loss, problem, coefficients, outputs) - jnp.sum(jnp.log(diagonal))
    basis = matmul(newton.design(problem), triangle.inverse)
    slope = _corrected(loss, problem, coefficients, jnp.sum(basis**2, axis=1))
    scaled = matmul(triangle.inverse.T, slope[0])
    direction = matmul(triangle.inverse, scaled)[None]
    return _Seen(value, direction, triangle.kept, jnp.linalg.norm(scaled), outputs)


def _corrected(loss: Loss, problem: Problem, coefficients: Array, lengths: Array) -> Array:
    """The score with the correction; ``lengths`` are ``|F'z_i|^2``."""
    outputs = newton.predictor(problem, coefficients)

    def root_of(outputs):
        return loss.root(outputs, problem.targets, problem.parameter)[:, :, 0]

    root, growth = jax.jvp(root_of, (outputs,), (jnp.ones_like(outputs),))
    extra = problem.weights[:, None] * lengths[:, None] * root * growth  # h W' / (2 W), with W = root^2
    return newton.score(loss, problem, coefficients) + matmul(extra.T, newton.design(problem))


def _score(loss: Loss, problem: Problem, coefficients: Array) -> Array:
    """The corrected score by operations that can be differentiated."""
    root = loss.root(newton.predictor(problem, coefficients), problem.targets, problem.parameter)[:, :, 0]
    design = newton.design(problem)
    weighted = jnp.sqrt(jnp.where(problem.weights > 0, problem.weights, 1))[:, None] * root * design
    weighted = jnp.where(problem.weights[:, None] > 0, weighted, 0)
    information = matmul(weighted.T, weighted) + newton.penalty_matrix(problem)
    lengths = jnp.sum(design * jnp.linalg.solve(information, design.T).T, axis=1)
    return _corrected(loss, problem, coefficients, lengths)

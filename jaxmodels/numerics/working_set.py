"""Penalised regression on the few columns that matter, until a duality gap of all columns says that it is solved.

    minimise over b [p, k]   sum_i w_i loss(offset_i + b'z_i, targets_i) + penalty(b),     sum_i w_i = 1

In each step the columns that are needed (nonzero, or the most against the optimality conditions) are gathered,
coordinate descent minimises the loss's quadratic model over them, and the slopes of all columns tell who is needed
next. Only what is gathered is centred and scaled: x is read once a step and never written. The loss of a family in its
canonical link; of squared error also from its Gram matrix alone.

The certificate is the gap between the objective and its dual at scaled residuals ``s (y - m)``. Written as a sum of
Fenchel-Young losses, each at least 0, it loses no digits:

    gap = sum_i w_i deviance(y = (1 - s) y_i + s m_i, mean = m_i) / 2
          + sum_u [l1 |b_u| - r_u'b_u + |l2 b_u - e_u|^2 / (2 l2)],      s v_u = r_u + e_u

with v minus the slope of the loss, r_u the nearest to s v_u of length at most l1, and s <= 1 the largest number for
which e is 0 where l2 is. An unpenalised coefficient counts with what a Newton step of its own would gain.

Sources: Fercoq, Gramfort and Salmon, Mind the Duality Gap (2015); Blondel, Martins and Niculae, Learning with
Fenchel-Young Losses (2020); Tibshirani et al., Strong Rules for Discarding Predictors (2012).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.families import Family
from jaxmodels.numerics import coordinate_descent as cd
from jaxmodels.numerics.coordinate_descent import Penalty
from jaxmodels.numerics.lanes import at_most_once
from jaxmodels.numerics.newton import no_tangent
from jaxmodels.numerics.problem import matmul
from jaxmodels.numerics.row_parts import column_sums, gram

# Working sets have one of few sizes, each this many times the one before.
SMALLEST, GROWTH = 64, 4
MAX_HALVINGS = 30


class Form(NamedTuple):
    """What is fixed when a problem is traced."""

    family: Family
    penalty: cd.Form


class Gram(NamedTuple):
    """Squared error by its moments: ``b'gram b / 2 - moment'b + square / 2``."""

    gram: Float[Array, "p p"]
    moment: Float[Array, " p"]
    square: Float[Array, ""]


class Rows(NamedTuple):
    """A loss by its rows; whatever stands in rows of weight 0 is finite. ``z = (x - center) * inverse``."""

    x: Float[Array, "n d"]
    """As it came. Where p = d + 1, an intercept's column of 0 follows, with center -1 and inverse 1."""
    center: Float[Array, " p"]
    inverse: Float[Array, " p"]
    targets: Float[Array, "n *k"]
    weights: Float[Array, " n"]
    """Sum to 1."""
    offset: Float[Array, "n k"]
    squares: Float[Array, " p"]
    """Weighted mean squares of the columns of z."""


class Problem(NamedTuple):
    data: Gram | Rows
    penalty: Penalty
    """``[p, k]`` each."""
    scale: Float[Array, ""]
    """Of the objective; the tolerance is relative to it."""


class Point(NamedTuple):
    """Coefficients, and what of the loss does not depend on the penalty."""

    coefficients: Float[Array, "p k"]
    slope: Float[Array, "p k"]
    outputs: Float[Array, "n k"] | None
    """``None`` for ``Gram``."""


class Gap(NamedTuple):
    """Its terms of first order in what the coefficients lack, and those that are squares of it."""

    first: Float[Array, ""]
    second: Float[Array, ""]


class Solved(NamedTuple):
    point: Point
    gap: Gap
    needed: Bool[Array, " p"]
    num_steps: Int[Array, ""]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def solve(
    form: Form,
    problem: Problem,
    start: Point,
    screen: Float[Array, "p k"],
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> Solved:
    """The minimiser; its coefficients are differentiable in the problem, on their support.

    Args:
      start: from ``point_at``, or of a solution with another penalty.
      screen: columns with a larger slope are in the first working set.
      tolerance: of the gap, relative to ``problem.scale``.
    """
    needed = _needed(form, problem.penalty, start, screen)
    state = Solved(start, gap(form, problem, start), needed, jnp.int32(0))
    num_columns = len(start.coefficients)

    def unfinished(state: Solved) -> Array:
        going = (state.num_steps < max_steps) & jnp.isfinite(state.gap.first + state.gap.second)
        return going & ~is_closed(state.gap, problem.scale, tolerance)

    for capacity in capacities(num_columns):

        def fits(state, capacity=capacity):
            return unfinished(state) & (jnp.sum(state.needed) <= capacity)

        state = lax.while_loop(fits, functools.partial(_step, form, problem, capacity, tolerance), state)
    return state


def is_closed(gap: Gap, scale: Array, tolerance: Array) -> Array:
    """Whether it is within the tolerance; squares are held to a smaller one, for the sake of the coefficients."""
    return (gap.first <= tolerance * scale) & (gap.second <= tolerance**1.5 * scale)


def capacities(num_columns: int) -> list[int]:
    """Sizes of working sets, the last of which holds all columns.

    >>> capacities(20), capacities(1000)
    ([20], [64, 256, 1000])
    """
    sizes, size = [], SMALLEST
    while size <= num_columns / 2:
        sizes.append(size)
        size *= GROWTH
    return [*sizes, num_columns]


def point_at(
    form: Form, data: Gram | Rows, coefficients: Float[Array, "p k"], outputs: Float[Array, "n k"] | None = None
) -> Point:
    """The point of these coefficients; ``outputs`` where they are known."""
    if isinstance(data, Gram):
        return Point(coefficients, matmul(data.gram, coefficients) - data.moment[:, None], None)
    outputs = data.offset + matmul(design_of(data), coefficients) if outputs is None else outputs
    return Point(coefficients, _slope(form, data, outputs), outputs)


def _slope(form: Form, data: Rows, outputs: Array) -> Array:
    errors = data.weights[:, None] * (_mean(form, outputs) - data.targets.reshape(outputs.shape))
    num_columns = data.x.shape[1]
    sums = column_sums(data.x, data.center[:num_columns], errors)
    of_intercept = jnp.sum(errors, axis=0, keepdims=True)[: len(data.center) - num_columns]
    return data.inverse[:, None] * jnp.concatenate([sums, of_intercept])


def design_of(data: Rows, index: Array | None = None) -> Float[Array, "n m"]:
    """These columns of z, 0 where there is no such column; by default all."""
    if index is None:
        x = jnp.pad(data.x, ((0, 0), (0, len(data.center) - data.x.shape[1])))
    else:
        x = data.x.at[:, index].get(mode="fill", fill_value=0)
    return (x - _take(data.center, index)) * _take(data.inverse, index)


# A step ---------------------------------------------------------------------------------------------------------------


def _step(form: Form, problem: Problem, capacity: int, tolerance: Array, state: Solved) -> Solved:
    # Without a barrier XLA takes what is the same in every step out of a loop, even of one that is never run: the Gram
    # matrix of all columns, where few of them matter.
    data, point = lax.optimization_barrier((problem.data, state.point))
    num_columns, num_outputs = point.coefficients.shape
    index = jnp.nonzero(state.needed, size=capacity, fill_value=num_columns)[0]
    size = jnp.sum(state.needed) * num_outputs
    slots = index if capacity == num_columns else jnp.arange(capacity)
    order = (slots[:, None] * num_outputs + jnp.arange(num_outputs)).reshape(-1)
    # All columns need not be gathered.
    index = None if capacity == num_columns else index
    old = _take(point.coefficients, index)
    groups = problem.penalty.groups
    penalty = Penalty(
        _take(problem.penalty.l1, index, 1).reshape(-1),
        _take(problem.penalty.l2, index).reshape(-1),
        _take(problem.penalty.lower, index).reshape(-1),
        None if groups is None else _take(groups, index, form.penalty.num_groups).reshape(-1),
    )
    if isinstance(data, Gram):
        rows = _take(data.gram, index)
        design, curvature = None, rows if index is None else _take(rows.T, index)
    else:
        rows, design = None, lax.optimization_barrier(design_of(data, index))
        curvature = _curvature(form, data, design, point.outputs)
    # The gap is of first order in the coefficients, what a sweep gains of second. Every step asks for more than the
    # last, for that did not close the gap.
    eps = float(jnp.finfo(old.dtype).eps)
    limit = problem.scale * jnp.maximum(tolerance * 0.1**state.num_steps, eps) ** 2
    new = cd.descend(
        form.penalty, penalty, curvature, _take(point.slope, index).reshape(-1), old.reshape(-1), order, size, limit
    ).reshape(old.shape)
    if isinstance(data, Gram):
        assert rows is not None
        coefficients = _put(point.coefficients, index, new)
        # From the left, for which XLA:CPU reads the matrix by its rows.
        point = Point(coefficients, (matmul(new[:, 0], rows) - data.moment)[:, None], None)
    else:
        point = _line_search(form, problem, design, index, new - old, point)
    needed = _needed(form, problem.penalty, point, problem.penalty.l1)
    return Solved(point, gap(form, problem, point), needed, state.num_steps + 1)


def _take(values: Array, index: Array | None, fill: float = 0) -> Array:
    return values if index is None else values.at[index].get(mode="fill", fill_value=fill)


def _put(values: Array, index: Array | None, new: Array) -> Array:
    return new if index is None else values.at[index].set(new, mode="drop")


def _line_search(form: Form, problem: Problem, design: Array, index: Array | None, step: Array, point: Point) -> Point:
    """The whole step of squared error; of other losses the longest of its halves that does not lose."""
    data, ahead = problem.data, matmul(design, step)
    assert isinstance(data, Rows)
    assert point.outputs is not None

    def moved(length):
        return _put(point.coefficients, index, _take(point.coefficients, index) + length * step)

    length = jnp.ones((), step.dtype)
    if form.family.name != "gaussian":

        def objective(length):
            losses = data.weights * _loss(form, point.outputs + length * ahead, data.targets)
            return jnp.sum(losses) + cd.value(form.penalty, problem.penalty, moved(length))

        first = objective(0.0)
        first = first + 10 * float(jnp.finfo(step.dtype).eps) * jnp.abs(first)

        def worse(loop):
            return ~(objective(loop[0]) <= first) & (loop[1] < MAX_HALVINGS)

        length, halvings = lax.while_loop(worse, lambda loop: (loop[0] / 2, loop[1] + 1), (length, 0))
        length = jnp.where(halvings < MAX_HALVINGS, length, 0)
    outputs = point.outputs + length * ahead
    return Point(moved(length), _slope(form, data, outputs), outputs)


# The loss, one or several outputs -------------------------------------------------------------------------------------


def _flat(form: Form, outputs: Array) -> Array:
    return outputs if form.family.name == "categorical" else outputs[:, 0]


def _loss(form: Form, outputs: Array, targets: Array) -> Array:
    return form.family.kind.loss(_flat(form, outputs), targets, form.family.link, form.family.parameter)


def _mean(form: Form, outputs: Array) -> Array:
    return form.family.mean(_flat(form, outputs)).reshape(outputs.shape)


def _information(form: Form, outputs: Array) -> Array:
    """``[n, k, k]``."""
    each = form.family.kind.information(_flat(form, outputs), form.family.link, form.family.parameter)
    return each.reshape(len(outputs), outputs.shape[1], outputs.shape[1])


def _curvature(form: Form, data: Rows, design: Array, outputs: Array) -> Array:
    """Of the columns in ``design [n, m]``: ``[m k, m k]``."""
    weights = data.weights[:, None, None] * _information(form, outputs)
    num_outputs = outputs.shape[1]
    blocks = [[gram(design, weights[:, a, b]) for b in range(num_outputs)] for a in range(num_outputs)]
    size = design.shape[1] * num_outputs
    return jnp.asarray(blocks).transpose(2, 0, 3, 1).reshape(size, size)


# The certificate ------------------------------------------------------------------------------------------------------


def _needed(form: Form, penalty: Penalty, point: Point, screen: Array) -> Array:
    """The columns that are not 0, and as many again of those that are furthest above the screen."""
    size = cd.of_unit(form.penalty, penalty, cd.norms(form.penalty, penalty, -point.slope))
    nonzero = cd.of_unit(form.penalty, penalty, cd.norms(form.penalty, penalty, point.coefficients)) > 0
    held = jnp.any(nonzero | (penalty.l1 == 0), axis=1)
    above = jnp.where(held, 0, jnp.max(size - screen, axis=1))
    if len(capacities(len(held))) > 1:
        room = jnp.maximum(jnp.sum(held), SMALLEST - jnp.sum(held))

        def furthest(above):
            ranked = jnp.sort(above, descending=True)
            # A group has one size and is not parted.
            return jnp.where(above >= ranked[jnp.minimum(room, len(held)) - 1], above, 0)

        above = at_most_once(jnp.sum(above > 0) > room, furthest, above)
    return held | (above > 0)


def gap(form: Form, problem: Problem, point: Point) -> Gap:
    """How far, at most, the objective is above its minimum."""
    penalty, coefficients = problem.penalty, point.coefficients
    l1, l2 = penalty.l1, penalty.l2
    size = cd.of_unit(form.penalty, penalty, cd.norms(form.penalty, penalty, -point.slope))
    bounded = (l1 > 0) & (l2 == 0) & (size > l1)
    shrink = jnp.min(jnp.where(bounded, l1 / jnp.where(bounded, size, 1), 1))
    dual = -shrink * point.slope
    admitted = jnp.maximum(dual, penalty.lower)
    over = shrink * size > l1
    of_l1 = admitted * jnp.where(over, l1 / jnp.where(over, shrink * size, 1), 1)
    of_l2 = jnp.where(l2 > 0, (admitted - of_l1 - l2 * coefficients) ** 2 / (2 * jnp.where(l2 > 0, l2, 1)), 0)
    free = (l1 == 0) & (l2 == 0)
    products = jnp.where(free, 0, (of_l1 + dual - admitted) * coefficients)
    lengths = cd.per_unit(form.penalty, penalty) * cd.norms(form.penalty, penalty, coefficients)
    rest = jnp.sum(lengths - products) if lengths.shape == products.shape else jnp.sum(lengths) - jnp.sum(products)
    curvature = jnp.broadcast_to(_own_curvature(form, problem.data, point), free.shape)
    inward = jnp.where(coefficients > penalty.lower, point.slope, jnp.minimum(point.slope, 0))
    free &= curvature > 0
    newton = jnp.where(free, inward**2 / (2 * jnp.where(free, curvature, 1)), 0)
    deviance = jnp.where(shrink < 1, _shrunk_deviance(form, problem.data, point, shrink), 0)
    return Gap(jnp.maximum(rest, 0) + deviance, jnp.sum(of_l2) + jnp.sum(newton))


def _shrunk_deviance(form: Form, data: Gram | Rows, point: Point, shrink: Array) -> Array:
    if isinstance(data, Gram):
        squares = data.square + jnp.sum((point.slope[:, 0] - data.moment) * point.coefficients[:, 0])
        return (1 - shrink) ** 2 * jnp.maximum(squares, 0) / 2
    outputs = _flat(form, point.outputs)
    mean = form.family.mean(outputs)
    targets = (1 - shrink) * data.targets + shrink * mean
    return jnp.maximum(jnp.sum(data.weights * form.family.deviance(outputs, targets)), 0) / 2


def _own_curvature(form: Form, data: Gram | Rows, point: Point) -> Array:
    if isinstance(data, Gram):
        return jnp.diagonal(data.gram)[:, None]
    if form.family.name == "gaussian":
        return data.squares[:, None]
    information = jnp.diagonal(_information(form, point.outputs), axis1=1, axis2=2)
    return data.squares[:, None] * matmul(data.weights, information)


# The derivative -------------------------------------------------------------------------------------------------------


@solve.defjvp
def _(form, primals, tangents):
    """By the implicit function theorem on the support: ``db = -H^-1 d(slope of the objective)``."""
    problem, *rest = primals
    solved = solve(form, problem, *rest)
    coefficients = solved.point.coefficients
    penalty = jax.tree.map(lambda each: each.reshape(-1), problem.penalty)

    def slope(problem):
        point = point_at(form, problem.data, coefficients)
        flat = jax.tree.map(lambda each: each.reshape(-1), problem.penalty)
        no_curvature = jnp.zeros((coefficients.size, coefficients.size), coefficients.dtype)
        return cd.smooth_parts(form.penalty, flat, no_curvature, point.slope.reshape(-1), coefficients.reshape(-1))[1]

    _, change = jax.jvp(slope, (problem,), (tangents[0],))
    hessian, _, free = cd.smooth_parts(
        form.penalty,
        penalty,
        hessian_of(form, problem.data, solved.point),
        solved.point.slope.reshape(-1),
        coefficients.reshape(-1),
    )
    factor = cd.masked_cholesky(lax.stop_gradient(hessian), free)
    moved = -jax.scipy.linalg.cho_solve((factor, True), jnp.where(free, change, 0))
    still = jax.tree.map(no_tangent, solved)
    moved = jnp.where(free, moved, 0).reshape(coefficients.shape)
    return solved, still._replace(point=still.point._replace(coefficients=moved))


def hessian_of(form: Form, data: Gram | Rows, point: Point) -> Float[Array, "pk pk"]:
    """Of the loss, at all coefficients."""
    if isinstance(data, Gram):
        return data.gram
    return _curvature(form, data, design_of(data), point.outputs)

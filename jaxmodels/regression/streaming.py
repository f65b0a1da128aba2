"""Least squares over data that never stands in memory at once.

    acc = init(d)                                       no rows
    acc = update(acc, x, y) ... merge(a, b)             more rows, or other machines'
    solution = solve(acc)                               the fit to all of them, as linear.fit's

Nothing is ever subtracted from an accumulator: taking rows out of a triangular factor (downdating) is unstable. The
fits without each fold merge what comes before the fold with what comes after, a rolling window is a queue of two
stacks of merges, and single rows are left out through their leverage.

Sources: see ``accumulator``; Tangwongsan, Hirzel, Schneider, Wu, General incremental sliding-window aggregation (2015).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxmodels.core import InputError, Solution, Status, check_count
from jaxmodels.numerics import least_squares, qr
from jaxmodels.numerics.problem import Form, Problem
from jaxmodels.regression import inputs
from jaxmodels.regression.accumulator import Accumulator, accumulate, init, merge, packed, triangle_of, update
from jaxmodels.regression.diagnostics import column_of, estimates, leverages, rows_of
from jaxmodels.regression.inference import Inference, Whole, infer_whole
from jaxmodels.regression.linear import LinearParams, LinearStats

__all__ = ["Accumulator", "Window", "accumulate", "infer", "init", "init_window", "leave_one_fold_out", "leave_one_out"]
__all__ += ["merge", "push", "rolling", "solve", "update"]

HIGHEST = lax.Precision.HIGHEST


def solve(acc: Accumulator, *, l2: Float[Array, "*d"] | float = 0.0, intercept: bool = True) -> Solution:
    """The fit to all rows so far: what ``linear.fit`` would return for them.

    Args:
      acc: the rows. One accumulator serves any ``l2`` and either ``intercept``.
      l2: penalty on the squared coefficients, one or one a column.
      intercept: whether to fit one; it is not penalised.

    Returns:
      A ``Solution`` with ``linear.fit``'s params, status and stats. A column that depends on those before it is dropped
      (coefficient 0).
    """
    l2, num_columns = jnp.asarray(l2, acc.factor.dtype), acc.factor.shape[-1] - 1
    if l2.shape not in ((), (num_columns,)):
        raise InputError(f"l2: got shape {l2.shape}, needs one number or one a column, ({num_columns},)")
    return _solve(acc, l2, intercept=intercept)


def infer(
    acc: Accumulator,
    *,
    l2: Float[Array, "*d"] | float = 0.0,
    intercept: bool = True,
    confidence: float = 0.95,
) -> Inference:
    """Classical standard errors, tests and intervals of ``solve(acc)``, without the rows.

    Robust covariances need each row's residual: pass ``solve(acc)`` and the rows to ``inference.infer``.

    Args:
      acc, l2, intercept: as in ``solve``.
      confidence: of the intervals.

    >>> acc = update(init(1), jnp.array([[1.0], [2.0], [3.0], [4.0]]), jnp.array([2.0, 1.0, 4.0, 3.0]))
    >>> f"{infer(acc).p_value[1]:.3f}"
    '0.400'
    """
    solution = solve(acc, l2=l2, intercept=intercept)
    total = jnp.sum(packed(acc)[int(intercept) :, acc.factor.shape[-1] :] ** 2, axis=0)
    whole = Whole(estimates(solution), total.reshape(acc.projected.shape[1:]), acc.log_weights)
    return infer_whole(solution.stats, whole, confidence=confidence)


def leave_one_out(
    solution: Solution,
    x: Float[Array, "n d"],
    y: Float[Array, "n *k"],
    *,
    weights: Float[Array, " n"] | None = None,
    mask: Bool[Array, " n"] | None = None,
    offset: Float[Array, " n"] | None = None,
) -> Float[Array, "n *k"]:
    """What the fit without row i predicts at row i, in closed form: ``y - e / (1 - h)``.

    Args:
      solution: of all rows, from ``solve`` or ``linear.fit``, with or without a penalty.
      x, y, weights, mask, offset: any block of those rows, so that the data need not stand in memory.

    Returns:
      Predictions; for rows of weight 0, 0. Not finite where a row alone decides a coefficient (leverage 1).

    >>> x, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([0.0, 1.0, 5.0])
    >>> leave_one_out(solve(update(init(1), x, y)), x, y).round().tolist()         # the line through the other two
    [-3.0, 2.0, 2.0]

    Source: Allen, The relationship between variable selection and data augmentation (1974).
    """
    data = inputs.read(x, y, weights=weights, mask=mask, offset=offset)
    rows = rows_of(solution, data)
    deleted = rows.residuals / (1 - column_of(leverages(rows), rows.residuals))
    predictions = rows.targets - deleted + (0 if data.offset is None else data.offset)
    return jnp.where(column_of(rows.weights, rows.targets) > 0, predictions, 0)


def leave_one_fold_out(folds: Accumulator) -> Accumulator:
    """For each fold, the merge of all others: one pass over the data gives every fit of a K-fold cross-validation.

    Args:
      folds: accumulators with a leading axis of K folds, one a fold (``stack``).

    Returns:
      Accumulators with the same axis; ``jax.vmap(solve)`` of them are the K fits. ``2 K`` merges, none subtracted.

    >>> x, y = jnp.arange(8.0)[:, None] ** jnp.array([1.0, 2.0]), jnp.arange(8.0)
    >>> folds = jax.vmap(functools.partial(update, init(2)))(x.reshape(4, 2, 2), y.reshape(4, 2))
    >>> leave_one_fold_out(folds).num_rows.tolist()
    [6.0, 6.0, 6.0, 6.0]
    """
    empty = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), folds)._replace(valid=jnp.array(True))

    def scan(total, fold):
        return merge(total, fold), total

    _, before = lax.scan(scan, empty, folds)
    _, after = lax.scan(scan, empty, folds, reverse=True)
    return jax.vmap(merge)(before, after)


class Window(NamedTuple):
    """The last so many elements of a stream, as a queue of two stacks."""

    elements: Accumulator
    """Newest generation, one a slot."""
    suffixes: Accumulator
    """Of the generation before: slot i holds the merge of its elements from i on."""
    newest: Accumulator
    """Merge of the newest generation so far."""
    position: Array
    """int32: how many the newest generation holds."""


def init_window(acc: Accumulator, length: int) -> Window:
    """A window over the last ``length`` elements, empty.

    Args:
      acc: ``init(...)`` of the shape of the elements.
      length: elements in the window; an element is a block or a single row.
    """
    check_count("length", length)
    empty = jax.tree.map(jnp.zeros_like, acc)._replace(valid=jnp.array(True))
    slots = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (length, *leaf.shape)), empty)
    return Window(slots, slots, empty, jnp.zeros((), jnp.int32))


def push(window: Window, acc: Accumulator) -> tuple[Window, Accumulator]:
    """Add an element, let the oldest fall out, and return the merge of those inside: three merges on average.

    Exact to rounding however long the stream: every rounding error leaves with its element.
    """
    length = window.elements.num_rows.shape[0]
    elements = jax.tree.map(lambda slots, leaf: slots.at[window.position].set(leaf), window.elements, acc)
    newest = merge(window.newest, acc)
    # Slot i of the generation before has left when slot i of this one is filled.
    following = jnp.minimum(window.position + 1, length - 1)
    older = jax.tree.map(lambda leaf: leaf[following], window.suffixes)
    full = window.position + 1 == length
    total = lax.cond(full, lambda: newest, lambda: merge(older, newest))

    def turn():
        def scan(suffix, element):
            suffix = merge(element, suffix)
            return suffix, suffix

        empty = jax.tree.map(jnp.zeros_like, acc)._replace(valid=jnp.array(True))
        _, suffixes = lax.scan(scan, empty, elements, reverse=True)
        return Window(elements, suffixes, empty, jnp.zeros((), jnp.int32))

    return lax.cond(full, turn, lambda: Window(elements, window.suffixes, newest, window.position + 1)), total


def rolling(accs: Accumulator, *, length: int) -> Accumulator:
    """Accumulators of all windows of ``length`` consecutive elements.

    Args:
      accs: with a leading axis of T elements in time, blocks or rows
        (``jax.vmap(update, (None, 0, 0))(init(d), x[:, None], y[:, None])`` for rows).
      length: elements in a window.

    Returns:
      With a leading axis of ``T - length + 1``; ``jax.vmap(solve)`` of them are the rolling fits.

    >>> x, y = jnp.arange(6.0)[:, None], jnp.arange(6.0) ** 2
    >>> rows = jax.vmap(update, (None, 0, 0))(init(1), x[:, None], y[:, None])
    >>> jax.vmap(solve)(rolling(rows, length=2)).params.coefficients[:, 0].round(2).tolist()  # of the squares
    [1.0, 3.0, 5.0, 7.0, 9.0]
    """
    num_elements = accs.num_rows.shape[0]
    if not 1 <= length <= num_elements:
        raise InputError(f"length: got {length}, needs 1 to {num_elements}, the number of elements")
    start = init_window(jax.tree.map(lambda leaf: leaf[0], accs), length)
    _, totals = lax.scan(push, start, accs)
    return jax.tree.map(lambda leaf: leaf[length - 1 :], totals)


# Private -------------------------------------------------------------------------------------------------------------


class _Triangle(NamedTuple):
    """``[x - center, y]`` or ``[x, y]`` in as many rows as columns: data like any other, to the solver."""

    inputs: Array
    targets: Array
    rest: Array  # sum of squares that no x explains
    center: Array
    level: Array  # of the targets at the center


@functools.partial(jax.jit, static_argnames="intercept")
def _solve(acc: Accumulator, l2: Array, *, intercept: bool) -> Solution:
    d, outputs = acc.factor.shape[-1] - 1, acc.projected.shape[1:]
    triangle = _centered(acc) if intercept else _without_intercept(acc)
    filled = jnp.arange(d) < acc.num_rows - int(intercept)  # rows behind those are rounding
    penalty = jnp.broadcast_to(l2, (d,))
    problem = Problem(triangle.inputs, triangle.targets, filled.astype(l2.dtype), penalty=penalty)
    solved = least_squares.solve(Form(False, "qr"), problem)
    rank, factor, condition = solved.rank, solved.factor, solved.condition
    coefficients, start = solved.coefficients, jnp.zeros_like(triangle.level)
    if intercept:
        start = triangle.level - jnp.matmul(triangle.center, coefficients, precision=HIGHEST)
        present = acc.factor[0, 0] > 0
        alone = jnp.where(present, 1 / jnp.where(present, acc.factor[0, 0], 1), 0)
        penalty, factor = jnp.pad(penalty, (1, 0)), jnp.pad(factor, ((1, 0), (1, 0))).at[0, 0].set(alone)
        condition = jnp.sqrt((rank + 1) * (condition**2 / jnp.maximum(rank, 1) + 1))
        rank = rank + present
    dof = acc.num_rows - rank + jnp.sum(penalty[:, None] * factor**2)
    squares = solved.residual_sum_of_squares + triangle.rest
    stats = LinearStats(
        rank=rank.astype(jnp.int32),
        condition=condition,
        num_rows=acc.num_rows,
        total_weight=acc.factor[0, 0] ** 2,
        dof=dof,
        residual_sum_of_squares=squares.reshape(outputs),
        sigma2=jnp.where(dof > 0, squares / jnp.where(dof > 0, dof, 1), jnp.nan).reshape(outputs),
        covariance_factor=factor,
        center=triangle.center,
        penalty=penalty,
        error=None,
    )
    params = LinearParams(coefficients.reshape(d, *outputs), start.reshape(outputs))
    status = _status(acc, solved.finite > 0, penalty, rank)
    failed = (status == Status.nonfinite) | (status == Status.invalid_input)
    return Solution(jax.tree.map(lambda leaf: jnp.where(failed, jnp.nan, leaf), params), status, stats)


def _centered(acc: Accumulator) -> _Triangle:
    """The row of the ones has the means, and what is left is centred."""
    d, packed_rows = acc.factor.shape[-1] - 1, packed(acc)
    means = packed_rows[0, 1:] / jnp.where(acc.factor[0, 0] > 0, acc.factor[0, 0], 1)
    inputs = acc.factor[1:, 1:]
    # What rounding leaves of a constant column is not a column.
    lengths, before = qr.column_lengths(inputs), qr.column_lengths(acc.factor[:, 1:])
    constant = lengths <= qr.DEPENDENT * float(jnp.finfo(inputs.dtype).eps) * before
    rest = jnp.sum(packed_rows[d + 1 :, d + 1 :] ** 2, axis=0)
    return _Triangle(jnp.where(constant, 0, inputs), packed_rows[1 : d + 1, d + 1 :], rest, means[:d], means[d:])


def _without_intercept(acc: Accumulator) -> _Triangle:
    """From the columns of the triangle that has the ones."""
    d = acc.factor.shape[-1] - 1
    triangle = triangle_of(packed(acc)[:, 1:])
    zeros = jnp.zeros_like(triangle[0])
    return _Triangle(triangle[:d, :d], triangle[:d, d:], jnp.sum(triangle[d:, d:] ** 2, axis=0), zeros[:d], zeros[d:])


def _status(acc: Accumulator, finite: Array, penalty: Array, rank: Array) -> Array:
    size = penalty.size
    cases = {
        Status.invalid_input: ~acc.valid | ~(acc.num_rows > 0) | jnp.any(penalty < 0),
        Status.nonfinite: ~finite | ~jnp.all(jnp.isfinite(penalty)) | ~jnp.isfinite(acc.factor[0, 0]),
        Status.underdetermined: (rank < size) & (acc.num_rows < size),
        Status.rank_deficient: rank < size,
    }
    return jnp.select(list(cases.values()), [jnp.int32(status) for status in cases], jnp.int32(Status.ok))

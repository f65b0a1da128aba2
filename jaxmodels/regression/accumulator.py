"""A block of rows becomes a triangle, two triangles become one: the monoid that ``streaming`` fits from.

    [1 x y] = QR        R alone has the fit: X'X = R_x'R_x, X'y = R_x'R_y, residual sum of squares = |R_yy|^2
    update(acc, x, y)   the R of [R; block]             merge(a, b)   the R of [R_a; R_b]

``merge`` is associative to rounding with ``init`` as its unit, and orthogonal throughout: the condition number is never
squared.

Sources: Golub and Van Loan, Matrix Computations, 6.5; Demmel, Grigori, Hoemmen, Langou, Communication-optimal parallel
and sequential QR and LU factorizations (2012).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxmodels.core import InputError, check_count


class Accumulator(NamedTuple):
    """All that least squares needs of the rows so far; its size does not depend on their number."""

    factor: Float[Array, "d+1 d+1"]
    """R of ``sqrt(w) [1, x]``: upper triangular with a diagonal of at least 0."""
    projected: Float[Array, "d+1 *k"]
    """``Q'sqrt(w) y``."""
    residual_factor: Float[Array, "*k *k"]
    """R of what is left of y: its squared columns sum to the residual sums of squares."""
    num_rows: Float[Array, ""]
    """Rows with weight above 0."""
    log_weights: Float[Array, ""]
    """Sum of the logarithms of the weights: what the likelihood needs."""
    valid: Bool[Array, ""]
    """False once a weight was negative or NaN."""


def init(num_columns: int, num_targets: int | None = None, *, dtype: Any = None) -> Accumulator:
    """No rows yet.

    Args:
      num_columns: of x. A column of ones is kept besides; ``solve`` says whether it is used.
      num_targets: columns of y ``[n, k]``; ``None`` for y ``[n]``.
      dtype: of the work; default float as jax has it.

    >>> init(3).factor.shape, init(3, 2).projected.shape
    ((4, 4), (4, 2))
    """
    check_count("num_columns", num_columns)
    if num_targets is not None:
        check_count("num_targets", num_targets)
    dtype = jnp.asarray(np.empty(0, float if dtype is None else dtype)).dtype  # float64 is float32 without x64
    if dtype not in (jnp.float32, jnp.float64):
        raise InputError(f"dtype: got {dtype}, needs float32 or float64")
    p, outputs = num_columns + 1, () if num_targets is None else (num_targets,)
    zeros = functools.partial(jnp.zeros, dtype=dtype)  # each its own buffer, for they are donated
    return Accumulator(
        zeros((p, p)), zeros((p, *outputs)), zeros(2 * outputs), zeros(()), zeros(()), jnp.ones((), bool)
    )


def update(
    acc: Accumulator,
    x: Float[Array, "n d"],
    y: Float[Array, "n *k"],
    *,
    weights: Float[Array, " n"] | None = None,
    mask: Bool[Array, " n"] | None = None,
) -> Accumulator:
    """Add a block of rows.

    Jit it with ``donate_argnums=0`` over blocks of one shape, the last filled up with rows of weight 0 (``accumulate``
    does that): one compilation, constant memory.

    Args:
      acc: the rows before.
      x, y: the block. For an offset pass ``y - offset``.
      weights: at least 0; a row of weight 0 or mask False adds nothing, whatever it holds.

    Raises:
      InputError: the block has other columns than ``init`` was told.

    >>> acc = update(init(1), jnp.array([[2.0], [2.0], [1.0]]), jnp.array([1.0, 3.0, 5.0]))
    >>> (acc.factor.T @ acc.factor).round().tolist()             # the moments of [1, x]
    [[3.0, 5.0], [5.0, 9.0]]
    """
    x, y = jnp.asarray(x, acc.factor.dtype), jnp.asarray(y, acc.factor.dtype)
    _check_block(acc, x, y)
    weights = jnp.ones(x.shape[0], x.dtype) if weights is None else jnp.asarray(weights, x.dtype)
    if mask is not None:
        weights = jnp.where(jnp.asarray(mask, bool), weights, 0)
    counts = weights > 0
    positive = jnp.where(counts, weights, 1)
    rows = jnp.concatenate([jnp.ones_like(x[:, :1]), x, y.reshape(x.shape[0], -1)], axis=1)
    rows = jnp.where(counts[:, None], jnp.sqrt(positive)[:, None] * rows, 0)
    return _unpack(
        triangle_of(jnp.concatenate([packed(acc), rows])),
        acc,
        acc.num_rows + jnp.sum(counts),
        acc.log_weights + jnp.sum(jnp.log(positive)),
        acc.valid & jnp.all(weights >= 0),
    )


def merge(a: Accumulator, b: Accumulator) -> Accumulator:
    """The rows of both: associative up to rounding, so that blocks may come from many machines, in any order.

    Raises:
      InputError: the two are of different columns.
    """
    if jax.tree.map(jnp.shape, a) != jax.tree.map(jnp.shape, b):
        raise InputError(
            f"b: {b.projected.shape} (columns + 1, targets) cannot join a: {a.projected.shape}; init them alike"
        )
    both = triangle_of(jnp.concatenate([packed(a), packed(b)]))
    return _unpack(both, a, a.num_rows + b.num_rows, a.log_weights + b.log_weights, a.valid & b.valid)


def accumulate(acc: Accumulator, blocks: Iterable, *, num_rows: int | None = None) -> Accumulator:
    """Add blocks from an iterable on the host, each filled up to one shape, with a single compiled ``update``.

    Args:
      acc: the rows before; its buffers are reused, so do not use it again.
      blocks: of ``(x, y)`` or ``(x, y, weights)``, arrays of at most ``num_rows`` rows (a ``Batch`` is one).
      num_rows: of the filled-up blocks; those of the first by default.

    >>> blocks = [([[0.0], [1.0]], [1.0, 3.0]), ([[2.0]], [5.0])]
    >>> int(accumulate(init(1), blocks).num_rows)
    3
    """
    for block in blocks:
        x, y, weights = (*block, None)[:3]
        x, y = np.asarray(x), np.asarray(y)
        num_rows = len(x) if num_rows is None else num_rows
        padding = num_rows - len(x)
        if padding < 0:
            raise InputError(f"blocks: one has {len(x)} rows, more than {num_rows}; pass num_rows of the largest")
        weights = np.ones(len(x), acc.factor.dtype) if weights is None else np.asarray(weights)
        x, y, weights = (np.pad(part, [(0, padding)] + [(0, 0)] * (part.ndim - 1)) for part in (x, y, weights))
        acc = _donating_update(acc, *(part.astype(acc.factor.dtype) for part in (x, y, weights)))
    return acc


@functools.partial(jax.jit, donate_argnums=0)
def _donating_update(acc, x, y, weights):
    return update(acc, x, y, weights=weights)


# What ``streaming`` reads ---------------------------------------------------------------------------------------------


def packed(acc: Accumulator) -> Array:
    """``[[factor, projected], [0, residual_factor]]``."""
    p = acc.factor.shape[-1]
    projected = acc.projected.reshape(p, -1)
    k = projected.shape[1]
    upper = jnp.concatenate([acc.factor, projected], axis=1)
    lower = jnp.concatenate([jnp.zeros((k, p), upper.dtype), acc.residual_factor.reshape(k, k)], axis=1)
    return jnp.concatenate([upper, lower])


def triangle_of(rows: Array) -> Array:
    """R of ``rows``, square, its diagonal made at least 0."""
    triangle = jnp.linalg.qr(rows, mode="r")
    return jnp.where(jnp.diagonal(triangle) < 0, -1, 1)[:, None] * triangle


# Private -------------------------------------------------------------------------------------------------------------


def _unpack(packed: Array, like: Accumulator, num_rows: Array, log_weights: Array, valid: Array) -> Accumulator:
    p = like.factor.shape[-1]
    return Accumulator(
        packed[:p, :p],
        packed[:p, p:].reshape(like.projected.shape),
        packed[p:, p:].reshape(like.residual_factor.shape),
        num_rows.astype(like.num_rows.dtype),
        log_weights,
        valid,
    )


def _check_block(acc: Accumulator, x: Array, y: Array) -> None:
    num_columns, outputs = acc.factor.shape[-1] - 1, acc.projected.shape[1:]
    if x.ndim != 2 or x.shape[1] != num_columns:
        raise InputError(
            f"x: got shape {x.shape}, but the accumulator has {num_columns} columns; pass [n, {num_columns}]"
        )
    if y.shape != (x.shape[0], *outputs):
        raise InputError(f"y: got shape {y.shape} for x of shape {x.shape}, needs {(x.shape[0], *outputs)}")

"""Products and factors of matrices, one or many: ``[d, d]`` or ``[d, d, lanes]``.

Those of few columns are worked on by entries, each of them a vector where there are lanes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

# Up to this size a loop over entries, each of them a vector of lanes under vmap, beats a LAPACK call a lane.
SMALL = 6


def product(a: Float[Array, "k d *lanes"], b: Float[Array, "d *m *lanes"]) -> Float[Array, "k *m *lanes"]:
    """``a b``, b a vector or a matrix; of a small a by entries, so that a lane's arithmetic is that of any other."""
    vector = b.ndim < a.ndim
    if max(a.shape[:2]) > SMALL:
        equation = "kd...,d...->k..." if vector else "kd...,dm...->km..."
        return jnp.einsum(equation, a, b, precision=lax.Precision.HIGHEST)
    terms = [a[:, k] * b[k] if vector else a[:, k, None] * b[k] for k in range(len(b))]
    return functools.reduce(jnp.add, terms)


def diagonal(matrix: Float[Array, "d d *lanes"]) -> Float[Array, "d *lanes"]:
    if len(matrix) <= SMALL:
        return jnp.stack([matrix[i, i] for i in range(len(matrix))])
    return jnp.moveaxis(jnp.diagonal(matrix), -1, 0)


def transposed(matrix: Float[Array, "k d *lanes"]) -> Float[Array, "d k *lanes"]:
    return matrix.swapaxes(0, 1)


def on_diagonal(matrix: Float[Array, "d d *lanes"]) -> Bool[Array, "d d *ones"]:
    """Which entries are, of the shape of a lane."""
    return jnp.eye(len(matrix), dtype=bool).reshape(*matrix.shape[:2], *[1] * (matrix.ndim - 2))


def cholesky(
    gram: Float[Array, "d d *lanes"], num_rows: int, dtype: Any = None
) -> tuple[Float[Array, "d d *lanes"], Float[Array, "d d *lanes"], Float[Array, "*lanes"]]:
    """R, its inverse and the condition of unit columns. Pivots that rounding, in ``dtype``, could have made are lifted.

    ``num_rows`` is how many were added up; 1 lifts the least, for those who ask more of the condition in any case.
    """
    num_columns = len(gram)
    squares = diagonal(gram)
    length = jnp.sqrt(squares)
    scale = jnp.where(squares > 0, 1 / jnp.where(squares > 0, length, 1), 0)
    # A column of zeros stands in as a unit vector, and its row of R comes out zero.
    unit = gram * scale[:, None] * scale
    unit = jnp.where(on_diagonal(gram) & (squares == 0), 1, unit)
    factor = _small_cholesky if num_columns <= SMALL else one_by_one(_large_cholesky)
    upper, inverse, condition = factor(unit, gram_error(dtype or gram.dtype, num_rows, num_columns))
    return upper * length, inverse * scale[:, None], condition


def gram_error(dtype, num_rows: int, num_columns: int) -> float:
    """What rounding leaves uncertain in the Gram matrix of unit columns, and so in a squared pivot."""
    return float(jnp.finfo(dtype).eps) * (4 * num_columns + num_rows**0.5)


def _small_cholesky(gram: Array, lift: float) -> tuple[Array, Array, Array]:
    upper, inverse, squares = cholesky_entries(gram, lift)
    return _from_entries(upper), _from_entries(inverse), jnp.sqrt(squares[0] * squares[1])


def cholesky_entries(gram: Array, lift: float) -> tuple[list[list[Array]], list[list[Array]], tuple[Array, ...]]:
    """R and its inverse as entries, of a Gram matrix ``[d, d, ...]``, and the sums of their squares."""
    size = len(gram)
    upper, reciprocals = [[jnp.zeros((), gram.dtype)] * size for _ in range(size)], []
    for i in range(size):
        for j in range(i, size):
            rest = gram[i, j] - sum(upper[k][i] * upper[k][j] for k in range(i))
            if j == i:
                rest = jnp.maximum(rest, lift)
                reciprocals.append(lax.rsqrt(rest))
            upper[i][j] = rest * reciprocals[i]
    inverse = _inverse_entries(upper, reciprocals)
    places = [(i, j) for i in range(size) for j in range(i, size)]
    zero = jnp.zeros_like(gram[0, 0])
    return upper, inverse, tuple(sum((factor[i][j] ** 2 for i, j in places), zero) for factor in (upper, inverse))


def _inverse_entries(upper: list[list[Array]], reciprocals: list[Array]) -> list[list[Array]]:
    size = len(upper)
    inverse = [[jnp.zeros_like(reciprocals[0])] * size for _ in range(size)]
    for j in range(size):
        inverse[j][j] = reciprocals[j]
        for i in reversed(range(j)):
            inverse[i][j] = -reciprocals[i] * sum(upper[i][k] * inverse[k][j] for k in range(i + 1, j + 1))
    return inverse


def _large_cholesky(gram: Array, lift: float) -> tuple[Array, Array, Array]:
    identity = jnp.eye(len(gram), dtype=gram.dtype)

    def factor(shift):
        return lax.linalg.cholesky(gram + shift * identity).mT

    plain = factor(0)
    # NaN, LAPACK's word for a failure, compares false.
    sound = jnp.all(jnp.diagonal(plain) ** 2 >= lift)
    lifted = jnp.where(sound, plain, factor(lift))
    upper = jnp.where(jnp.all(jnp.isfinite(lifted)), lifted, identity)
    inverse = triangular_inverse(upper)
    return upper, inverse, jnp.linalg.norm(upper) * jnp.linalg.norm(inverse)


def triangular_inverse(upper: Float[Array, "d d *lanes"]) -> Float[Array, "d d *lanes"]:
    """``R^-1`` of an upper triangular matrix without zeros on its diagonal.

    >>> triangular_inverse(jnp.array([[2.0, 1.0], [0.0, 4.0]])).tolist()
    [[0.5, -0.125], [0.0, 0.25]]
    """
    size = len(upper)
    if size > SMALL:
        return one_by_one(_large_inverse)(upper)
    entries = [[upper[i, j] for j in range(size)] for i in range(size)]
    return _from_entries(_inverse_entries(entries, [1 / upper[i, i] for i in range(size)]))


def _large_inverse(upper: Array) -> Array:
    identity = jnp.eye(len(upper), dtype=upper.dtype)
    return jnp.triu(lax.linalg.triangular_solve(upper, identity, left_side=True))


def _from_entries(entries: list[list[Array]]) -> Array:
    """The upper triangle. Rows are put together by selection, which a compiler does along with the entries."""
    size, lanes = len(entries), entries[0][0].shape
    columns = np.arange(size).reshape(-1, *[1] * len(lanes))
    rows = []
    for i in range(size):
        row = jnp.zeros((size, *lanes), entries[i][i].dtype)
        for j in range(i, size):
            row = jnp.where(columns == j, entries[i][j], row)
        rows.append(row)
    return jnp.stack(rows)


def one_by_one(function: Callable) -> Callable:
    """``function`` of a matrix, and of each matrix where there is an axis of lanes at the end."""

    def of_lanes(matrix, *args):
        if matrix.ndim == 2:
            return function(matrix, *args)
        return jax.vmap(lambda lane: function(lane, *args), -1, -1)(matrix)

    return of_lanes

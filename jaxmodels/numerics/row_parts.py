"""Sums over the rows of large matrices, part by part, so that what is made of the rows stays in the cache.

    sum_i w_i (x_i - center)^power,   and whatever else adds up over rows

To write a centred or weighted copy of a large x costs several times the sums, and takes its memory once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.numerics.problem import matmul

PyTree = Any

# How many parts, whatever the size, so that an accelerator is not given crumbs; of small matrices one.
PARTS, SMALLEST = 32, 1 << 16
# Columns of a Gram matrix at a time: XLA multiplies what symmetry would spare.
BLOCK = 256


def over_parts(function: Callable[..., tuple[PyTree, PyTree]], *arrays: Float[Array, "n *d"]) -> tuple[PyTree, PyTree]:
    """``function(*arrays)``: sums over rows, and arrays with a row for each. The first of ``arrays`` decides how many
    parts there are.

    Of rows that may be spread over devices there is one: each device has its share of it, and sums travel once.
    """
    num_rows, (sums, _) = len(arrays[0]), jax.eval_shape(function, *arrays)
    # A sum that is larger than its parts would be read and written more than they are.
    largest_sum = max(each.size for each in jax.tree.leaves(sums))
    parts = min(PARTS, num_rows, arrays[0].size // max(SMALLEST, largest_sum))
    if parts < 2 or jax.device_count() > 1:
        return function(*arrays)
    size = num_rows // parts
    whole = parts * size

    def add(total, index):
        run = (lax.dynamic_slice_in_dim(each, index * size, size) for each in arrays)
        sums, rows = function(*run)
        return jax.tree.map(jnp.add, total, sums), rows

    sums, rows = lax.scan(add, jax.tree.map(lambda each: jnp.zeros(each.shape, each.dtype), sums), jnp.arange(parts))
    rows = jax.tree.map(lambda each: each.reshape(whole, *each.shape[2:]), rows)
    if whole == num_rows:
        return sums, rows
    last_sums, last_rows = function(*(each[whole:] for each in arrays))
    return jax.tree.map(jnp.add, sums, last_sums), jax.tree.map(lambda *each: jnp.concatenate(each), rows, last_rows)


def sum_of_parts(function: Callable[..., PyTree], *arrays: Float[Array, "n *d"]) -> PyTree:
    """``function(*arrays)``, sums over rows."""
    return over_parts(lambda *run: (function(*run), ()), *arrays)[0]


def column_sums(
    x: Float[Array, "n d"], center: Float[Array, " d"], weights: Float[Array, "n k"], power: int = 1
) -> Float[Array, "d k"]:
    """``sum_i w_i (x_i - center)^power`` for each of k sets of weights: sums of x as it came would lose the digits of
    columns far from 0.

    >>> x = jnp.array([[1.0, 1e6], [2.0, 1e6 + 1]])
    >>> column_sums(x, x[0], jnp.full((2, 1), 0.5)).tolist()
    [[0.5], [0.5]]
    """
    return sum_of_parts(lambda rows, weights: matmul(weights.T, (rows - center) ** power), x, weights).T


def centered_gram(
    x: Float[Array, "n d"], center: Float[Array, " d"], weights: Float[Array, " n"]
) -> Float[Array, "d d"]:
    """``sum_i w_i (x_i - center) (x_i - center)'``."""
    return sum_of_parts(lambda rows, weights: gram(rows - center, weights), x, weights)


def gram(design: Float[Array, "n m"], weights: Float[Array, " n"]) -> Float[Array, "m m"]:
    """``Z'WZ`` by blocks of its upper triangle."""
    num_columns = design.shape[1]
    found = jnp.zeros((num_columns, num_columns), design.dtype)
    for start in range(0, num_columns, BLOCK):
        stop = min(start + BLOCK, num_columns)
        block = matmul((weights[:, None] * design[:, start:stop]).T, design[:, start:])
        found = found.at[start:stop, start:].set(block)
        found = found.at[stop:, start:stop].set(block[:, stop - start :].T)
    return found

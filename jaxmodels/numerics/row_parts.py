"""Sums over the rows of large matrices, part by part, so that what is made of the rows stays in the cache.

    sum_i w_i (x_i - center)^power,   and whatever else adds up over rows

To write a centred or weighted copy of a large x costs several times the sums, and takes its memory once more.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.numerics.problem import matmul

# How many parts, whatever the size, so that an accelerator is not given crumbs; of small matrices one.
PARTS, SMALLEST = 32, 1 << 16
# Columns of a Gram matrix at a time: XLA multiplies what symmetry would spare.
BLOCK = 256


def sum_of_parts(function: Callable[..., Array], *arrays: Float[Array, "n *d"]) -> Array:
    """``function(*arrays)``, a sum over rows; the first array is the largest.

    A part is a run of rows. Of rows that may be spread over devices it is every ``PARTS``-th row, which takes longer to
    read, so that each device has its share of every part.
    """
    num_rows, shape = len(arrays[0]), jax.eval_shape(function, *arrays)
    # A sum that is larger than its parts would be read and written more than they are.
    parts = min(PARTS, num_rows, max(1, arrays[0].size // max(SMALLEST, shape.size)))
    if parts == 1:
        return function(*arrays)
    size = num_rows // parts
    whole, spread = parts * size, jax.device_count() > 1

    def part(index, each):
        if not spread:
            return lax.dynamic_slice_in_dim(each, index * size, size)
        # Cut and reshaped here, so that it is read where it lies: before the loop it would be a copy.
        return lax.dynamic_index_in_dim(each[:whole].reshape(-1, parts, *each.shape[1:]), index, 1, keepdims=False)

    def add(index, total):
        return total + function(*(part(index, each) for each in arrays))

    total = lax.fori_loop(0, parts, add, jnp.zeros(shape.shape, shape.dtype))
    return total if whole == num_rows else total + function(*(each[whole:] for each in arrays))


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

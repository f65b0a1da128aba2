"""Embeddings of categorical columns: ``outputs = [numbers, E_1[code_1], E_2[code_2], ...]``.

A category is a row of a table that is trained with the network behind it, so that similar categories come to lie
near each other.

Source: Guo and Berkhahn (2016), Entity embeddings of categorical variables.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxmodels.core import InputError, Model, cached_factory


@cached_factory
def embeddings(counts: tuple[int, ...], *, sizes: tuple[int, ...] | None = None) -> Model:
    """Numbers and codes to one matrix, to stand before a perceptron: ``chain(embeddings((7, 12)), mlp.model(...))``.

    Its inputs are a pair: numbers ``[n, d]`` (``d`` may be 0) and integer codes ``[n, len(counts)]``. A code outside
    ``0 ... count - 1`` is unknown: it has a row of its own, zero at first and so unless training meets it.

    Args:
      counts: categories of each column.
      sizes: numbers that stand for a category of each column; default: half its count, rounded up, 50 at most.

    Returns:
      A ``Model`` from such a pair to ``[n, d + sum(sizes)]``; ``params`` is a tuple of tables ``[count + 1, size]``.

    >>> model = embeddings((3,), sizes=(2,))
    >>> inputs = (jnp.zeros((2, 1)), jnp.array([[1], [-1]]))
    >>> params, state = model.init(jax.random.key(0), inputs)
    >>> outputs, _ = model.apply(params, state, inputs)
    >>> bool((outputs[0, 1:] == params[0][1]).all()), outputs[1].tolist()
    (True, [0.0, 0.0, 0.0])
    """
    widths = tuple(min(50, -(-count // 2)) for count in counts) if sizes is None else sizes
    if len(widths) != len(counts) or min((*counts, *widths), default=0) < 1:
        raise InputError(f"sizes: needs one of at least 1 a column, got {widths} for counts {counts}")

    def init(key, inputs):
        numbers, codes = inputs
        if codes.shape[1:] != (len(counts),) or not jnp.issubdtype(codes.dtype, jnp.integer):
            raise InputError(f"inputs: codes must be integers [n, {len(counts)}], got {codes.dtype} {codes.shape}")
        keys = jax.random.split(key, len(counts))
        return tuple(
            jnp.zeros((count + 1, width), numbers.dtype)
            .at[:count]
            .set(jax.random.normal(column, (count, width), numbers.dtype))
            for column, count, width in zip(keys, counts, widths, strict=True)
        ), {}

    def apply(params, state, inputs, *, train=False, key=None, weights=None):
        numbers, codes = inputs
        known = (codes >= 0) & (codes < jnp.array(counts))
        rows = jnp.where(known, codes, jnp.array(counts))
        return jnp.concatenate([numbers, *(table[rows[:, i]] for i, table in enumerate(params))], axis=1), state

    return Model(init, apply)

"""What a metric is, and sums that do not lose counts.

A metric is a tuple of pure functions over a small accumulator of static shape:

    acc = metric.init()
    acc = metric.update(acc, outputs, batch)    # jit, vmap and scan it; merge adds two of them
    value = metric.compute(acc)

A float32 stops counting at 2^24. Every sum here is therefore an unevaluated pair ``high + low`` in the default
float dtype (48 bits in float32, 106 under x64), kept by Knuth's TwoSum: exact for counts up to 2^48.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxmodels.core import Batch, InputError, PyTree, cached_factory


class Metric(NamedTuple):
    """Four pure functions; the accumulator is a pytree of arrays whose shapes never change."""

    init: Callable[[], PyTree]
    """``() -> acc``, of nothing seen."""
    update: Callable[[PyTree, PyTree, Batch], PyTree]
    """``(acc, outputs, batch) -> acc``; rows of weight 0 change nothing, whatever they hold."""
    merge: Callable[[PyTree, PyTree], PyTree]
    """``(acc, acc) -> acc`` of the two together (over devices, hosts or shards of the data)."""
    compute: Callable[[PyTree], Any]
    """``acc -> value``: a number, an array or a NamedTuple of arrays."""


class Sum(NamedTuple):
    """A sum kept as ``high + low``, elementwise."""

    high: Array
    low: Array

    @property
    def value(self) -> Array:
        """The sum rounded once."""
        return self.high + self.low


def zero(shape: tuple[int, ...] = ()) -> Sum:
    """The empty sum, in the default float dtype."""
    return Sum(jnp.zeros(shape, float), jnp.zeros(shape, float))


def add(a: Sum, b: Sum) -> Sum:
    """``a + b`` to about twice the precision of the dtype (Knuth's TwoSum, then Dekker's FastTwoSum).

    >>> one = Sum(jnp.float32(1), jnp.float32(0))
    >>> many = add(Sum(jnp.float32(2**24), jnp.float32(0)), one)    # float32 alone stays at 16777216
    >>> int(many.high) + int(many.low)
    16777217
    """
    total = a.high + b.high
    of_b = total - a.high
    error = (a.high - (total - of_b)) + (b.high - of_b) + (a.low + b.low)
    # inf - inf is NaN, and an infinite sum is infinite.
    error = jnp.where(jnp.isfinite(total), error, 0)
    high = total + error
    return Sum(high, jnp.where(jnp.isfinite(high), error - (high - total), 0))


def total(values: Float[Array, "n ..."]) -> Sum:
    """The sum over the first axis, as a pair.

    >>> total(jnp.ones(1000)).value.item()
    1000.0
    """
    values = jnp.asarray(values, jnp.result_type(float))
    nothing = jnp.zeros((), values.dtype)

    def add_pairs(a, b):
        return tuple(add(Sum(*a), Sum(*b)))

    return Sum(*jax.lax.reduce((values, jnp.zeros_like(values)), (nothing, nothing), add_pairs, (0,)))


class Mean(NamedTuple):
    """A weighted sum and the weight in it."""

    total: Sum
    weight: Sum

    @property
    def value(self) -> Array:
        """``total / weight``; NaN where nothing was seen."""
        return self.total.value / self.weight.value


class Moments(NamedTuple):
    """Weight, mean and sum of squared deviations; merged without cancellation (Chan, Golub and LeVeque 1979)."""

    weight: Sum
    mean: Sum
    squares: Sum


def no_moments(shape: tuple[int, ...]) -> Moments:
    """Moments of nothing."""
    return Moments(zero(), zero(shape), zero(shape))


def moments(values: Float[Array, "n d"], weights: Float[Array, " n"]) -> Moments:
    """Weighted moments of each column; columns of one value have exactly no spread."""
    first = values[jnp.argmax(weights != 0)] if values.shape[0] else jnp.zeros(values.shape[1:], values.dtype)
    column = weights[:, None]
    # Deviations from a value of the column itself: a constant column then sums to exactly 0.
    shifted = jnp.where(column != 0, values - first, 0)
    weight = total(weights)
    share = jnp.where(weight.value == 0, 1, weight.value)
    center = total(column * shifted).value / share
    squares = total(column * jnp.where(column != 0, shifted - center, 0) ** 2)
    mean = add(Sum(first, jnp.zeros_like(first)), Sum(center, jnp.zeros_like(center)))
    seen = weight.value != 0
    return Moments(weight, Sum(*(jnp.where(seen, part, 0) for part in mean)), squares)


def merge_moments(a: Moments, b: Moments) -> Moments:
    """The moments of both together."""
    weight = add(a.weight, b.weight)
    share = b.weight.value / jnp.where(weight.value == 0, 1, weight.value)
    delta = (b.mean.high - a.mean.high) + (b.mean.low - a.mean.low)
    nothing = jnp.zeros_like(delta)
    return Moments(
        weight,
        add(a.mean, Sum(delta * share, nothing)),
        add(add(a.squares, b.squares), Sum(delta**2 * share * a.weight.value, nothing)),
    )


def merge_sums(a: PyTree, b: PyTree) -> PyTree:
    """Add two accumulators made of ``Sum`` alone."""
    return jax.tree.map(add, a, b, is_leaf=lambda node: isinstance(node, Sum))


@cached_factory
def mean(loss: Callable[[PyTree, PyTree], Float[Array, " n"]]) -> Metric:
    """The weighted mean of any loss or score that has a value an example.

    Args:
      loss: ``(outputs, targets) -> [n]`` or ``[n, ...]``, then averaged over the other axes too.

    Returns:
      A metric whose value is a number: ``sum(weights * loss) / sum(weights)``; NaN where nothing was seen.

    >>> absolute = mean(lambda outputs, targets: abs(outputs - targets))
    >>> compute(absolute, jnp.array([1.0, 2.0, 9.0]), jnp.zeros(3), weights=jnp.array([1, 1, 0])).item()
    1.5
    """

    def update(acc, outputs, batch):
        values = at_least_float32(loss(outputs, batch.targets))
        values = values.reshape(values.shape[0], -1).mean(axis=1)
        weights = row_weights(batch.weights, values.shape[0])
        seen = jnp.where(weights != 0, weights * values, 0)
        return merge_sums(acc, Mean(total(seen), total(weights)))

    return Metric(lambda: Mean(zero(), zero()), update, merge_sums, lambda acc: acc.value)


@functools.partial(jax.jit, static_argnums=0)
def compute(metric: Metric, outputs: PyTree, targets: PyTree, *, weights: Num[Array, " n"] | None = None) -> Any:
    """A metric's value on whole arrays: ``init``, one ``update``, ``compute``.

    >>> from jaxmodels import metrics
    >>> compute(metrics.accuracy(), jnp.array([[2.0, 1.0], [0.0, 3.0]]), jnp.array([0, 0])).item()
    0.5
    """
    batch = Batch(inputs=None, targets=targets, weights=weights)
    return metric.compute(metric.update(metric.init(), outputs, batch))


def row_weights(weights: Num[Array, " n"] | None, count: int) -> Float[Array, " n"]:
    """Weights as floats, ones where there are none."""
    if weights is None:
        return jnp.ones(count, float)
    if jnp.shape(weights) != (count,):
        raise InputError(f"weights must have shape ({count},), one a row, but has {jnp.shape(weights)}")
    return jnp.asarray(weights, jnp.result_type(float))


def at_least_float32(values: Num[Array, "..."]) -> Float[Array, "..."]:
    """bfloat16, float16 and integers as float32 (or wider); float32 and float64 as they are."""
    values = jnp.asarray(values)
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))

"""Encodings of categories: one column a category, a rank, or the mean of the target.

Categories come as codes ``[n, d]``, ``0 ... sizes[j] - 1`` in column j; any other code (-1, say) is unknown or missing.
``vocabulary`` and ``codes`` make them from strings, on the host; ``ordinal`` from numbers, on the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

from jaxmodels.core import InputError, cached_factory
from jaxmodels.preprocess.tabular import Preprocessor


def vocabulary(values: Sequence[str | None], *, max_categories: int | None = None) -> tuple[str, ...]:
    """The categories of a column in alphabetical order; missing values are none.

    Args:
      max_categories: keep only so many, the most frequent (of equals the alphabetically first); the rest are unknown.

    >>> vocabulary(["b", "a", None, "b", "c"], max_categories=2)
    ('a', 'b')
    """
    return tuple(sorted(most_frequent(values, max_categories)))


def most_frequent(values: Sequence[str | None], limit: int | None = None) -> dict[str, int]:
    """At most ``limit`` categories and their counts, the most frequent first, of equals the alphabetically first.

    >>> most_frequent(["b", "a", None, "b", "c"], 2)
    {'b': 2, 'a': 1}
    """
    counts = Counter(value for value in values if value is not None)
    ranked = sorted(counts, key=lambda value: (-counts[value], value))
    return {value: counts[value] for value in ranked[:limit]}


def codes(values: Sequence[str | None], categories: Sequence[str]) -> Int[np.ndarray, " n"]:
    """The place of each value among ``categories``, -1 for an unknown or missing one.

    >>> codes(["b", None, "x"], ("a", "b")).tolist()
    [1, -1, -1]
    """
    places = {category: place for place, category in enumerate(categories)}
    return np.array([-1 if value is None else places.get(value, -1) for value in values], np.int32)


@cached_factory
def ordinal(*, max_categories: int) -> Preprocessor:
    """Numbers to the ranks of the distinct values seen by ``fit``; a value not seen, or NaN, becomes -1.

    Args:
      max_categories: distinct values in a column at most; what is above the so many smallest is unknown.

    >>> ranks = ordinal(max_categories=4)
    >>> ranks.apply(ranks.fit(jnp.array([[30.0], [10.0], [30.0]])), jnp.array([[10.0], [30.0], [20.0]]))[:, 0].tolist()
    [0.0, 1.0, -1.0]
    """

    def distinct(column):
        return jnp.unique(column, size=max_categories, fill_value=jnp.inf)

    def fit(x, mask=None):
        x = jnp.asarray(x)
        hidden = jnp.isnan(x) if mask is None else jnp.isnan(x) | ~mask[:, None]
        return jax.vmap(distinct, in_axes=1)(jnp.where(hidden, jnp.inf, x))

    def apply(values, x):
        ranks = jax.vmap(jnp.searchsorted, in_axes=(0, 1), out_axes=1)(values, x)
        found = jnp.take_along_axis(values.T, jnp.minimum(ranks, max_categories - 1), axis=0)
        return jnp.where((found == x) & jnp.isfinite(x), ranks, -1).astype(x.dtype)

    def invert(values, y):
        found = jnp.take_along_axis(values.T, jnp.maximum(y, 0).astype(jnp.int32), axis=0)
        return jnp.where(y < 0, jnp.nan, found)

    return Preprocessor(fit, apply, invert)


@cached_factory
def one_hot(sizes: tuple[int, ...], *, drop_first: bool = False) -> Preprocessor:
    """A column of 0 and 1 for each category, ``[n, sum(sizes)]``; an unknown code is all zeros.

    Args:
      sizes: the number of categories of each column.
      drop_first: leave the first category of each column out, beside an intercept its column says nothing new.

    >>> encoder = one_hot((2, 3))
    >>> encoder.apply(encoder.fit(None), jnp.array([[1, 0], [-1, 2]])).tolist()
    [[0.0, 1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]]
    """
    first = int(drop_first)

    def apply(stats, x):
        _check_width(x, sizes)
        columns = [x[:, [j]] == jnp.arange(first, size) for j, size in enumerate(sizes)]
        return jnp.concatenate([*columns, jnp.zeros((x.shape[0], 0), bool)], axis=1).astype(jnp.float32)

    def invert(stats, y):
        starts = np.cumsum([0, *(size - first for size in sizes)])
        parts = [y[:, start:end] for start, end in zip(starts[:-1], starts[1:], strict=True)]
        missing = 0 if drop_first else -1
        found = [jnp.where(part.any(axis=1), part.argmax(axis=1) + first, missing) for part in parts]
        return jnp.stack(found, axis=1)

    return Preprocessor(lambda x, mask=None: (), apply, invert)


class TargetEncoder(NamedTuple):
    """Pure functions of codes ``[n, d]`` and a target ``[n]``."""

    fit: Callable[..., tuple[Array, Array]]
    """``(x, y, mask=None) -> stats``: the encoding of each category, and the mean of the target."""
    apply: Callable[[tuple[Array, Array], Array], Array]
    """``(stats, x) -> [n, d]``; an unknown code becomes the mean of the target."""
    cross_fit: Callable[..., Array]
    """``(x, y, folds [n], num_folds, mask=None) -> [n, d]``: each row by the stats of the other folds, for the training
    rows, whose own target would else leak into their encoding."""


@cached_factory
def target(sizes: tuple[int, ...], *, smooth: float | None = None) -> TargetEncoder:
    """The mean of the target in each category, shrunk towards the overall mean.

        encoding = (sum_i y_i + m mean) / (count + m)

    Args:
      sizes: the number of categories of each column.
      smooth: ``m``. Default: each category's variance over that of the target (empirical Bayes).

    >>> encoder = target((2,), smooth=0.0)
    >>> x, y = jnp.array([[0], [0], [1]]), jnp.array([1.0, 3.0, 7.0])
    >>> encoder.apply(encoder.fit(x, y), jnp.array([[0], [1], [-1]]))[:, 0].round(4).tolist()
    [2.0, 7.0, 3.6666998863220215]

    Source: Micci-Barreca (2001), A preprocessing scheme for high-cardinality categorical attributes.
    """
    largest = max(sizes, default=1)

    def fit(x, y, mask=None):
        _check_width(x, sizes)
        used = jnp.ones(y.shape, y.dtype) if mask is None else mask.astype(y.dtype)
        y = jnp.where(used > 0, y, 0)
        mean = jnp.sum(used * y) / jnp.sum(used)
        variance = jnp.sum(used * (y - mean) ** 2) / jnp.sum(used)

        def of_column(column):
            # A code out of range is counted in a place of its own, and forgotten.
            place = jnp.where((column >= 0) & (column < largest), column, largest)

            def sums(values):
                return jnp.zeros(largest + 1, y.dtype).at[place].add(values)[:largest]

            count, safe = sums(used), jnp.maximum(sums(used), 1)
            own = sums(used * y) / safe
            centred = y - jnp.append(own, 0)[place]
            within = sums(used * centred**2) / safe
            pull = (
                jnp.where(variance > 0, within / jnp.where(variance > 0, variance, 1), 0) if smooth is None else smooth
            )
            total = count + pull
            return jnp.where((count > 0) & (total > 0), (count * own + pull * mean) / jnp.maximum(total, 1e-30), mean)

        return jax.vmap(of_column, in_axes=1)(x.astype(jnp.int32)), mean

    def apply(stats, x):
        encodings, mean = stats
        known = (x >= 0) & (x < jnp.array(sizes))
        found = jnp.take_along_axis(encodings.T, jnp.where(known, x, 0).astype(jnp.int32), axis=0)
        return jnp.where(known, found, mean)

    def cross_fit(x, y, folds, num_folds, mask=None):
        used = jnp.ones(y.shape, bool) if mask is None else mask

        def of_fold(fold):
            return apply(fit(x, y, used & (folds != fold)), x)

        encoded = jax.lax.map(of_fold, jnp.arange(num_folds))
        return jnp.take_along_axis(encoded, folds[None, :, None], axis=0)[0]

    return TargetEncoder(fit, apply, cross_fit)


def _check_width(x: Shaped[Array, "n d"], sizes: tuple[int, ...]) -> None:
    if x.ndim != 2 or x.shape[1] != len(sizes):
        raise InputError(f"x: needs codes [n, {len(sizes)}], a column a number in sizes, got {x.shape}")

"""Preprocessing of tables: missing values, outliers, scales, columns that say nothing.

    fit(x, mask) -> stats        what is learned, from the rows of the mask alone
    apply(stats, x) -> y         pure, with the same stats for training, validation and new rows
    invert(stats, y) -> x        back, as far as ``apply`` can be undone

``x`` is ``[n, d]`` in floats, NaN where a value is missing; NaN stays NaN unless it is imputed. All three functions can
be jitted, mapped and put in front of a model: ``stateless(functools.partial(scaler.apply, stats))``.
Categories are in ``preprocess/encode.py``, splits in ``preprocess/split.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Bool, Float

from jaxmodels.core import InputError, PyTree, cached_factory

STRATEGIES = ("mean", "median", "most_frequent", "constant")
SCALES = ("standard", "min_max", "robust")


class Preprocessor(NamedTuple):
    """Three pure functions; see the head of this module."""

    fit: Callable[..., PyTree]
    """``(x [n, d], mask [n] = None) -> stats``; rows whose mask is False are not read."""
    apply: Callable[[PyTree, Array], Array]
    invert: Callable[[PyTree, Array], Array]


@cached_factory
def chain(*preprocessors: Preprocessor) -> Preprocessor:
    """One after the other; ``stats`` is a tuple with an entry each.

    >>> both = chain(impute("mean"), scale("standard"))
    >>> x = jnp.array([[1.0], [jnp.nan], [3.0]])
    >>> both.apply(both.fit(x), x)[:, 0].round(3).tolist()
    [-1.225000023841858, 0.0, 1.225000023841858]
    """

    def fit(x, mask=None):
        stats = []
        for each in preprocessors:
            stats.append(each.fit(x, mask))
            x = each.apply(stats[-1], x)
        return tuple(stats)

    def apply(stats, x):
        for each, own in zip(preprocessors, stats, strict=True):
            x = each.apply(own, x)
        return x

    def invert(stats, y):
        for each, own in zip(reversed(preprocessors), reversed(stats), strict=True):
            y = each.invert(own, y)
        return y

    return Preprocessor(fit, apply, invert)


@cached_factory
def impute(strategy: str = "mean", *, fill_value: float = 0.0, indicator: bool = False) -> Preprocessor:
    """Put a number where a value is missing.

    Args:
      strategy: one of ``STRATEGIES``; of several most frequent values the smallest.
      fill_value: of ``"constant"``, and of a column that has no value at all.
      indicator: append a column a column, 1 where the value was missing: ``[n, d]`` becomes ``[n, 2 d]``; ``invert``
        then restores the NaN.

    >>> x = jnp.array([[1.0, 5.0], [jnp.nan, 7.0]])
    >>> marked = impute("median", indicator=True)
    >>> marked.apply(marked.fit(x), x).tolist()
    [[1.0, 5.0, 0.0, 0.0], [1.0, 7.0, 1.0, 0.0]]
    """
    if strategy not in STRATEGIES:
        raise InputError(f"strategy: {strategy!r} is none of {', '.join(STRATEGIES)}")
    rules = {
        "mean": functools.partial(jnp.nanmean, axis=0),
        "median": functools.partial(jnp.nanmedian, axis=0),
        "most_frequent": jax.vmap(_most_frequent, in_axes=1),
        "constant": lambda x: jnp.full(x.shape[1], fill_value, x.dtype),
    }

    def fit(x, mask=None):
        fill = rules[strategy](_unmasked(x, mask))
        return jnp.where(jnp.isnan(fill), jnp.asarray(fill_value, fill.dtype), fill)

    def apply(fill, x):
        missing = jnp.isnan(x)
        filled = jnp.where(missing, fill.astype(x.dtype), x)
        return jnp.concatenate([filled, missing.astype(x.dtype)], axis=1) if indicator else filled

    def invert(fill, y):
        if not indicator:
            return y
        x, missing = jnp.split(y, 2, axis=1)
        return jnp.where(missing > 0, jnp.nan, x)

    return Preprocessor(fit, apply, invert)


def _most_frequent(column: Float[Array, " n"]) -> Float[Array, ""]:
    ordered = jnp.sort(column)
    runs = jnp.searchsorted(ordered, ordered, side="right") - jnp.searchsorted(ordered, ordered, side="left")
    return ordered[jnp.argmax(jnp.where(jnp.isnan(ordered), 0, runs))]


class Scaling(NamedTuple):
    """``(x - center) / spread``."""

    center: Array
    """``[d]``."""
    spread: Array
    """``[d]``; 1 for a constant column."""


@cached_factory
def scale(kind: str = "standard") -> Preprocessor:
    """Subtract a centre and divide by a spread, column by column.

    Args:
      kind: ``"standard"``, mean and standard deviation (dividing by n); ``"min_max"``, smallest value and range, so
        that training rows come to [0, 1]; ``"robust"``, median and interquartile range.

    >>> scaler = scale("min_max")
    >>> scaler.apply(scaler.fit(jnp.array([[1.0], [3.0]])), jnp.array([[2.0], [4.0]])).tolist()
    [[0.5], [1.5]]
    """
    if kind not in SCALES:
        raise InputError(f"scale: {kind!r} is none of {', '.join(SCALES)}; power() and quantile() are on their own")

    def fit(x, mask=None):
        known = _unmasked(x, mask)
        if kind == "standard":
            return _standard(known)
        if kind == "min_max":
            center = jnp.nanmin(known, axis=0)
            spread = jnp.nanmax(known, axis=0) - center
        else:
            lower, center, upper = jnp.nanquantile(known, jnp.array([0.25, 0.5, 0.75], x.dtype), axis=0)
            spread = upper - lower
        # As scikit-learn: a spread that is rounding is none.
        return _scaling(center, spread, spread < 10 * jnp.finfo(x.dtype).eps)

    return Preprocessor(fit, _rescale, _unscale)


def _standard(known: Float[Array, "n d"]) -> Scaling:
    count = jnp.sum(~jnp.isnan(known), axis=0)
    center, variance, eps = jnp.nanmean(known, axis=0), jnp.nanvar(known, axis=0), jnp.finfo(known.dtype).eps
    rounding = count * eps * variance + (count * center * eps) ** 2  # the error bound of the two-pass variance
    return _scaling(center, jnp.sqrt(variance), variance <= rounding)


def _scaling(center: Array, spread: Array, constant: Array) -> Scaling:
    empty = jnp.isnan(center)
    return Scaling(jnp.where(empty, 0, center), jnp.where(constant | empty, 1, spread))


def _rescale(stats: Scaling, x: Array) -> Array:
    return ((x - stats.center) / stats.spread).astype(x.dtype)


def _unscale(stats: Scaling, y: Array) -> Array:
    return (y * stats.spread + stats.center).astype(y.dtype)


class Power(NamedTuple):
    exponent: Array
    """``[d]``."""
    scaling: Scaling
    """Of the transformed columns."""


@cached_factory
def power(*, low: float = -5.0, high: float = 5.0) -> Preprocessor:
    """Yeo and Johnson's power of each column that makes it most nearly normal, then standard scale.

        x >= 0:  ((1 + x)^p - 1) / p           x < 0:  -((1 - x)^(2 - p) - 1) / (2 - p)

    with log(1 + x) at p = 0 and -log(1 - x) at p = 2. ``p`` maximises the profile likelihood of a normal.

    Args:
      low, high: the bounds of ``p``. Where the likelihood still rises outside, as for columns far from 0 with a small
        spread, the transform would overflow.

    >>> x = jnp.exp(jnp.linspace(0.0, 3.0, 50))[:, None]
    >>> transform = power()
    >>> stats = transform.fit(x)
    >>> bool(jnp.allclose(transform.invert(stats, transform.apply(stats, x)), x, rtol=1e-4))
    True

    Source: Yeo and Johnson (2000), A new family of power transformations to improve normality or symmetry.
    """

    def fit(x, mask=None):
        known = _unmasked(x, mask)
        exponent = jax.vmap(lambda column: _golden(functools.partial(_fitness, column), low, high), in_axes=1)(known)
        exponent = exponent.astype(x.dtype)
        return Power(exponent, _standard(_yeo_johnson(known, exponent)))

    def apply(stats, x):
        return _rescale(stats.scaling, _yeo_johnson(x, stats.exponent))

    def invert(stats, y):
        y, p = _unscale(stats.scaling, y), stats.exponent
        return jnp.where(y >= 0, _root(jnp.maximum(y, 0), p), -_root(-jnp.minimum(y, 0), 2 - p))

    return Preprocessor(fit, apply, invert)


def _yeo_johnson(x: Array, p: Array) -> Array:
    return jnp.where(x >= 0, _raise(jnp.maximum(x, 0), p), -_raise(-jnp.minimum(x, 0), 2 - p))


def _raise(x: Array, p: Array) -> Array:
    """``((1 + x)^p - 1) / p`` of x >= 0; ``log(1 + x)`` at p = 0."""
    log, zero = jnp.log1p(x), jnp.abs(p) < 1e-12
    return jnp.where(zero, log, jnp.expm1(p * log) / jnp.where(zero, 1, p))


def _root(y: Array, p: Array) -> Array:
    """The inverse of ``_raise``."""
    zero = jnp.abs(p) < 1e-12
    return jnp.expm1(jnp.where(zero, y, jnp.log1p(p * y) / jnp.where(zero, 1, p)))


def _fitness(column: Float[Array, " n"], p: Array) -> Array:
    """The log-likelihood of a normal, per row, but for a constant; where it overflows, less the farther from p = 1."""
    value = (p - 1) * jnp.nanmean(jnp.sign(column) * jnp.log1p(jnp.abs(column)))
    value -= jnp.log(jnp.nanvar(_yeo_johnson(column, p))) / 2
    return jnp.where(jnp.isfinite(value), value, -1e6 * jnp.abs(p - 1))


def _golden(function: Callable[[Array], Array], low: float, high: float) -> Array:
    """The maximum of a unimodal function, by golden section; 50 steps leave 4e-11 of the interval."""
    ratio = (5**0.5 - 1) / 2

    def narrow(_, ends):
        a, b = ends
        c, d = b - ratio * (b - a), a + ratio * (b - a)
        left = function(c) >= function(d)
        return jnp.where(left, a, c), jnp.where(left, d, b)

    a, b = jax.lax.fori_loop(0, 50, narrow, (jnp.asarray(low, float), jnp.asarray(high, float)))
    return (a + b) / 2


@cached_factory
def quantile(*, num_quantiles: int = 1000, output: str = "uniform") -> Preprocessor:
    """Map each column to ranks in [0, 1] by its quantiles, or on to a normal distribution.

    Args:
      num_quantiles: landmarks; at most the number of rows is of use.
      output: ``"uniform"``, or ``"normal"``, cut off at 5.2 standard deviations.

    >>> ranks = quantile(num_quantiles=3)
    >>> ranks.apply(ranks.fit(jnp.array([[1.0], [10.0], [100.0]])), jnp.array([[5.5], [1000.0]])).tolist()
    [[0.25], [1.0]]
    """
    if output not in ("uniform", "normal"):
        raise InputError(f"output: {output!r} is none of uniform, normal")
    if num_quantiles < 2:
        raise InputError(f"num_quantiles: needs 2 or more, got {num_quantiles}")

    def fit(x, mask=None):
        ranks = jnp.linspace(0, 1, num_quantiles, dtype=x.dtype)
        marks = jnp.nanquantile(_unmasked(x, mask), ranks, axis=0)
        return jax.lax.cummax(marks, axis=0)  # interpolation rounds, quantiles must not fall

    def apply(marks, x):
        ranks = jnp.linspace(0, 1, num_quantiles, dtype=x.dtype)

        def of_column(x, marks):
            # From both ends: at a value that many quantiles share, their middle.
            return (jnp.interp(x, marks, ranks) - jnp.interp(-x, -marks[::-1], -ranks[::-1])) / 2

        y = jax.vmap(of_column, in_axes=1, out_axes=1)(x, marks)
        y = jnp.where(x <= marks[0], 0, jnp.where(x >= marks[-1], 1, y)).astype(x.dtype)
        y = jnp.where(jnp.isnan(x), jnp.nan, y)  # between equal landmarks interpolation loses it
        return _normal(y) if output == "normal" else y

    def invert(marks, y):
        ranks = jnp.linspace(0, 1, num_quantiles, dtype=y.dtype)
        y = ndtr(y) if output == "normal" else y
        return jax.vmap(lambda y, marks: jnp.interp(y, ranks, marks), in_axes=1, out_axes=1)(y, marks)

    return Preprocessor(fit, apply, invert)


def _normal(y: Array) -> Array:
    """The normal's quantile, cut off 1e-7 from either end; the upper from below, where float32 has digits."""
    lower = ndtri(jnp.clip(jnp.minimum(y, 1 - y), 1e-7, 0.5))
    return jnp.where(y < 0.5, lower, -lower)


@cached_factory
def clip(low: float = 0.01, high: float = 0.99) -> Preprocessor:
    """Bring outliers to the quantiles ``low`` and ``high`` of their column; cannot be undone.

    >>> clipper = clip(0.25, 0.75)
    >>> x = jnp.array([[0.0], [1.0], [2.0], [3.0], [100.0]])
    >>> clipper.apply(clipper.fit(x), x)[:, 0].tolist()
    [1.0, 1.0, 2.0, 3.0, 3.0]
    """
    if not 0 <= low < high <= 1:
        raise InputError(f"low, high: need 0 <= low < high <= 1, got {low} and {high}")

    def fit(x, mask=None):
        return jnp.nanquantile(_unmasked(x, mask), jnp.array([low, high], x.dtype), axis=0)

    return Preprocessor(fit, lambda ends, x: jnp.clip(x, ends[0], ends[1]), lambda ends, y: y)


def informative(x: Float[Array, "n d"], mask: Bool[Array, " n"] | None = None) -> Bool[Array, " d"]:
    """Columns worth keeping: neither constant (nor all missing) nor equal to an earlier one.

    Shapes cannot depend on values under ``jit``, so dropping the others is the caller's: ``x[:, kept]`` outside,
    ``jnp.where(kept, x, 0)`` inside.

    >>> informative(jnp.array([[1.0, 1.0, 7.0], [2.0, 2.0, 7.0]])).tolist()
    [True, False, False]
    """
    known = _unmasked(x, mask)
    varies = jnp.nanmax(known, axis=0) > jnp.nanmin(known, axis=0)  # False where all are NaN

    def repeats(index):
        own = known[:, [index]]
        same = jnp.all((known == own) | (jnp.isnan(known) & jnp.isnan(own)), axis=0)
        return jnp.any(same & (jnp.arange(x.shape[1]) < index))

    return varies & ~jax.lax.map(repeats, jnp.arange(x.shape[1]))


def _unmasked(x: Any, mask: Any) -> Array:
    """NaN in the rows that are not to be read."""
    x = jnp.asarray(x)
    if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"x: needs floats [n, d], got {x.dtype} {x.shape}; cast or reshape it")
    if mask is None:
        return x
    mask = jnp.asarray(mask)
    if mask.shape != x.shape[:1] or mask.dtype != bool:
        raise InputError(f"mask: needs booleans {x.shape[:1]}, one a row of x, got {mask.dtype} {mask.shape}")
    return jnp.where(mask[:, None], x, jnp.nan)

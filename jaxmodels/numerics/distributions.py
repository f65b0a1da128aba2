"""Tail probabilities and quantiles of Student's t, F, chi-square and the normal, exact far into the tails.

Everything rests on two regularised functions and their complements, so that the small one is never ``1 - big``:

    I_x(a, b) = x^a y^b / B(a, b) / K(a, b, x),   y = 1 - x, K a continued fraction      (t and F)
    Q(a, x)   = x^a e^-x / Gamma(a) / L(a, x),    L a continued fraction                 (chi-square)

The factors in front go through the deviance ``u - log(1 + u)`` and Stirling's remainder, because differences of
``lgamma`` lose six digits at a million degrees of freedom (and all of them in float32).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import erfc, gammaln, ndtri
from jaxtyping import Array, Float

_MAX_TERMS = 20_000
_MAX_NEWTON = 60
# Bernoulli numbers over 2k (2k - 1): Stirling's series of log Gamma.
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400)


def normal_sf(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """``P(Z > z)`` of the standard normal.

    >>> round(float(normal_sf(1.959964)), 4)
    0.025
    """
    (z,) = _floats(z)
    return erfc(z / math.sqrt(2)) / 2


def student_t_sf(t: Float[Array, "..."], dof: Float[Array, "..."]) -> Float[Array, "..."]:
    """``P(T > t)`` of Student's t; twice it at ``|t|`` is the two-sided p-value.

    Args:
      t: any shape.
      dof: degrees of freedom, above 0, broadcast against ``t``; infinity is the normal. Derivatives take it
        as a constant, as they do in every function of this module.

    Returns:
      The probability, relative error a few units of rounding as far as it does not underflow; NaN where ``dof <= 0``.

    >>> f"{2 * student_t_sf(-2.0, 1.0):.4f}"
    '1.7048'

    Source: DLMF 8.17.22 and Abramowitz and Stegun 26.7.1.
    """
    t, dof = _floats(t, dof)
    outside = _tail(jnp.abs(t), 1, _student_t_log_tails, _student_t_log_density, dof)
    return jnp.where(t < 0, 1 - outside / 2, outside / 2)


def student_t_quantile(
    probability: Float[Array, "..."], dof: Float[Array, "..."], *, upper: bool = False
) -> Float[Array, "..."]:
    """The ``t`` with ``P(T <= t) = probability``, or with ``P(T > t) = probability`` where ``upper``.

    ``upper=True`` with a tiny probability keeps the digits that ``1 - probability`` would lose.

    >>> f"{student_t_quantile(0.025, 10.0, upper=True):.5f}"
    '2.22814'
    """
    probability, dof = _floats(probability, dof)
    tail = jnp.minimum(probability, 1 - probability)
    positive = (probability <= 0.5) == upper
    z = jnp.clip(-ndtri(tail), 1e-3, 1e3)
    # Two terms of Abramowitz and Stegun 26.7.5.
    start = z + (z**3 + z) / (4 * dof) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * dof**2)
    size = _positive_quantile(2 * tail, True, start, _student_t_log_tails, _student_t_log_density, dof)
    return jnp.where(positive, size, -size)


def f_sf(f: Float[Array, "..."], dof1: Float[Array, "..."], dof2: Float[Array, "..."]) -> Float[Array, "..."]:
    """``P(F > f)`` of Fisher's F with ``dof1`` and ``dof2`` degrees of freedom: the p-value of an F test.

    NaN where a degree of freedom is not positive and finite; for infinite ``dof2`` use ``chi_square_sf(dof1 * f)``.

    >>> f"{f_sf(4.0, 1.0, 10.0):.5f}", f"{2 * student_t_sf(2.0, 10.0):.5f}"      # F with one is the square of t
    ('0.07339', '0.07339')
    """
    f, *dofs = _floats(f, dof1, dof2)
    return _tail(f, 1, _f_log_tails, _f_log_density, *dofs)


def f_cdf(f: Float[Array, "..."], dof1: Float[Array, "..."], dof2: Float[Array, "..."]) -> Float[Array, "..."]:
    """``P(F <= f)``; see ``f_sf``.

    >>> f"{f_cdf(1.0, 7.0, 7.0):.3f}"
    '0.500'
    """
    f, *dofs = _floats(f, dof1, dof2)
    return _tail(f, 0, _f_log_tails, _f_log_density, *dofs)


def f_quantile(
    probability: Float[Array, "..."], dof1: Float[Array, "..."], dof2: Float[Array, "..."], *, upper: bool = False
) -> Float[Array, "..."]:
    """The ``f`` with ``P(F <= f) = probability``, or with ``P(F > f) = probability`` where ``upper``.

    >>> f"{f_quantile(0.05, 2.0, 27.0, upper=True):.5f}"
    '3.35413'
    """
    probability, *dofs = _floats(probability, dof1, dof2)
    return _positive_quantile(probability, upper, jnp.ones_like(probability), _f_log_tails, _f_log_density, *dofs)


def chi_square_sf(x: Float[Array, "..."], dof: Float[Array, "..."]) -> Float[Array, "..."]:
    """``P(X > x)`` of chi-square with ``dof`` degrees of freedom: the p-value of a Wald or likelihood-ratio test.

    >>> f"{chi_square_sf(3.841459, 1.0):.4f}"
    '0.0500'
    """
    x, dof = _floats(x, dof)
    return _tail(x, 1, _chi_square_log_tails, _chi_square_log_density, dof)


def chi_square_cdf(x: Float[Array, "..."], dof: Float[Array, "..."]) -> Float[Array, "..."]:
    """``P(X <= x)``; see ``chi_square_sf``.

    >>> f"{chi_square_cdf(2.0, 2.0):.5f}", f"{1 - math.exp(-1):.5f}"
    ('0.63212', '0.63212')
    """
    x, dof = _floats(x, dof)
    return _tail(x, 0, _chi_square_log_tails, _chi_square_log_density, dof)


def chi_square_quantile(
    probability: Float[Array, "..."], dof: Float[Array, "..."], *, upper: bool = False
) -> Float[Array, "..."]:
    """The ``x`` with ``P(X <= x) = probability``, or with ``P(X > x) = probability`` where ``upper``.

    >>> f"{chi_square_quantile(0.95, 1.0):.4f}"
    '3.8415'
    """
    probability, dof = _floats(probability, dof)
    return _positive_quantile(probability, upper, dof, _chi_square_log_tails, _chi_square_log_density, dof)


def normal_quantile(probability: Float[Array, "..."], *, upper: bool = False) -> Float[Array, "..."]:
    """The ``z`` with ``P(Z <= z) = probability``, or with ``P(Z > z) = probability`` where ``upper``.

    >>> f"{normal_quantile(0.975):.4f}"
    '1.9600'
    """
    (probability,) = _floats(probability)
    return -ndtri(probability) if upper else ndtri(probability)


# A positive variable: |t|, F or chi-square ----------------------------------------------------------------------------


# Jitted here, or every call outside a jit would compile its loop anew.
@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _tail(x: Array, side: int, log_tails: Callable, log_density: Callable, *dofs: Array) -> Array:
    """``P(X <= x)`` for ``side`` 0, ``P(X > x)`` for 1."""
    return _differentiable_tail(x, side, log_tails, log_density, *dofs)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _differentiable_tail(x: Array, side: int, log_tails: Callable, log_density: Callable, *dofs: Array) -> Array:
    usable, valid = _usable(dofs)
    tail = jnp.exp(log_tails(jnp.maximum(x, 0), *usable)[side])
    return jnp.where(valid & ~jnp.isnan(x), tail, jnp.nan)


@_differentiable_tail.defjvp
def _(side, log_tails, log_density, primals, tangents):
    x, *dofs = primals
    density = jnp.where(x >= 0, jnp.exp(log_density(jnp.maximum(x, 0), *_usable(dofs)[0])), 0)
    return _differentiable_tail(x, side, log_tails, log_density, *dofs), (
        density if side == 0 else -density
    ) * tangents[0]


@functools.partial(jax.jit, static_argnums=(1, 3, 4))
def _positive_quantile(
    probability: Array, upper: bool, start: Array, log_tails: Callable, log_density: Callable, *dofs: Array
) -> Array:
    """Newton's method on ``log probability`` against ``log x``.

    Both tails of t, F and chi-square are concave there: after the first step all come from one side, and cannot cycle.
    """
    usable, valid = _usable([lax.stop_gradient(dof) for dof in dofs])
    fixed = lax.stop_gradient(probability)
    valid &= (fixed >= 0) & (fixed <= 1)
    above = (fixed < 0.5) == upper
    smaller = jnp.minimum(fixed, 1 - fixed)
    target = jnp.log(jnp.where(valid & (smaller > 0), smaller, 0.25))
    limits = jnp.finfo(start.dtype)
    tolerance = limits.eps**0.6  # the step after such a one is below rounding

    def step(carry):
        k, x, _ = carry
        below_x, above_x = log_tails(x, *usable)
        tail = jnp.where(above, above_x, below_x)
        slope = x * jnp.exp(log_density(x, *usable) - tail)
        # The reach doubles: a first step far past the root would land where log tail and log density are too large
        # for their difference to mean anything.
        reach = jnp.asarray(2.0, x.dtype) ** jnp.minimum(k, 6)
        change = jnp.clip(jnp.where(above, -1, 1) * (target - tail) / slope, -reach, reach)
        return k + 1, jnp.clip(x * jnp.exp(change), limits.tiny, limits.max / 4), change

    def unfinished(carry):
        k, _, change = carry
        return (k < _MAX_NEWTON) & jnp.any(jnp.abs(change) > tolerance)

    start = lax.stop_gradient(jnp.where(valid & jnp.isfinite(start), start, 1))
    x = lax.while_loop(unfinished, step, (0, start, jnp.ones_like(start)))[1]
    slope = jnp.exp(-log_density(x, *usable)) * (-1 if upper else 1)
    x = jnp.where(smaller > 0, x + slope * (probability - fixed), jnp.where(above, jnp.inf, 0))
    return jnp.where(valid, x, jnp.nan)


def _usable(dofs) -> tuple[list[Array], Array]:
    """Degrees of freedom with 1 where they mean nothing, and where they mean something: infinity for t alone."""
    valid = functools.reduce(jnp.logical_and, [dof > 0 for dof in dofs])
    if len(dofs) == 2:
        valid &= jnp.isfinite(dofs[0]) & jnp.isfinite(dofs[1])
    return [jnp.where(valid, dof, 1) for dof in dofs], valid


def _student_t_log_tails(size: Array, dof: Array) -> tuple[Array, Array]:
    """Of ``|T|``, whose square is F with one degree of freedom."""
    finite = jnp.where(jnp.isfinite(dof), dof, 1)
    ratio = size / jnp.sqrt(finite)
    outside, inside = _log_incomplete_beta(finite / 2, jnp.full_like(finite, 0.5), *_shares(1 / ratio, ratio))
    normal, scaled = jnp.isinf(dof), size / math.sqrt(2)
    return jnp.where(normal, jnp.log(lax.erf(scaled)), inside), jnp.where(normal, jnp.log(erfc(scaled)), outside)


def _student_t_log_density(size: Array, dof: Array) -> Array:
    a = jnp.where(jnp.isfinite(dof), dof, 1) / 2
    # Gamma(a + 1/2) / Gamma(a) / sqrt(a) -> 1, by Stirling's formula at both.
    constant = stirling_error(a + 0.5) - stirling_error(a) - a * _deviance(0.5 / a, 1 + 0.5 / a)
    ratio = size / jnp.sqrt(2 * a)
    large = ratio > 1
    log_power = jnp.where(large, 2 * jnp.log(jnp.where(large, ratio, 1)), 0)
    log_power += jnp.log1p(jnp.where(large, 1 / jnp.where(large, ratio, 1), ratio) ** 2)
    density = constant - (a + 0.5) * log_power
    return 0.5 * math.log(2 / math.pi) + jnp.where(jnp.isinf(dof), -size * (size / 2), density)


def _f_log_tails(f: Array, dof1: Array, dof2: Array) -> tuple[Array, Array]:
    ratio = jnp.sqrt(f) * jnp.sqrt(dof1 / dof2)
    above, below = _log_incomplete_beta(dof2 / 2, dof1 / 2, *_shares(1 / ratio, ratio))
    return below, above


def _f_log_density(f: Array, dof1: Array, dof2: Array) -> Array:
    ratio = jnp.sqrt(f) * jnp.sqrt(dof1 / dof2)
    return _log_beta_front(dof2 / 2, dof1 / 2, *_shares(1 / ratio, ratio)) - jnp.log(f)


def _chi_square_log_tails(x: Array, dof: Array) -> tuple[Array, Array]:
    return _log_incomplete_gamma(dof / 2, x / 2)


def _chi_square_log_density(x: Array, dof: Array) -> Array:
    return _log_gamma_front(dof / 2, x / 2) - jnp.log(x)


def _shares(p: Array, q: Array) -> tuple[Array, Array]:
    """``p^2 / (1 + p^2)`` and its complement, from ``p = 1 / q``; neither square can overflow."""
    large = q > 1
    ratio = jnp.where(large, p, q) ** 2
    small, rest = ratio / (1 + ratio), 1 / (1 + ratio)
    return jnp.where(large, small, rest), jnp.where(large, rest, small)


# The two incomplete functions ----------------------------------------------------------------------------------------


def _log_incomplete_beta(a: Array, b: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """``log I_x(a, b)`` and ``log(1 - I_x(a, b))`` for ``x + y = 1``."""
    swap = x * (b + 1) > y * (a + 1)  # beyond the mode it is the other tail's fraction that converges
    a, b, x, y = jnp.where(swap, b, a), jnp.where(swap, a, b), jnp.where(swap, y, x), jnp.where(swap, x, y)
    tail = jnp.minimum(_log_beta_front(a, b, x, y) - jnp.log(_beta_fraction(a, b, x, y)), 0)
    rest = _log_complement(tail)
    return jnp.where(swap, rest, tail), jnp.where(swap, tail, rest)


def _log_beta_front(a: Array, b: Array, x: Array, y: Array) -> Array:
    """``log(x^a y^b / B(a, b))``, free of cancellation (Loader 2000)."""
    total, shift = a + b, b * x - a * y
    # Stacked, because one graph for both sides compiles in half the time of two.
    shapes = jnp.stack([a, b])
    deviance = shapes * _deviance(jnp.stack([shift, -shift]) / shapes, jnp.stack([x, y]) * (total / shapes))
    error = stirling_error(jnp.stack([total, a, b]))
    exponent = error[0] - error[1] - error[2] - deviance[0] - deviance[1]
    return exponent + jnp.log(a / total * b / (2 * math.pi)) / 2


def _beta_fraction(a: Array, b: Array, x: Array, y: Array) -> Array:
    """The even part of the continued fraction DLMF 8.17.22."""

    balance = a * y - b * x

    def terms(m):
        near, far = 1 / (a + 2 * m - 1), 1 / (a + 2 * m + 1)
        common = m * (b - m) * x
        numerator = ((a + m - 1) * near) * ((a + b + m - 1) * near) * common * x
        return numerator, m + common * near + (a + m) * far * (balance + 1 + m * (1 + y))

    return _continued_fraction(a / (a + 1) * (balance + 1), terms)


def _log_incomplete_gamma(a: Array, x: Array) -> tuple[Array, Array]:
    """``log P(a, x)`` and ``log Q(a, x)``."""
    right = x > a + 1
    front = _log_gamma_front(a, x)
    lower = front - jnp.log(a) + jnp.log(_gamma_series(a, jnp.where(right, 0, x)))
    at = jnp.where(right & jnp.isfinite(x), x, a + 2)
    upper = front - jnp.log(_continued_fraction(at + 1 - a, lambda m: (-m * (m - a), at + 1 - a + 2 * m)))
    tail = jnp.minimum(jnp.where(right, upper, lower), 0)
    rest = _log_complement(tail)
    return jnp.where(right, rest, tail), jnp.where(right, tail, rest)


def _log_gamma_front(a: Array, x: Array) -> Array:
    """``log(x^a e^-x / Gamma(a))``."""
    exponent = -a * _deviance((x - a) / a, x / a) - stirling_error(a)
    return jnp.where(jnp.isinf(x), -jnp.inf, exponent + jnp.log(a / (2 * math.pi)) / 2)


def _gamma_series(a: Array, x: Array) -> Array:
    """``sum_k x^k / ((a + 1) ... (a + k))`` (DLMF 8.11.4)."""
    tolerance = jnp.finfo(x.dtype).eps / 2

    def step(carry):
        k, term, total = carry
        term = term * x / (a + k)
        return k + 1, term, total + term

    def unfinished(carry):
        k, term, total = carry
        return (k < _MAX_TERMS) & jnp.any(term > tolerance * total)

    one = jnp.ones_like(x)
    return lax.while_loop(unfinished, step, (jnp.ones((), x.dtype), one, one))[2]


def _continued_fraction(first: Array, terms: Callable[[Array], tuple[Array, Array]]) -> Array:
    """``first + n(1) / (d(1) + n(2) / (d(2) + ...))``, ``(n, d) = terms(m)``, by the modified Lentz algorithm."""
    limits = jnp.finfo(first.dtype)

    def nonzero(value):
        return jnp.where(value == 0, limits.tiny * 1e4, value)

    def step(carry):
        m, value, upward, downward, _ = carry
        numerator, denominator = terms(m)
        downward = 1 / nonzero(denominator + numerator * downward)
        upward = nonzero(denominator + numerator / upward)
        factor = upward * downward
        return m + 1, value * factor, upward, downward, factor

    def unfinished(carry):
        m, *_, factor = carry
        return (m < _MAX_TERMS) & jnp.any(jnp.abs(factor - 1) > limits.eps)

    first = nonzero(first)
    start = (jnp.ones((), first.dtype), first, first, jnp.zeros_like(first), jnp.zeros_like(first))
    return lax.while_loop(unfinished, step, start)[1]


def _log_complement(log_p: Array) -> Array:
    """``log(1 - p)``."""
    return jnp.where(log_p > -0.5, jnp.log(-jnp.expm1(log_p)), jnp.log1p(-jnp.exp(log_p)))


def _deviance(u: Array, ratio: Array) -> Array:
    """``u - log(ratio)`` where ``ratio = 1 + u``, each given because neither is exact from the other at its end."""
    near = jnp.abs(u) < 0.3
    v = jnp.where(near, u, 0) / (2 + jnp.where(near, u, 0))
    series = functools.reduce(lambda total, k: total * v * v + 1 / (2 * k + 3), range(10, -1, -1), jnp.zeros_like(v))
    # u - log(1 + u) = u v - 2 (v^3 / 3 + v^5 / 5 + ...), v = u / (2 + u).
    return jnp.where(near, u * v - 2 * v**3 * series, u - jnp.log(jnp.where(near, 1, ratio)))


def stirling_error(z: Array) -> Array:
    """``log Gamma(z) - ((z - 1/2) log z - z + log(2 pi) / 2)``."""
    large = jnp.maximum(z, 10)
    inverse = 1 / large**2
    series = functools.reduce(lambda total, c: total * inverse + c, reversed(_STIRLING), jnp.zeros_like(z)) / large
    small = jnp.clip(z, jnp.finfo(z.dtype).tiny, 10)
    direct = gammaln(small) - (small - 0.5) * jnp.log(small) + small - 0.5 * math.log(2 * math.pi)
    return jnp.where(z > 10, series, direct)


def _floats(*values) -> list[Array]:
    """The values as arrays of one floating dtype, the data's, and of one shape."""
    dtype = jnp.result_type(float, *values)
    return jnp.broadcast_arrays(*[jnp.asarray(value, dtype) for value in values])

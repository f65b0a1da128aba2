"""Basis functions: a column of numbers becomes the columns of a design.

    polynomial(x, 3) = [x, x^2, x^3]

No basis has a column of ones: the regression adds its intercept.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxmodels.core import InputError, check_count
from jaxmodels.numerics import double_double as dd
from jaxmodels.numerics.double_double import DoubleDouble
from jaxmodels.regression.inputs import as_array

PRECISIONS = ("working", "double_double")


def polynomial(
    x: Float[Array, " n"] | DoubleDouble,
    degree: int,
    *,
    precision: Literal["working", "double_double"] = "working",
) -> Float[Array, "n degree"] | DoubleDouble:
    """The powers ``x, x^2, ..., x^degree`` as columns, without the column of ones.

    A power rounded to working precision is a slightly different function, and an ill-conditioned fit magnifies the
    difference: ``precision="double_double"`` keeps twice the bits, for ``linear.fit(..., method="certified")``.

    Args:
      x: the variable. A pair (decimal text read by ``double_double.from_exact``, say) needs ``"double_double"``.
      degree: the highest power, at least 1.
      precision: ``"working"`` for an array in the dtype of ``x``, ``"double_double"`` for a pair of them.

    Returns:
      ``[n, degree]``, an array or a ``DoubleDouble``.

    Raises:
      InputError: ``x`` is no column of floats, ``degree`` is no integer above 0, or ``precision`` does not fit.

    >>> polynomial(jnp.array([2.0, 3.0]), 3)
    Array([[ 2.,  4.,  8.],
           [ 3.,  9., 27.]], dtype=float32)
    >>> pair = polynomial(jnp.array([16777215.0]), 2, precision="double_double")  # 2^24 - 1, its square takes 48 bits
    >>> int(pair.high[0, 1]) + int(pair.low[0, 1]) == 16777215**2
    True
    """
    _check(x, degree, precision)
    if precision == "working":
        return jnp.stack(_powers(jnp.asarray(x), degree, operator.mul), axis=1)
    pairs = _powers(dd.as_pair(x), degree, dd.multiply)
    return jax.tree.map(lambda *columns: jnp.stack(columns, axis=1), *pairs)


def _powers(x, degree, multiply) -> list:
    """Each power from the two nearest to half its exponent, so that errors grow with log2(exponent) only."""
    powers = [x]
    for exponent in range(2, degree + 1):
        half = exponent // 2
        powers.append(multiply(powers[exponent - half - 1], powers[half - 1]))
    return powers


def _check(x, degree, precision, name="degree") -> None:
    if precision not in PRECISIONS:
        raise InputError(f"precision: got {precision!r}, needs one of {', '.join(map(repr, PRECISIONS))}")
    check_count(name, degree)
    if isinstance(x, DoubleDouble) and precision == "working":
        raise InputError("x: got a DoubleDouble with precision='working', pass precision='double_double' or x.high")
    column = dd.as_pair(x if isinstance(x, DoubleDouble) else as_array("x", x)).high
    if column.ndim != 1:
        raise InputError(f"x: got shape {column.shape}, needs one column [n]: pass x[:, j]")
    if column.dtype not in (jnp.float32, jnp.float64):
        raise InputError(f"x: got dtype {column.dtype}, needs float32 or float64: convert it with x.astype")


def features(functions: Sequence[Callable[[Array], Array]]) -> Callable[[Float[Array, "n d"]], Float[Array, "n d"]]:
    """A function of its own for each column: ``y = b_0 + sum_j b_j f_j(x_j)`` is linear in b.

    Args:
      functions: one a column, elementwise.

    Returns:
      ``x [n, d] -> [n, d]``, for ``linear.fit``, or with ``core.stateless`` the first part of a ``core.chain``.

    >>> features([jnp.square, jnp.abs])(jnp.array([[1.0, -2.0], [3.0, 4.0]])).tolist()
    [[1.0, 2.0], [9.0, 4.0]]
    """
    functions = tuple(functions)

    def apply(x):
        x = jnp.asarray(x)
        if x.ndim != 2 or x.shape[1] != len(functions):
            raise InputError(f"x: got shape {x.shape}, needs [n, {len(functions)}], a column a function")
        return jnp.stack([function(x[:, j]) for j, function in enumerate(functions)], axis=1)

    return apply


def chebyshev(
    x: Float[Array, " n"], degree: int, *, domain: tuple[float, float] = (-1.0, 1.0)
) -> Float[Array, "n degree"]:
    """Chebyshev's polynomials ``T_1, ..., T_degree``: the span of the powers, in columns that are nearly orthogonal.

    Args:
      x: the variable.
      degree: the highest one, at least 1.
      domain: what is mapped to [-1, 1].

    >>> chebyshev(jnp.array([0.5]), 3).tolist()
    [[0.5, -0.5, -1.0]]
    """
    _check(x, degree, "working")
    low, high = _interval("domain", domain)
    t = (2 * jnp.asarray(x) - (low + high)) / (high - low)
    columns = [jnp.ones_like(t), t]
    for _ in range(degree - 1):
        columns.append(2 * t * columns[-1] - columns[-2])
    return jnp.stack(columns[1:], axis=1)


def fourier(x: Float[Array, " n"], num_frequencies: int, *, period: float) -> Float[Array, "n 2*num_frequencies"]:
    """``cos(2 pi k x / period)`` and ``sin(2 pi k x / period)`` for ``k = 1, ..., num_frequencies``, in turn.

    >>> [round(abs(each), 3) for each in fourier(jnp.array([0.25]), 1, period=1.0)[0].tolist()]
    [0.0, 1.0]
    """
    _check(x, num_frequencies, "working", "num_frequencies")
    if not isinstance(period, Tracer) and not 0 < period < float("inf"):
        raise InputError(f"period: got {period}, needs a finite number above 0")
    angles = 2 * jnp.pi / period * jnp.asarray(x)[:, None] * jnp.arange(1, num_frequencies + 1)
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=2).reshape(len(angles), -1)


def b_spline(
    x: Float[Array, " n"], knots: Sequence[float] | Float[Array, " k"], *, degree: int = 3
) -> Float[Array, "n columns"]:
    """B-splines on ``knots``, without the first: beside an intercept they span all splines of the degree.

    De Boor's recurrence. Outside the knots the outermost polynomials go on.

    Args:
      x: the variable.
      knots: increasing, ends included; at least two.
      degree: of the pieces, at least 1; 3 for cubic.

    Returns:
      ``[n, k + degree - 2]``.

    >>> b_spline(jnp.array([0.0, 0.25, 1.0]), [0.0, 0.5, 1.0], degree=1).tolist()
    [[0.0, 0.0], [0.5, 0.0], [0.0, 1.0]]
    """
    _check(x, degree, "working")
    x, knots = jnp.asarray(x), jnp.asarray(knots)
    if knots.ndim != 1 or len(knots) < 2:
        raise InputError(f"knots: got shape {knots.shape}, needs [k] with k of at least 2")
    if not isinstance(knots, Tracer) and not bool(jnp.all(knots[1:] > knots[:-1])):
        raise InputError("knots: not increasing; sort them and leave out those that are equal or NaN")
    knots = knots.astype(x.dtype)
    inside = jnp.clip(jnp.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2) + degree
    ends = [jnp.full(degree, knots[0]), knots, jnp.full(degree, knots[-1])]
    t = jnp.concatenate(ends)
    columns = (inside[:, None] == jnp.arange(len(t) - 1)).astype(x.dtype)
    for order in range(1, degree + 1):
        span = t[order:-1] - t[: -order - 1]
        next_span = t[order + 1 :] - t[1:-order]
        rising = (x[:, None] - t[: -order - 1]) / jnp.where(span > 0, span, 1)
        falling = (t[order + 1 :] - x[:, None]) / jnp.where(next_span > 0, next_span, 1)
        left = jnp.where(span > 0, rising * columns[:, :-1], 0)
        columns = left + jnp.where(next_span > 0, falling * columns[:, 1:], 0)
    return columns[:, 1:]


def _interval(name: str, ends: tuple[float, float]) -> tuple[float, float]:
    low, high = ends
    if not -float("inf") < low < high < float("inf"):
        raise InputError(f"{name}: got {ends}, needs finite ends, the lower first")
    return low, high

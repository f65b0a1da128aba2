"""Basis functions: a column of numbers becomes the columns of a design.

    polynomial(x, 3) = [x, x^2, x^3]

No basis has a column of ones: the regression adds its intercept.
"""

from __future__ import annotations

import operator
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.core import InputError
from jaxmodels.numerics import double_double as dd
from jaxmodels.numerics.double_double import DoubleDouble

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


def _check(x, degree, precision) -> None:
    if precision not in PRECISIONS:
        raise InputError(f"precision: got {precision!r}, needs one of {', '.join(map(repr, PRECISIONS))}")
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
        raise InputError(f"degree: got {degree!r}, needs an integer of at least 1")
    if isinstance(x, DoubleDouble) and precision == "working":
        raise InputError("x: got a DoubleDouble with precision='working', pass precision='double_double' or x.high")
    column = dd.as_pair(x).high
    if column.ndim != 1:
        raise InputError(f"x: got shape {column.shape}, needs one column [n]: pass x[:, j]")
    if column.dtype not in (jnp.float32, jnp.float64):
        raise InputError(f"x: got dtype {column.dtype}, needs float32 or float64: convert it with x.astype")

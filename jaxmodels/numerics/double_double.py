"""Numbers of twice the working precision: an unevaluated sum ``high + low`` of two floats.

    high = round(high + low), so that |low| <= ulp(high) / 2

Pairs of float64 carry about 106 bits (31 digits), pairs of float32 about 48 (14 digits). Everything is built from two
error-free transformations, which return a rounded result and its exact error:

    two_sum(a, b)  = (round(a + b), a + b - round(a + b))
    two_prod(a, b) = (round(a * b), a * b - round(a * b))

Compilers may contract ``a * b - c`` to a fused multiply-add in one copy of an expression and not in another, which
would spoil the error terms. So every product that an error term rests on is exact here: its factors are halves of
numbers, cut by a bit mask instead of by Dekker's multiplication. Contracting exact products changes nothing.

Sources: Dekker, A floating-point technique for extending the available precision (1971); Knuth, The Art of Computer
Programming 2, section 4.2.2; Hida, Li, Bailey, Algorithms for quad-double precision floating point arithmetic (2001);
Ogita, Rump, Oishi, Accurate sum and dot product (2005); Ozaki, Ogita, Oishi, Rump, Error-free transformations of
matrix multiplication by using fast routines (2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from jaxmodels.core import InputError


class DoubleDouble(NamedTuple):
    """The unevaluated sum ``high + low`` of two arrays of one shape and dtype (float32 or float64).

    >>> third = divide(jnp.float32(1), jnp.float32(3))
    >>> abs(float(third.high) - 1 / 3) > 1e-9, abs(float(third.high) + float(third.low) - 1 / 3) < 1e-15
    (True, True)
    """

    high: Array
    """The value rounded to working precision."""
    low: Array
    """What that rounding left: at most half a unit in the last place of ``high``."""


class _Format(NamedTuple):
    integer: Any  # unsigned integer type of the same width
    digits: int  # bits of the significand, the hidden one counted
    mantissa: int  # mask of the stored significand
    dropped: int  # bits that the upper half of a split leaves to the lower


_FORMATS = {
    np.dtype("float32"): _Format(np.uint32, 24, (1 << 23) - 1, 12),
    np.dtype("float64"): _Format(np.uint64, 53, (1 << 52) - 1, 27),
}


def _format(dtype: Any) -> _Format:
    if dtype not in _FORMATS:
        raise InputError(
            f"double_double: got dtype {dtype}, works in float32 and float64: convert the array to one of these"
        )
    return _FORMATS[np.dtype(dtype)]


def as_pair(value: ArrayLike | DoubleDouble) -> DoubleDouble:
    """``value`` as a pair; a pair passes through, an array gets zeros below."""
    if isinstance(value, DoubleDouble):
        return value
    high = jnp.asarray(value)
    return DoubleDouble(high, jnp.zeros_like(high))


def from_exact(values: Sequence | np.ndarray, *, dtype: Any) -> DoubleDouble:
    """The pairs nearest to numbers given exactly, on the host.

    Decimal text such as ``"0.1"`` fits no binary float; the pair keeps its first 31 digits (14 in float32). A float64
    array becomes pairs of float32 for devices without float64.

    Args:
      values: numbers in any nesting: text, ``Decimal``, ``Fraction``, integers, NumPy arrays.
      dtype: float32 or float64, the dtype of both halves.

    Returns:
      The pairs, in the shape of ``values``.

    Raises:
      InputError: a value is no finite number, or its text cannot be read.

    >>> tenth = from_exact(["0.1"], dtype=jnp.float32)
    >>> float(tenth.high[0]) + float(tenth.low[0]) - 0.1 < 1e-16
    True
    """
    _format(np.dtype(dtype))
    array = np.asarray(values) if isinstance(values, np.ndarray) else np.array(values, dtype=object)
    kind = np.dtype(dtype).type
    exact = [_fraction(value) for value in array.ravel().tolist()]
    high = np.array([kind(float(value)) for value in exact], dtype=dtype)
    low = [kind(float(value - Fraction(float(top)))) for value, top in zip(exact, high, strict=True)]
    return DoubleDouble(jnp.asarray(high.reshape(array.shape)), jnp.asarray(np.array(low, dtype).reshape(array.shape)))


def _fraction(value: Any) -> Fraction:
    try:
        return Fraction(value)
    except (ValueError, OverflowError, TypeError) as error:
        raise InputError(f"values: got {value!r}, needs finite numbers or their decimal text") from error


def two_sum(a: Array, b: Array) -> DoubleDouble:
    """``round(a + b)`` and its exact error, 6 operations, whichever is larger (Knuth 4.2.2, theorem B)."""
    total = a + b
    part = total - a
    return DoubleDouble(total, (a - (total - part)) + (b - part))


def quick_two_sum(a: Array, b: Array) -> DoubleDouble:
    """``two_sum`` in 3 operations where ``|a| >= |b|`` or ``a == 0`` (Dekker 1971)."""
    total = a + b
    return DoubleDouble(total, b - (total - a))


def split(value: Array) -> tuple[Array, Array]:
    """Two halves that add up to ``value``, of at most 26 bits (12 in float32), so that their products are exact."""
    form = _format(value.dtype)
    bits = lax.bitcast_convert_type(value, form.integer)
    half, mask = 1 << (form.dropped - 1), (1 << form.dropped) - 1
    rounded = (bits + form.integer(half)) & ~form.integer(mask)
    upper = lax.bitcast_convert_type(rounded, value.dtype)
    return upper, value - upper


def two_prod(a: Array, b: Array) -> DoubleDouble:
    """``round(a * b)`` and its exact error, barring underflow, from exact products alone (see the module's head)."""
    a_upper, a_lower = split(a)
    b_upper, b_lower = split(b)
    middle = two_sum(a_upper * b_lower, a_lower * b_upper)
    product = quick_two_sum(a_upper * b_upper, middle.high)
    return quick_two_sum(product.high, product.low + (middle.low + a_lower * b_lower))


def power_of_two(value: Array) -> Array:
    """The largest power of two not above ``|value|``, exactly; 1 for 0."""
    form = _format(value.dtype)
    bits = lax.bitcast_convert_type(jnp.abs(value), form.integer) & ~form.integer(form.mantissa)
    return jnp.where(value == 0, 1, lax.bitcast_convert_type(bits, value.dtype))


def negative(a: ArrayLike | DoubleDouble) -> DoubleDouble:
    """``-a``."""
    a = as_pair(a)
    return DoubleDouble(-a.high, -a.low)


def add(a: ArrayLike | DoubleDouble, b: ArrayLike | DoubleDouble) -> DoubleDouble:
    """``a + b`` to about two units of the pair's last place, also under cancellation (Hida, Li, Bailey 2001).

    >>> add(jnp.float32(1), jnp.float32(1e-12)).low == jnp.float32(1e-12)
    Array(True, dtype=bool)
    """
    a, b = as_pair(a), as_pair(b)
    high, low = two_sum(a.high, b.high), two_sum(a.low, b.low)
    high = quick_two_sum(high.high, high.low + low.high)
    return quick_two_sum(high.high, high.low + low.low)


def subtract(a: ArrayLike | DoubleDouble, b: ArrayLike | DoubleDouble) -> DoubleDouble:
    """``a - b``."""
    return add(a, negative(b))


def multiply(a: ArrayLike | DoubleDouble, b: ArrayLike | DoubleDouble) -> DoubleDouble:
    """``a * b``; the product of two plain arrays is exact."""
    product = two_prod(jnp.asarray(_high(a)), jnp.asarray(_high(b)))
    low = product.low
    if isinstance(b, DoubleDouble):
        low = low + _high(a) * b.low
    if isinstance(a, DoubleDouble):
        low = low + a.low * _high(b)
    return quick_two_sum(product.high, low)


def _high(value: ArrayLike | DoubleDouble) -> Any:
    return value.high if isinstance(value, DoubleDouble) else value


def divide(a: ArrayLike | DoubleDouble, b: ArrayLike | DoubleDouble) -> DoubleDouble:
    """``a / b`` by long division: two quotient digits and a remainder each (Hida, Li, Bailey 2001)."""
    a, b = as_pair(a), as_pair(b)
    first = a.high / b.high
    rest = subtract(a, multiply(b, first))
    second = rest.high / b.high
    rest = subtract(rest, multiply(b, second))
    quotient = quick_two_sum(first, second)
    return add(quotient, rest.high / b.high)


def sqrt(a: ArrayLike | DoubleDouble) -> DoubleDouble:
    """The square root: a working-precision root and one Newton step in pairs (Karp, Markstein 1997)."""
    a = as_pair(a)
    root = jnp.sqrt(a.high)
    rest = subtract(a, two_prod(root, root))
    correction = jnp.where(root == 0, 0, rest.high / (2 * jnp.where(root == 0, 1, root)))
    return quick_two_sum(root, correction)


def _carry(total: tuple[Array, ...], level: int, value: Array) -> tuple[Array, ...]:
    """Add ``value`` to part ``level`` of a running sum, and each rounding error to the part below; the last rounds."""
    parts = list(total)
    for part in range(level, len(parts) - 1):
        parts[part], value = two_sum(parts[part], value)
    parts[-1] = parts[-1] + value
    return tuple(parts)


def _accumulate(total: tuple[Array, ...], terms: tuple[tuple[int, Array], ...]) -> tuple[Array, ...]:
    """Add (level, value) terms to a running sum of parts (Ogita, Rump, Oishi, SumK); levels past the last join it."""
    below = None
    for level, value in terms:
        if level < len(total) - 1:
            total = _carry(total, level, value)
        else:
            below = value if below is None else below + value
    return total if below is None else (*total[:-1], total[-1] + below)


def _collect(parts: tuple[Array, ...]) -> DoubleDouble:
    """The pair nearest to a sum of parts."""
    total = quick_two_sum(*two_sum(parts[0], parts[1]))
    return total if len(parts) == 2 else add(total, parts[2])


def _reduce(terms: tuple[Array, ...], axis: int) -> DoubleDouble:
    zeros = (np.zeros((), terms[0].dtype),) * len(terms)
    total = lax.reduce(terms, zeros, lambda a, b: _accumulate(a, tuple(enumerate(b))), (axis % terms[0].ndim,))
    return _collect(total)


def _product_terms(a: Array | DoubleDouble, b: Array | DoubleDouble, num_parts: int) -> tuple[tuple[int, Array], ...]:
    """``a * b`` as (level, value) terms, value about ``u^level`` of the product, complete below ``u^num_parts``."""
    terms = list(enumerate(two_prod(_high(a), _high(b))))
    crosses = [(_high(a), b.low)] if isinstance(b, DoubleDouble) else []
    crosses += [(a.low, _high(b))] if isinstance(a, DoubleDouble) else []
    for left, right in crosses:
        terms += [(1, left * right)] if num_parts == 2 else enumerate(two_prod(left, right), start=1)
    if num_parts == 3 and isinstance(a, DoubleDouble) and isinstance(b, DoubleDouble):
        terms.append((2, a.low * b.low))
    return tuple(terms)


def sum(a: Float[Array, "..."] | DoubleDouble, *, axis: int = -1) -> DoubleDouble:
    """The sum along an axis, as if added in pairs and rounded once at the end (Ogita, Rump, Oishi 2005, Sum2).

    >>> sum(jnp.array([1e8, 1.0, -1e8], jnp.float32)).high
    Array(1., dtype=float32)
    """
    return _reduce(tuple(as_pair(a)), axis)


def dot(a: Array | DoubleDouble, b: Array | DoubleDouble, *, axis: int = -1, num_parts: int = 2) -> DoubleDouble:
    """``sum(a * b)`` along an axis; the arguments broadcast (Ogita, Rump, Oishi 2005, Dot2 and DotK).

    The relative error is about ``u^num_parts sum|a b| / |sum a b|``, and ``u^2`` for the pair, with ``u`` the rounding
    unit.

    Args:
      a: an array or pair.
      b: an array or pair.
      axis: the axis to sum.
      num_parts: floats that the running sum consists of: 2, or 3 at about twice the cost.

    >>> dot(jnp.array([1e5, 1, 1e5], jnp.float32), jnp.array([1e5, 1, -1e5], jnp.float32)).high
    Array(1., dtype=float32)
    """
    shape = jnp.broadcast_shapes(_high(a).shape, _high(b).shape)
    empty = (jnp.zeros(shape, _high(a).dtype),) * num_parts
    return _reduce(_accumulate(empty, _product_terms(a, b, num_parts)), axis)


def matmul(
    a: Array | DoubleDouble,
    b: Array | DoubleDouble,
    *,
    initial: Array | DoubleDouble | None = None,
    num_parts: int = 2,
) -> DoubleDouble:
    """``initial + a @ b``, ``[n, k] @ [k, m]`` or ``[n, k] @ [k]``, elementwise: about 30 operations a product.

    Each entry has the error of ``dot``: small against ``|initial| + |a| @ |b|`` at that entry. Loops over ``k`` and
    keeps ``[n, m]``, so that it needs no memory for products.

    Args:
      a: an array or pair ``[n, k]``.
      b: an array or pair ``[k, m]`` or ``[k]``.
      initial: what the product is added to, ``[n, m]`` or ``[n]``; default nothing.
      num_parts: as in ``dot``.

    >>> a = from_exact([["0.1", "0.2"]], dtype=jnp.float32)
    >>> c = matmul(a, jnp.array([3.0, -1.5], jnp.float32))
    >>> bool(abs(c.high[0]) < 1e-14)
    True
    """
    columns = jax.tree.map(jnp.transpose, a)
    outer = (slice(None),) + (None,) * (_high(b).ndim - 1)

    def body(index, total):
        column = jax.tree.map(lambda each: each[index][outer], columns)
        row = jax.tree.map(lambda each: each[index], b)
        return _accumulate(total, _product_terms(column, row, num_parts))

    shape = _high(a).shape[:1] + _high(b).shape[1:]
    start = as_pair(jnp.zeros(shape, _high(a).dtype) if initial is None else initial)
    total = (*start, *(jnp.zeros_like(start.high) for _ in range(num_parts - 2)))
    return _collect(lax.fori_loop(0, _high(b).shape[0], body, total))


def sliced_matmul(a: Array | DoubleDouble, b: Array | DoubleDouble, *, num_slices: int) -> DoubleDouble:
    """``[n, k] @ [k, m]`` in pairs through ordinary matrix products of bit slices, which are exact.

    ``a`` is cut, row by row, and ``b``, column by column, into slices of so few bits that their products add up
    without rounding; only the product with the last slices rounds. The error is about
    ``u 2^(-q (num_slices - 1))`` of the largest entry in the row times the largest in the column (``q`` near 23 bits in
    float64, 9 in float32) and never below that of a pair. It costs ``num_slices (num_slices + 1) / 2`` products.

    Needs matrix products that round as IEEE ones do: CPU and GPU, not the bfloat16 passes of a TPU.

    Source: Ozaki, Ogita, Oishi, Rump (2012), with the slices of Rump, Ogita, Oishi (2008), ExtractVector.
    """
    if num_slices < 2:
        raise InputError(f"num_slices: got {num_slices}, needs at least 2")
    a, b = as_pair(a), as_pair(b)
    digits = _format(a.high.dtype).digits
    bits = (digits - int(np.ceil(np.log2(num_slices * max(a.high.shape[1], 1))))) // 2
    left, left_tails = _slices(a, 1, num_slices, bits, digits)
    right, right_tails = _slices(b, 0, num_slices, bits, digits)
    left.append(left_tails[-1])
    groups = [jnp.zeros((a.high.shape[0], b.high.shape[1]), a.high.dtype)] * num_slices
    for index, piece in enumerate(left):
        partners = [*right[: num_slices - 1 - index], right_tails[num_slices - 1 - index]]
        product = jnp.matmul(piece, jnp.concatenate(partners, axis=1), precision=lax.Precision.HIGHEST)
        for offset, part in enumerate(jnp.split(product, len(partners), axis=1)):
            order = index + offset
            groups[order] = groups[order] + part
    total = tuple(as_pair(groups[0]))
    for group in groups[1:]:
        total = _carry(total, 0, group)
    return _collect(total)


def _slices(a: DoubleDouble, axis: int, num_slices: int, bits: int, digits: int) -> tuple[list[Array], list[Array]]:
    """``num_slices - 1`` slices of ``bits`` bits each, and what is left before each of them and after the last."""
    unit = 2 * power_of_two(jnp.max(jnp.abs(a.high), axis=axis, keepdims=True))
    slices, tails = [], [a.high]
    for _ in range(num_slices - 1):
        unit = unit * 2.0**-bits
        shift = unit * (1.5 * 2.0 ** (digits - 1))
        piece = (a.high + shift) - shift
        a = two_sum(a.high - piece, a.low)
        slices.append(piece)
        tails.append(a.high)
    return slices, tails


def where(condition: Array, a: ArrayLike | DoubleDouble, b: ArrayLike | DoubleDouble) -> DoubleDouble:
    """``a`` where ``condition`` holds, else ``b``."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), as_pair(a), as_pair(b))

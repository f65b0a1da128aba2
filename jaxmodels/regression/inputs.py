"""What a regression is given, checked and brought to one dtype: faults of shape and type raise here, once."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from jaxmodels.core import InputError, check_count, check_positive
from jaxmodels.numerics.double_double import DoubleDouble

DTYPES = (np.dtype("float32"), np.dtype("float64"))
NUMBERS: tuple[type, ...] = (int, float, np.integer, np.floating)


class Data(NamedTuple):
    """The arguments of a fit as arrays of one dtype; ``None`` where one was not given."""

    x: Array
    y: Array
    weights: Array | None
    mask: Array | None
    offset: Array | None
    l2: Array | None
    """``[d]``."""
    x_low: Array | None
    """The lower half where x is a pair."""
    y_low: Array | None


def read(x: Any, y: Any, *, weights: Any = None, mask: Any = None, offset: Any = None, l2: Any = 0.0) -> Data:
    """The arguments as ``Data``.

    Raises:
      InputError: a shape, a dtype or a constant ``l2`` that no fit can use.
    """
    (high, x_low), (y, y_low) = _halves("x", x), _halves("y", y)
    _check_shapes(high, y)
    dtype = jnp.result_type(high, y)
    data = Data(
        x=high,
        y=y,
        weights=None if weights is None else _rows("weights", weights, high),
        mask=None if mask is None else _mask(mask, high),
        offset=None if offset is None else _offset(offset, y),
        l2=_penalty(l2, high.shape[1]),
        x_low=x_low,
        y_low=y_low,
    )
    mask = None if data.mask is None else data.mask.astype(bool)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), data._replace(mask=None))._replace(mask=mask)


def explain_values(data: Data) -> None:
    """Raise ``InputError`` that names what is wrong with the values, on the host, after a fit has found a fault."""
    mask = np.ones(len(data.y), bool) if data.mask is None else np.asarray(data.mask)
    if not mask.any():
        raise InputError("mask: leaves out every row; pass a mask that is True for the rows to fit")
    weights = np.ones(len(data.y)) if data.weights is None else np.asarray(data.weights)
    _explain_nonfinite("weights", weights, mask)
    negative = np.flatnonzero(mask & (weights < 0))
    if negative.size:
        raise InputError(
            f"weights: {negative.size} negative, first {weights[negative[0]]:g} in row {negative[0]}; weights are at "
            "least 0, and 0 leaves a row out"
        )
    counts = mask & (weights > 0)
    if not counts.any():
        raise InputError("weights: 0 in every row; give the rows to fit a positive weight")
    for name, values in (("x", data.x), ("y", data.y), ("offset", data.offset)):
        if values is not None:
            _explain_nonfinite(name, np.asarray(values), counts)


def _explain_nonfinite(name: str, values: np.ndarray, counts: np.ndarray) -> None:
    by_row = ~np.isfinite(values.reshape(len(values), -1)) & counts[:, None]
    if by_row.any():
        rows = np.flatnonzero(by_row.any(axis=1))
        kind = "NaN" if np.isnan(values[rows[0]]).any() else "infinite"
        raise InputError(
            f"{name}: {by_row.sum()} values that are not finite in {rows.size} rows, first {kind} in row {rows[0]}; "
            "mask those rows out or impute them"
        )


def is_concrete(tree: PyTree) -> bool:
    """Whether every value can be read on this host."""
    leaves = jax.tree.leaves(tree)
    return all(not isinstance(leaf, Tracer) and getattr(leaf, "is_fully_addressable", True) for leaf in leaves)


def as_array(name: str, values: Any) -> Array | np.ndarray:
    """Raise unless they are real numbers or booleans."""
    if isinstance(values, np.ma.MaskedArray):
        raise InputError(f"{name}: got a masked array; pass {name}.filled(0), and mask= True for the rows to use")
    try:
        array = values if isinstance(values, jax.Array) else np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name}: rows of unequal length; pass a rectangular array") from error
    kind = getattr(array.dtype, "kind", "key")
    if kind == "c":
        raise InputError(f"{name}: got dtype {array.dtype}, needs real numbers")
    if kind not in ("biufV" if isinstance(values, jax.Array) else "biuf"):  # V is bfloat16
        raise InputError(f"{name}: got dtype {array.dtype}, needs numbers; encode or drop what is not a number")
    return array


def _halves(name: str, values: Any) -> tuple[Array, Array | None]:
    if not isinstance(values, DoubleDouble):
        return _floats(name, values), None
    return _floats(name, values.high), _floats(name, values.low)


def _floats(name: str, values: Any) -> Array:
    array = as_array(name, values)
    if jnp.asarray(array[:0] if array.ndim else array).dtype not in DTYPES:
        raise InputError(f"{name}: got dtype {array.dtype}, works in float32 and float64: use {name}.astype('float32')")
    return jnp.asarray(array)


def _check_shapes(x: Array, y: Array) -> None:
    if x.ndim != 2:
        fix = "x[:, None] for one feature" if x.ndim == 1 else "jax.vmap(linear.fit) for a batch of problems"
        raise InputError(f"x: got shape {x.shape}, needs [n, d]: use {fix}")
    if y.ndim not in (1, 2):
        raise InputError(f"y: got shape {y.shape}, needs [n], or [n, k] for k outputs")
    if x.shape[0] != y.shape[0]:
        raise InputError(f"y: got {y.shape[0]} rows for the {x.shape[0]} of x {x.shape}; pass the same rows of both")
    if 0 in x.shape or 0 in y.shape:
        raise InputError(f"x, y: nothing to fit in shapes {x.shape} and {y.shape}; pass a row and a column at least")


def _rows(name: str, values: Any, x: Array) -> Array:
    """One number a row."""
    array = as_array(name, values)
    if array.shape != x.shape[:1]:
        raise InputError(f"{name}: got shape {array.shape}, needs one number a row, {x.shape[:1]} as x {x.shape} has")
    return jnp.asarray(array)


def _mask(values: Any, x: Array) -> Array:
    array = _rows("mask", values, x)
    if array.dtype.kind not in "biu":
        raise InputError(f"mask: got dtype {array.dtype}, needs booleans; shares of a row are weights")
    return array


def _offset(values: Any, y: Array) -> Array:
    array = as_array("offset", values)
    if array.shape not in (y.shape, y.shape[:1]):
        raise InputError(f"offset: got shape {array.shape}, needs {y.shape[:1]} or that of y, {y.shape}")
    array = jnp.asarray(array)
    return jnp.broadcast_to(array[:, None], y.shape) if array.ndim < y.ndim else array


def _penalty(l2: Any, num_columns: int) -> Array | None:
    """``[d]``; ``None`` for a plain 0, which needs no work."""
    array = as_array("l2", l2)
    if array.shape not in ((), (num_columns,)):
        raise InputError(f"l2: got shape {array.shape}, needs one number or one a column of x, ({num_columns},)")
    if not isinstance(array, Tracer) and getattr(array, "is_fully_addressable", True):
        values = np.asarray(array)
        if not (np.isfinite(values) & (values >= 0)).all():
            raise InputError(f"l2: got {l2}, a penalty is finite and at least 0")
        if not isinstance(l2, jax.Array) and not values.any():
            return None
    return jnp.broadcast_to(jnp.asarray(array), (num_columns,))


def check_search(max_steps: Any, tolerance: Any, unit: str) -> None:
    """What a search ends by; under jit both may be traced."""
    if not isinstance(max_steps, Tracer):
        check_count("max_steps", max_steps)
    if tolerance is not None and not isinstance(tolerance, Tracer):
        check_positive("tolerance", tolerance, unit)


def check_solution(solution: Any, stats: type, source: str) -> None:
    """Raise unless it is what ``source`` returned."""
    if not isinstance(getattr(solution, "stats", None), stats):
        got = type(getattr(solution, "stats", solution)).__name__
        raise InputError(f"solution: got {got}, needs what {source} returned")


def check_confidence(confidence: Any) -> None:
    if isinstance(confidence, Tracer):
        return
    value = np.asarray(confidence)
    if value.ndim or value.dtype.kind not in "fiu" or not 0 < value < 1:
        raise InputError(f"confidence: {confidence} is not between 0 and 1; 95% is 0.95")

"""A nonlinear least-squares problem as data: what was given, checked, and the residuals that it stands for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from jaxmodels.core import InputError, check_count, check_positive
from jaxmodels.numerics import robust
from jaxmodels.regression.inputs import as_array

LOSSES = tuple(robust.LOSSES)


class Form(NamedTuple):
    """What is fixed when a fit is traced."""

    function: Callable
    loss: str
    linear: tuple
    tolerance: float | None
    max_steps: int


class Data(NamedTuple):
    params: PyTree
    x: PyTree
    y: Array
    sigma: Array | None
    mask: Array | None
    lower: Array | None
    """``[p]``."""
    upper: Array | None
    loss_scale: Array


# What was given ------------------------------------------------------------------------------------------------------


def form_of(function: Any, loss: Any, linear: Any, tolerance: Any, max_steps: Any) -> Form:
    if not callable(function):
        raise InputError(f"function: got {type(function).__name__}, needs a function (params, x) -> [n]")
    if loss not in LOSSES:
        raise InputError(f"loss: got {loss!r}, needs one of {', '.join(map(repr, LOSSES))}")
    names = () if linear is None else _names(linear)
    if names and loss != "squared":
        raise InputError(f"linear: got it with loss={loss!r}; parameters are eliminated for loss='squared' only")
    tolerance = None if tolerance is None else check_positive("tolerance", tolerance)
    return Form(function, loss, names, tolerance, check_count("max_steps", max_steps))


def _names(linear: Any) -> tuple:
    if isinstance(linear, str) or not np.iterable(linear):
        raise InputError(f"linear: got {linear!r}, needs a sequence of keys or indices: use [{linear!r}]")
    return tuple(name.item() if hasattr(name, "item") else name for name in linear)


def read(form: Form, params, x, y, *, sigma, mask, bounds, loss_scale) -> Data:
    y = jnp.asarray(as_array("y", y))
    params = jax.tree.map(lambda leaf: jnp.asarray(as_array("params", leaf)), params)
    size = len(ravel_pytree(params)[0])
    if not size or y.ndim == 0 or y.size < size:
        raise InputError(f"params: {size} numbers for {y.size} values of y; needs 1 at least, and as many values of y")
    dtype = jnp.result_type(y, *jax.tree.leaves(params))
    if dtype not in (jnp.float32, jnp.float64):
        raise InputError(f"y, params: got dtype {dtype}, works in float32 and float64: use y.astype('float32')")
    params, y = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, y))
    x = jax.tree.map(jnp.asarray, x)
    outputs = jax.eval_shape(form.function, params, x)
    if getattr(outputs, "shape", None) != y.shape:
        got = getattr(outputs, "shape", type(outputs).__name__)
        raise InputError(f"function: returns shape {got}, needs that of y, {y.shape}")
    if form.linear and num_linear(form, params) == size:
        raise InputError(f"linear: names every parameter of {form.linear}; leave one out, or use linear.fit")
    lower, upper = _bounds(bounds, params, dtype)
    if as_array("loss_scale", loss_scale).ndim:
        raise InputError(
            f"loss_scale: got shape {jnp.shape(loss_scale)}, needs one number; sigma has one for each value"
        )
    return Data(params, x, y, _sigma(sigma, y), _mask(mask, y), lower, upper, jnp.asarray(loss_scale, dtype))


def _sigma(sigma: Any, y: Array) -> Array | None:
    if sigma is None:
        return None
    sigma = jnp.asarray(as_array("sigma", sigma), y.dtype)
    if sigma.shape not in ((), y.shape):
        raise InputError(f"sigma: got shape {sigma.shape}, needs one number, or that of y, {y.shape}")
    return jnp.broadcast_to(sigma, y.shape)


def _mask(mask: Any, y: Array) -> Array | None:
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.shape != y.shape[:1] or mask.dtype != bool:
        raise InputError(f"mask: got shape {mask.shape} of {mask.dtype}, needs bool {y.shape[:1]}, one a row of y")
    return mask


def _bounds(bounds: Any, params: PyTree, dtype: Any) -> tuple[Array | None, Array | None]:
    if bounds is None:
        return None, None
    if not isinstance(bounds, tuple) or len(bounds) != 2:
        raise InputError(f"bounds: got {type(bounds).__name__}, needs a pair (lower, upper)")
    structure = jax.tree.structure(params)
    flat = []
    for name, bound in zip(("lower", "upper"), bounds, strict=True):
        bound = jax.tree.map(functools.partial(as_array, "bounds"), bound)
        if jax.tree.structure(bound) == jax.tree.structure(0.0) and jnp.ndim(bound) == 0:
            bound = jax.tree.map(lambda leaf, bound=bound: jnp.full(leaf.shape, bound, dtype), params)
        if jax.tree.structure(bound) != structure:
            raise InputError(f"bounds: {name} is {jax.tree.structure(bound)}, needs a number or {structure} as params")
        for leaf, own in zip(jax.tree.leaves(params), jax.tree.leaves(bound), strict=True):
            if jnp.shape(own) not in ((), leaf.shape):
                raise InputError(
                    f"bounds: {name} has shape {jnp.shape(own)}, needs {leaf.shape} as params, or a number"
                )
        bound = jax.tree.map(lambda leaf, own: jnp.broadcast_to(jnp.asarray(own, dtype), leaf.shape), params, bound)
        flat.append(ravel_pytree(bound)[0])
    return flat[0], flat[1]


def _is_linear(form: Form, params: PyTree) -> np.ndarray:
    """bool ``[p]``: the parameters that ``linear`` names."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    if len(leaves) == 1 and not leaves[0][0]:  # one array, whose entries are its top level
        leaf = leaves[0][1]
        names = np.repeat(np.arange(leaf.shape[0]), leaf[0].size) if leaf.ndim else np.zeros(1, int)
        names = names.tolist()
    else:
        names = [_name(path[0]) for path, leaf in leaves for _ in range(leaf.size)]
    unknown = [name for name in form.linear if name not in names]
    if unknown:
        raise InputError(f"linear: no {unknown[0]!r} at the top of params, which has {sorted(set(names), key=str)}")
    return np.array([name in form.linear for name in names])


def _name(entry: Any) -> str | int:
    """Of a dictionary's key, a field or an index."""
    return next(getattr(entry, kind) for kind in ("key", "name", "idx") if hasattr(entry, kind))


def linear_first(form: Form, params: PyTree) -> np.ndarray:
    """The linear parameters first."""
    return np.argsort(~_is_linear(form, params), kind="stable")


def num_linear(form: Form, params: PyTree) -> int:
    return int(_is_linear(form, params).sum())


def explain_values(form: Form, data: Data) -> None:
    """Raise ``InputError`` that names what is wrong with the values, on the host, after a fit has found a fault."""
    if data.mask is not None and not data.mask.any():
        raise InputError("mask: leaves out every row; pass a mask that is True for the rows to fit")
    if not 0 < data.loss_scale < np.inf:
        raise InputError(f"loss_scale: got {data.loss_scale:g}, needs a finite number above 0")
    if data.sigma is not None and bool(invalid(form, data._replace(lower=None))):
        raise InputError(f"sigma: got {data.sigma.min():g} in places, a standard deviation is above 0")
    if bool(invalid(form, data)):
        _explain_bounds(form, data)
    values = residuals(form, data, data.params)
    bad = np.flatnonzero(~np.isfinite(np.asarray(values)))
    if bad.size and not np.isfinite(np.asarray(weighted(data, data.y))).all():
        raise InputError("y: not finite in rows that count; mask those out")
    where = f"{bad.size} of {values.size} values, first {bad[0]}" if bad.size else "its derivative"
    raise InputError(f"function: not finite at the start in {where}; start elsewhere, or mask those rows out of x")


def _explain_bounds(form: Form, data: Data) -> None:
    lower, upper, start = (np.asarray(each) for each in (data.lower, data.upper, ravel_pytree(data.params)[0]))
    crossed = np.flatnonzero(~(lower < upper))
    if crossed.size:
        i = crossed[0]
        raise InputError(f"bounds: lower {lower[i]:g} is not below upper {upper[i]:g} (parameter {i}); swap them")
    linear = np.flatnonzero(_is_linear(form, data.params) & (np.isfinite(lower) | np.isfinite(upper)))
    if linear.size:
        raise InputError(f"bounds: on parameter {linear[0]}, which linear= eliminates; leave it out of one of them")
    i = np.flatnonzero((start < lower) | (start > upper))[0]
    raise InputError(f"params: start {start[i]:g} of parameter {i} lies outside its bounds {lower[i]:g}, {upper[i]:g}")


# What is minimised ---------------------------------------------------------------------------------------------------


def weighted(data: Data, values: Array) -> Array:
    """Divided by sigma, 0 where masked out; flat."""
    # One reciprocal a value, and not a quotient for each of its derivatives too.
    values = values if data.sigma is None else jnp.where(jnp.isinf(data.sigma), 0, values * (1 / data.sigma))
    return (values if data.mask is None else jnp.where(_rows(data.mask, values), values, 0)).ravel()


def _rows(mask: Array, values: Array) -> Array:
    return mask.reshape(-1, *[1] * (values.ndim - 1))


def residuals(form: Form, data: Data, params: PyTree) -> Array:
    y, x = data.y, data.x
    if data.mask is not None:
        # A row that counts stands in for those that do not, so that no derivative of theirs is NaN.
        first = jnp.argmax(data.mask)

        def clean(leaf):
            by_row = jnp.ndim(leaf) > 0 and len(leaf) == len(y)
            return jnp.where(_rows(data.mask, leaf), leaf, leaf[first]) if by_row else leaf

        x, y = jax.tree.map(clean, x), clean(y)
    return weighted(data, y - form.function(params, x).astype(y.dtype))


def scale(form: Form, data: Data) -> Array | float:
    """The unit of the residuals, where it matters."""
    return 1.0 if form.loss == "squared" else data.loss_scale


def scaled_residuals(form: Form, data: Data, params: PyTree) -> Array:
    values = residuals(form, data, params)
    return values if form.loss == "squared" else values * (1 / data.loss_scale)


def cost(form: Form, data: Data, params: PyTree) -> Array:
    values = robust.LOSSES[form.loss](scaled_residuals(form, data, params) ** 2).value
    return scale(form, data) ** 2 * jnp.sum(values)


def invalid(form: Form, data: Data) -> Array:
    """Values with which there is nothing to minimise."""
    invalid = ~((data.loss_scale > 0) & jnp.isfinite(data.loss_scale))
    if data.mask is not None:
        invalid |= ~jnp.any(data.mask)
    if data.sigma is not None:
        usable = data.sigma > 0
        invalid |= ~jnp.all(usable if data.mask is None else usable | ~_rows(data.mask, usable))
    if data.lower is not None and data.upper is not None:
        start = ravel_pytree(data.params)[0]
        invalid |= ~jnp.all(data.lower < data.upper)
        outside = (start < data.lower) | (start > data.upper)
        linear = np.isin(np.arange(len(start)), linear_first(form, data.params)[: num_linear(form, data.params)])
        invalid |= jnp.any(jnp.where(linear, jnp.isfinite(data.lower) | jnp.isfinite(data.upper), outside))
    return invalid

"""Resizing as two matrix products, columns then rows, whose weights are a filter sampled at the output's centres.

    out = R images C',   R[p, i] = f((i + 1/2 - c_p) / s) / sum_i f(...),   c_p = start + (p + 1/2) length / size

``f`` is the triangle (bilinear) or Keys' cubic with a = -1/2, and ``s = max(length / size, 1)`` widens it when the
image shrinks (antialiasing). These are Pillow's weights, for whole images and for boxes of fractional pixels
(``Image.resize(..., box=...)``). Keys (1981), Cubic convolution interpolation for digital image processing.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmodels.core import InputError

METHODS = ("bilinear", "bicubic")


def resample(
    images: Float[Array, "n h w c"],
    rows: Float[Array | np.ndarray, "*n p h"],
    columns: Float[Array | np.ndarray, "*n q w"],
    method: str,
) -> Float[Array, "n p q c"]:
    """Apply weight matrices, one for all images or one each.

    The cubic overshoots at edges: it is clipped to 0..255 after each axis, columns first, as Pillow does. In full
    precision: the 10-bit products of an accelerator's default would cost a grey level.
    """
    row_axes, column_axes = ("nph" if rows.ndim == 3 else "ph"), ("nqw" if columns.ndim == 3 else "qw")
    einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    clip = functools.partial(jnp.clip, min=0, max=255) if method == "bicubic" else lambda images: images
    images = clip(einsum(f"{column_axes},nhwc->nhqc", columns.astype(images.dtype), images))
    return clip(einsum(f"{row_axes},nhqc->npqc", rows.astype(images.dtype), images))


@functools.cache
def whole(old_size: int, size: int, method: str, antialias: bool) -> np.ndarray:
    """Weights ``[size, old_size]`` that resize a whole side, computed on the host in float64."""
    check_method(method)
    return _weights(np, np.float64(0), np.float64(old_size), old_size, size, method, antialias)


def boxes(
    starts: Float[Array, "n"], lengths: Float[Array, "n"], old_size: int, size: int, method: str
) -> Float[Array, "n size old_size"]:
    """Weights that resize ``[start, start + length)`` of a side, in pixels, an image each; antialiased."""
    return jax.vmap(lambda start, length: _weights(jnp, start, length, old_size, size, method, True))(starts, lengths)


def check_method(method: str) -> None:
    if method not in METHODS:
        raise InputError(f"method={method!r} is not one of {', '.join(METHODS)}")


def _weights(xp: ModuleType, start: Any, length: Any, old_size: int, size: int, method: str, antialias: bool) -> Any:
    step = length / size
    centers = start + (xp.arange(size, dtype=step.dtype) + 0.5) * step
    pixels = xp.arange(old_size, dtype=step.dtype) + 0.5
    width = xp.maximum(step, 1) if antialias else 1
    weights = (_triangle if method == "bilinear" else _cubic)(xp, (pixels - centers[:, None]) / width)
    return weights / weights.sum(1, keepdims=True)


def _triangle(xp: ModuleType, x: Any) -> Any:
    return xp.maximum(1 - abs(x), 0)


def _cubic(xp: ModuleType, x: Any) -> Any:
    x = abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return xp.where(x < 1, near, xp.where(x < 2, far, 0))

"""Losses that grow more slowly than the square, so that a few wild residuals do not decide a fit.

    cost = c^2 sum_i rho((r_i / c)^2),    c the size from which a residual counts as large

A loss is given by ``rho`` and its first two derivatives; near 0 each of them is the square.

Sources: Triggs, McLauchlan, Hartley, Fitzgibbon, Bundle adjustment: a modern synthesis (2000), section 4.3, for
weighting the Jacobian with both derivatives; Huber and Ronchetti, Robust Statistics (2009), for the losses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

# Where a loss is concave the second derivative may leave a row no weight, or less; this share of the first one stays.
LEAST_CURVATURE = 0.1


class Rho(NamedTuple):
    """A loss of ``s = (r / c)^2`` and its derivatives, elementwise."""

    value: Array
    slope: Array
    curvature: Array
    """``slope + 2 s slope'``: half the second derivative with respect to ``r / c``."""


def squared(s: Float[Array, "..."]) -> Rho:
    """The square: least squares."""
    return Rho(s, jnp.ones_like(s), jnp.ones_like(s))


def huber(s: Float[Array, "..."]) -> Rho:
    """The square up to c, then linear."""
    near = s <= 1
    root = jnp.sqrt(jnp.where(near, 1, s))
    return Rho(jnp.where(near, s, 2 * root - 1), 1 / root, near.astype(s.dtype))


def soft_l1(s: Float[Array, "..."]) -> Rho:
    """``2 (sqrt(1 + s) - 1)``: a smooth Huber."""
    root = jnp.sqrt(1 + s)
    return Rho(2 * s / (root + 1), 1 / root, 1 / root**3)


def cauchy(s: Float[Array, "..."]) -> Rho:
    """``log(1 + s)``: the likelihood of Cauchy's distribution."""
    return Rho(jnp.log1p(s), 1 / (1 + s), (1 - s) / (1 + s) ** 2)


def tukey(s: Float[Array, "..."]) -> Rho:
    """The bisquare: constant beyond c, where a residual has no influence at all."""
    rest = jnp.maximum(1 - s, 0)
    return Rho((1 - rest**3) / 3, rest**2, rest * (1 - 5 * s))


LOSSES: dict[str, Callable[[Array], Rho]] = {loss.__name__: loss for loss in (squared, huber, soft_l1, cauchy, tukey)}

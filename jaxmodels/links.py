"""Links between the mean of the targets and the outputs of a model: ``link(mean) = outputs``.

Those of probabilities also give the logarithms of both tails, so that nothing is lost where the mean rounds to 0 or 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr, ndtr, ndtri
from jaxtyping import Array, Float

from jaxmodels.core import InputError, cached_factory

# Terms of the expansion of Mill's ratio; with the bounds below the rest is below eps.
_MILLS_TERMS = 8


class Link(NamedTuple):
    """A monotone function of the mean and its inverse."""

    name: str
    link: Callable[[Array], Array]
    """``mean -> outputs``."""
    mean: Callable[[Array], Array]
    """``outputs -> mean``; NaN outside its domain."""
    tails: Callable[[Array], tuple[Array, Array]] | None = None
    """``outputs -> (log mean, log(1 - mean))`` of a link that maps (0, 1) onto all numbers."""
    positive: bool = False
    """Whether outputs have to be positive."""


# Functions that hold their digits -------------------------------------------------------------------------------------


@jax.custom_jvp
def sigmoid(outputs: Float[Array, "..."]) -> Float[Array, "..."]:
    """``1 / (1 + exp(-outputs))``, whose derivatives keep their digits at both ends.

    >>> f"{jax.grad(sigmoid)(30.0):.5g}"        # 1 - sigmoid(30) is 0 in float32
    '9.3576e-14'
    """
    return jax.nn.sigmoid(outputs)


@sigmoid.defjvp
def _(primals, tangents):
    (outputs,) = primals
    return sigmoid(outputs), sigmoid(outputs) * sigmoid(-outputs) * tangents[0]


@jax.custom_jvp
def softplus(outputs: Float[Array, "..."]) -> Float[Array, "..."]:
    """``log(1 + exp(outputs))``, with the derivatives of ``sigmoid``.

    >>> f"{jax.grad(jax.grad(softplus))(30.0):.5g}"
    '9.3576e-14'
    """
    return jnp.maximum(outputs, 0) + jnp.log1p(jnp.exp(-jnp.abs(outputs)))


@softplus.defjvp
def _(primals, tangents):
    (outputs,) = primals
    return softplus(outputs), sigmoid(outputs) * tangents[0]


@jax.custom_jvp
def log_normal_cdf(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """``log P(Z <= z)`` of the standard normal, whose derivatives keep their digits in the lower tail.

    >>> f"{jax.grad(jax.grad(log_normal_cdf))(-1e4):.5f}"       # tends to -1
    '-1.00000'
    """
    upper = jnp.log1p(-ndtr(-jnp.maximum(z, 0)))  # log_ndtr keeps no digits there
    return jnp.where(z > 0, upper, log_ndtr(jnp.minimum(z, 0)))


@log_normal_cdf.defjvp
def _(primals, tangents):
    (z,) = primals
    return log_normal_cdf(z), _inverse_mills(z) * tangents[0]


@jax.custom_jvp
def _inverse_mills(z: Array) -> Array:
    """The derivative, ``density(z) / P(Z <= z)``."""
    return _inverse_mills_and_excess(z)[0]


@_inverse_mills.defjvp
def _(primals, tangents):
    ratio, excess = _inverse_mills_and_excess(primals[0])
    return ratio, -ratio * excess * tangents[0]


def _inverse_mills_and_excess(z: Array) -> tuple[Array, Array]:
    """The ratio and ``z + ratio``, from the asymptotic expansion where z is far below 0."""
    bound = -30.0 if z.dtype == jnp.float64 else -10.0
    near, far = jnp.maximum(z, bound), jnp.minimum(z, bound)
    ratio = jnp.exp(-(near**2) / 2 - math.log(2 * math.pi) / 2 - log_ndtr(near))
    inverse_square = 1 / far**2
    # density / (|z| P) = 1 / (1 - rest), rest = 1/z^2 - 3/z^4 + 15/z^6 - ...
    rest = jnp.zeros_like(far)
    for term in reversed(range(1, _MILLS_TERMS + 1)):
        rest = (2 * term - 1) * inverse_square * (1 - rest)
    tail = z < bound
    excess = -far * rest / (1 - rest)
    return jnp.where(tail, -far / (1 - rest), ratio), jnp.where(tail, excess, near + ratio)


@jax.custom_jvp
def log1m_exp_m_exp(outputs: Float[Array, "..."]) -> Float[Array, "..."]:
    """``log(1 - exp(-exp(outputs)))``, the log mean of the complementary log-log link.

    >>> f"{jax.grad(log1m_exp_m_exp)(-40.0):.3f} {jax.grad(log1m_exp_m_exp)(40.0):.3f}"
    '1.000 0.000'
    """
    small = outputs < -1
    rate = bounded_exp(outputs)
    low = jnp.where(small, outputs, -1.0)
    # log((1 - exp(-r)) / r) where r is small, for log r is known exactly
    below = low + jnp.log(-jnp.expm1(-jnp.exp(low)) / jnp.exp(low))
    return jnp.where(small, below, jnp.log1p(-jnp.exp(-jnp.where(small, 1.0, rate))))


@log1m_exp_m_exp.defjvp
def _(primals, tangents):
    (outputs,) = primals
    return log1m_exp_m_exp(outputs), _relative_hazard(outputs) * tangents[0]


@jax.custom_jvp
def _relative_hazard(outputs: Array) -> Array:
    """``h = r / (exp(r) - 1)`` with ``r = exp(outputs)``."""
    rate = _rate(outputs)
    return rate / jnp.expm1(rate)


@_relative_hazard.defjvp
def _(primals, tangents):
    (outputs,) = primals
    hazard, rate = _relative_hazard(outputs), _rate(outputs)
    small = jnp.minimum(rate, 0.01)
    series = -small / 2 - small**2 / 12 + small**4 / 720
    return hazard, hazard * jnp.where(rate < 0.01, series, 1 - rate - hazard) * tangents[0]


def _rate(outputs: Array) -> Array:
    """``exp(outputs)`` within bounds where its own exponential is finite and not 0."""
    limits = jnp.finfo(outputs.dtype)
    return jnp.clip(bounded_exp(outputs), float(limits.tiny), -0.9 * math.log(float(limits.tiny)))


def bounded_exp(outputs: Float[Array, "..."]) -> Float[Array, "..."]:
    """``exp``, held below the largest number."""
    return jnp.exp(jnp.minimum(outputs, 0.9 * math.log(float(jnp.finfo(outputs.dtype).max))))


# Links ----------------------------------------------------------------------------------------------------------------


def _cloglog_tails(outputs: Array) -> tuple[Array, Array]:
    return log1m_exp_m_exp(outputs), -bounded_exp(outputs)


def _reversed(pair: tuple[Array, Array]) -> tuple[Array, Array]:
    return pair[1], pair[0]


identity = Link("identity", lambda mean: mean, lambda outputs: outputs)
log = Link("log", jnp.log, jnp.exp)
logit = Link(
    "logit",
    lambda mean: jnp.log(mean) - jnp.log1p(-mean),
    sigmoid,
    lambda outputs: (-softplus(-outputs), -softplus(outputs)),
)
probit = Link("probit", ndtri, ndtr, lambda outputs: (log_normal_cdf(outputs), log_normal_cdf(-outputs)))
cloglog = Link(
    "cloglog",
    lambda mean: jnp.log(-jnp.log1p(-mean)),
    lambda outputs: -jnp.expm1(-bounded_exp(outputs)),
    _cloglog_tails,
)
loglog = Link(
    "loglog",
    lambda mean: -jnp.log(-jnp.log(mean)),
    lambda outputs: jnp.exp(-bounded_exp(-outputs)),
    lambda outputs: _reversed(_cloglog_tails(-outputs)),
)


@cached_factory
def power(exponent: float) -> Link:
    """``mean^exponent = outputs``, for positive outputs; 0 is the logarithm and 1 the identity.

    >>> power(2.0).mean(jnp.array([4.0, -1.0])).tolist()
    [2.0, nan]
    """
    if isinstance(exponent, bool) or not isinstance(exponent, (int, float)) or not math.isfinite(exponent):
        raise InputError(f"exponent: got {exponent!r}, needs a finite number")
    if exponent in (0, 1):
        return identity if exponent else log
    return Link(
        f"power({exponent:g})", functools.partial(_raise, exponent), functools.partial(_raise, 1 / exponent), None, True
    )


def _raise(exponent: float, values: Array) -> Array:
    safe = jnp.where(values > 0, values, 1)
    exact = {-1.0: lambda v: 1 / v, 0.5: jnp.sqrt, 2.0: jnp.square, -0.5: jax.lax.rsqrt, -2.0: lambda v: 1 / v**2}
    return jnp.where(values > 0, exact.get(exponent, lambda v: v**exponent)(safe), jnp.nan)


inverse = power(-1.0)._replace(name="inverse")
inverse_squared = power(-2.0)._replace(name="inverse_squared")
sqrt = power(0.5)._replace(name="sqrt")

LINKS = {each.name: each for each in (identity, log, logit, probit, cloglog, loglog, inverse, inverse_squared, sqrt)}


def get(link: str | Link) -> Link:
    """The link of that name, or the link itself.

    Raises:
      InputError: there is none of that name.
    """
    if isinstance(link, Link):
        return link
    if link not in LINKS:
        raise InputError(f"link: got {link!r}, needs one of {', '.join(LINKS)} or links.power(exponent)")
    return LINKS[link]

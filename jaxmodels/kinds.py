"""What tells families apart: the loss in the outputs, information, variance, density.

Every function takes the outputs of a model and a link, so that it can be written without the mean where that rounds.
The kinds at the end of each section are what ``families`` puts names to.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln, xlogy
from jaxtyping import Array

from jaxmodels import links
from jaxmodels.links import Link
from jaxmodels.numerics.distributions import stirling_error


class Kind(NamedTuple):
    """The functions of a family, elementwise but for ``categorical``, whose last axis is that of the classes."""

    name: str
    link: str
    """The usual one, by name."""
    canonical: str | None
    """The one under which expected and observed information agree."""
    loss: Callable
    """``(outputs, targets, link, parameter)``: half the deviance up to a function of the targets."""
    information: Callable
    """``(outputs, link, parameter)``: the expected second derivative of the loss."""
    saturated: Callable
    """``(targets, parameter)``: the least value of the loss."""
    variance: Callable
    """``(mean, parameter)``."""
    supports: Callable
    """``(targets) -> bool``: whether a mean inside the family's range admits them."""
    support: str
    """The same in words."""
    normaliser: Callable | None = None
    """``(targets, dispersion, parameter)``: minus log density less half the deviance over the dispersion."""
    draw: Callable | None = None
    """``(key, mean, dispersion, parameter)``."""
    boundary: Callable | None = None
    """``(targets) -> -1, 0, 1``: where the loss is least, at outputs of -infinity, in between, at infinity."""
    fixed_dispersion: bool = False


# Variance a power of the mean -----------------------------------------------------------------------------------------


def _powers(outputs: Array, link: Link, power: Any) -> Callable:
    """``exponent -> mean^exponent``; NaN where the mean is not positive."""
    if link.name == "log":
        return lambda exponent: jnp.exp(exponent * outputs)
    mean = link.mean(outputs)
    mean = jnp.where(mean > 0, mean, jnp.nan)
    return lambda exponent: mean**exponent


def _log_mean(outputs: Array, link: Link) -> Array:
    if link.name == "log":
        return outputs
    mean = link.mean(outputs)
    return jnp.where(mean > 0, jnp.log(jnp.where(mean > 0, mean, 1)), jnp.nan)


def _power_loss(outputs, targets, link, parameter, *, power=None):
    power = parameter if power is None else power
    if isinstance(power, (int, float)) and power in (0, 1, 2):
        if power == 0:
            return (targets - link.mean(outputs)) ** 2 / 2
        log_mean, raised = _log_mean(outputs, link), _powers(outputs, link, power)
        return raised(1) - targets * log_mean if power == 1 else log_mean + targets * raised(-1)
    raised = _powers(outputs, link, power)
    return raised(2 - power) / (2 - power) - targets * raised(1 - power) / (1 - power)


def _power_saturated(targets, parameter, *, power=None):
    power = parameter if power is None else power
    if isinstance(power, (int, float)) and power in (0, 1, 2):
        one = {0: lambda y: 0 * y, 1: lambda y: y - xlogy(y, y), 2: lambda y: jnp.log(y) + 1}
        return one[int(power)](targets)
    return targets ** (2 - power) * (1 / (2 - power) - 1 / (1 - power))


def _power_information(outputs, link, parameter, *, power=None):
    power = parameter if power is None else power
    if link.name == "log":
        return jnp.exp((2 - power) * outputs)
    mean, slope = _mean_and_slope(outputs, link)
    return slope**2 if isinstance(power, (int, float)) and power == 0 else slope**2 / mean**power


def _power_variance(mean, parameter, *, power=None):
    return mean ** (parameter if power is None else power)


def _mean_and_slope(outputs: Array, link: Link) -> tuple[Array, Array]:
    return jax.jvp(link.mean, (outputs,), (jnp.ones_like(outputs),))


def of_power(name: str, link: str, canonical: str | None, power: float | None, supports, support, **functions) -> Kind:
    given = {"power": power}
    return Kind(
        name=name,
        link=link,
        canonical=canonical,
        loss=functools.partial(_power_loss, **given),
        information=functools.partial(_power_information, **given),
        saturated=functools.partial(_power_saturated, **given),
        variance=functools.partial(_power_variance, **given),
        supports=supports,
        support=support,
        **functions,
    )


def _draw_inverse_gaussian(key, mean, dispersion, parameter):
    """Michael, Schucany and Haas (1976)."""
    first, second = jax.random.split(key)
    ratio = mean * dispersion * jax.random.normal(first, mean.shape, mean.dtype) ** 2
    # The smaller root of a quadratic, from the larger one and their product.
    root = mean / (1 + ratio / 2 + jnp.sqrt(ratio + ratio**2 / 4))
    below = jax.random.uniform(second, mean.shape, mean.dtype) <= mean / (mean + root)
    return jnp.where(below, root, mean**2 / root)


def _draw_tweedie(key, mean, dispersion, power):
    """A Poisson number of gamma jumps."""
    first, second = jax.random.split(key)
    rate = mean ** (2 - power) / (dispersion * (2 - power))
    number = jax.random.poisson(first, rate).astype(mean.dtype)
    shape = number * (2 - power) / (power - 1)
    scale = dispersion * (power - 1) * mean ** (power - 1)
    return jnp.where(number > 0, scale * jax.random.gamma(second, jnp.where(number > 0, shape, 1)), 0)


def _gamma_normaliser(targets, dispersion, parameter):
    shape = 1 / jnp.asarray(dispersion, targets.dtype)
    return shape - xlogy(shape, shape) + gammaln(shape) + jnp.log(targets)


def _poisson_normaliser(targets, dispersion, parameter):
    return targets - xlogy(targets, targets) + gammaln(targets + 1)


def at_least_0(targets):
    return (targets >= 0) & jnp.isfinite(targets)


def above_0(targets):
    return (targets > 0) & jnp.isfinite(targets)


def zero_is_low(targets):
    return jnp.where(targets == 0, -1, 0)


GAUSSIAN = of_power(
    "gaussian", "identity", "identity", 0, jnp.isfinite, "finite",
    normaliser=lambda targets, dispersion, _: 0 * targets + jnp.log(2 * math.pi * dispersion) / 2,
    draw=lambda key, mean, dispersion, _: mean + jnp.sqrt(dispersion) * jax.random.normal(key, mean.shape, mean.dtype),
)  # fmt: skip
POISSON = of_power(
    "poisson", "log", "log", 1, at_least_0, "counts, at least 0",
    normaliser=_poisson_normaliser,
    draw=lambda key, mean, *_: jax.random.poisson(key, mean).astype(mean.dtype),
    boundary=zero_is_low,
    fixed_dispersion=True,
)  # fmt: skip
GAMMA = of_power(
    "gamma", "inverse", "inverse", 2, above_0, "above 0",
    normaliser=_gamma_normaliser,
    draw=lambda key, mean, dispersion, _: mean * dispersion * jax.random.gamma(key, 1 / dispersion + 0 * mean),
)  # fmt: skip
INVERSE_GAUSSIAN = of_power(
    "inverse_gaussian", "inverse_squared", "inverse_squared", 3, above_0, "above 0",
    normaliser=lambda targets, dispersion, _: jnp.log(2 * math.pi * dispersion * targets**3) / 2,
    draw=_draw_inverse_gaussian,
)  # fmt: skip
TWEEDIE = of_power(
    "tweedie", "log", None, None, at_least_0, "at least 0", draw=_draw_tweedie, boundary=zero_is_low
)  # fmt: skip

# Probabilities --------------------------------------------------------------------------------------------------------


def _log_tails(outputs: Array, link: Link) -> tuple[Array, Array]:
    if link.tails is not None:
        return link.tails(outputs)
    mean = link.mean(outputs)
    inside = (mean > 0) & (mean < 1)
    mean = jnp.where(inside, mean, 0.5)
    return jnp.where(inside, jnp.log(mean), jnp.nan), jnp.where(inside, jnp.log1p(-mean), jnp.nan)


def _bernoulli_loss(outputs, targets, link, parameter):
    log_mean, log_rest = _log_tails(outputs, link)
    return -(targets * log_mean + (1 - targets) * log_rest)


def _bernoulli_information(outputs, link, parameter):
    tails = functools.partial(_log_tails, link=link)
    _, (up, down) = jax.jvp(tails, (outputs,), (jnp.ones_like(outputs),))
    return -up * down


def _in_unit_interval(targets):
    return (targets >= 0) & (targets <= 1)


BERNOULLI = Kind(
    name="bernoulli",
    link="logit",
    canonical="logit",
    loss=_bernoulli_loss,
    information=_bernoulli_information,
    saturated=lambda targets, _: -xlogy(targets, targets) - xlogy(1 - targets, 1 - targets),
    variance=lambda mean, _: mean * (1 - mean),
    supports=_in_unit_interval,
    support="0, 1, or shares in between",
    normaliser=lambda targets, dispersion, _: -xlogy(targets, targets) - xlogy(1 - targets, 1 - targets),
    draw=lambda key, mean, *_: jax.random.bernoulli(key, mean).astype(mean.dtype),
    boundary=lambda targets: jnp.where(targets == 0, -1, jnp.where(targets == 1, 1, 0)),
    fixed_dispersion=True,
)


def _binomial_normaliser(targets, dispersion, parameter):
    """Of ``(successes, failures)``: the entropy of their shares less the logarithm of the number of arrangements."""
    trials = jnp.sum(targets, axis=-1)
    entropy = xlogy(trials, trials) - jnp.sum(xlogy(targets, targets), axis=-1)
    return entropy - gammaln(trials + 1) + jnp.sum(gammaln(targets + 1), axis=-1)


BINOMIAL = BERNOULLI._replace(
    name="binomial", normaliser=_binomial_normaliser, draw=None, support="pairs (successes, failures), at least 0"
)


def _categorical_loss(outputs, targets, link, parameter):
    total = jax.nn.logsumexp(outputs, axis=-1)
    return jnp.sum(targets, axis=-1) * total - jnp.sum(targets * outputs, axis=-1)


def _entropy(targets, *_):
    return -jnp.sum(xlogy(targets, targets), axis=-1)


CATEGORICAL = Kind(
    name="categorical",
    link="softmax",
    canonical="softmax",
    loss=_categorical_loss,
    information=lambda outputs, *_: _softmax_information(jax.nn.softmax(outputs, axis=-1)),
    saturated=_entropy,
    variance=lambda mean, _: mean * (1 - mean),
    supports=_in_unit_interval,
    support="classes 0 ... k - 1, or rows of probabilities",
    normaliser=lambda targets, dispersion, parameter: _entropy(targets) if targets.ndim > 1 else 0 * targets,
    draw=lambda key, mean, *_: jax.random.categorical(key, jnp.log(mean)),
    fixed_dispersion=True,
)


def _softmax_information(mean: Array) -> Array:
    return mean[..., :, None] * (jnp.eye(mean.shape[-1], dtype=mean.dtype) - mean[..., None, :])


SOFTMAX = Link("softmax", jnp.log, functools.partial(jax.nn.softmax, axis=-1))

# Counts ---------------------------------------------------------------------------------------------------------------


def _negative_binomial_loss(outputs, targets, link, dispersion):
    log_mean = _log_mean(outputs, link)
    return (targets + 1 / dispersion) * links.softplus(log_mean + jnp.log(dispersion)) - targets * log_mean


def _negative_binomial_information(outputs, link, dispersion):
    if link.name == "log":
        return links.sigmoid(outputs + jnp.log(dispersion)) / dispersion
    mean, slope = _mean_and_slope(outputs, link)
    return slope**2 / _negative_binomial_variance(mean, dispersion)


def _negative_binomial_variance(mean, dispersion):
    return mean * (1 + dispersion * mean)


def _negative_binomial_saturated(targets, dispersion):
    return (targets + 1 / dispersion) * jnp.log1p(dispersion * targets) - xlogy(targets, targets)


def _negative_binomial_normaliser(targets, _, dispersion):
    """Poisson's and what the dispersion adds; of gamma functions only Stirling's errors differ, so no digit cancels."""
    number = 1 / jnp.asarray(dispersion, targets.dtype)
    added = jnp.log1p(targets / number) / 2 + stirling_error(number) - stirling_error(targets + number)
    return _poisson_normaliser(targets, None, None) + added


def _draw_negative_binomial(key, mean, _, dispersion):
    first, second = jax.random.split(key)
    rate = mean * dispersion * jax.random.gamma(first, 1 / dispersion + 0 * mean)
    return jax.random.poisson(second, rate).astype(mean.dtype)


NEGATIVE_BINOMIAL = Kind(
    name="negative_binomial",
    link="log",
    canonical=None,
    loss=_negative_binomial_loss,
    information=_negative_binomial_information,
    saturated=_negative_binomial_saturated,
    variance=_negative_binomial_variance,
    supports=at_least_0,
    support="counts, at least 0",
    normaliser=_negative_binomial_normaliser,
    draw=_draw_negative_binomial,
    boundary=zero_is_low,
    fixed_dispersion=True,
)

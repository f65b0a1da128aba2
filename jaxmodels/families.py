"""Families: what the outputs of a model say of its targets.

    E[y] = m,  link(m) = outputs,  Var[y] = dispersion V(m) / weight

A ``Family`` reads the outputs of any model, a linear predictor or a network's last layer: ``mean``, ``nll``,
``deviance``, ``variance``, ``sample``; ``glm`` fits them by Newton's method. Losses are written in the outputs, not in
the mean, so that they and their derivatives keep their digits where the mean rounds to 0 or 1.

Source: McCullagh and Nelder, Generalized Linear Models (1989).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxmodels import kinds, links
from jaxmodels.core import InputError, cached_factory, check_count
from jaxmodels.kinds import Kind
from jaxmodels.links import Link


class Family(NamedTuple):
    """A distribution of the targets and the link of its mean to the outputs; the functions below make them.

    Hashable while ``parameter`` is a number.
    """

    kind: Kind
    link: Link
    parameter: Any = None
    """The negative binomial's dispersion, tweedie's power, the number of classes; ``None`` for most."""

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def canonical(self) -> bool:
        return self.link.name == self.kind.canonical

    def mean(self, outputs: Float[Array, "n *k"]) -> Float[Array, "n *k"]:
        """The mean of the targets (of binomial, of the share of successes); NaN where the link has none."""
        return self.link.mean(outputs)

    def variance(self, mean: Float[Array, "n *k"]) -> Float[Array, "n *k"]:
        """``V(mean)``: the variance of a target over the dispersion."""
        return self.kind.variance(mean, self.parameter)

    def deviance(self, outputs: Float[Array, "n *k"], targets: Shaped[Array, "n *k"]) -> Float[Array, " n"]:
        """Twice what the log density lacks to the best that any mean could give, one value an example."""
        targets, trials = self.read(targets, outputs.dtype)
        loss = self.kind.loss(outputs, targets, self.link, self.parameter)
        return 2 * trials * (loss - self.kind.saturated(targets, self.parameter))

    def nll(
        self, outputs: Float[Array, "n *k"], targets: Shaped[Array, "n *k"], *, dispersion: Any = 1.0
    ) -> Float[Array, " n"]:
        """Minus log density, one value an example; of tweedie and quasi families up to a function of the targets."""
        half = self.deviance(outputs, targets) / (2 * dispersion)
        if self.kind.normaliser is None:
            return half
        return half + self.kind.normaliser(targets.astype(outputs.dtype), dispersion, self.parameter)

    def sample(self, key: Array, outputs: Float[Array, "n *k"], *, dispersion: Any = 1.0) -> Shaped[Array, " n"]:
        """Draw targets: classes of ``categorical``, numbers of the others.

        Raises:
          InputError: a family without a sampler: the quasi families, which are no distributions, and binomial, whose
            trials the outputs do not tell.
        """
        if self.kind.draw is None:
            raise InputError(f"family: {self.name} cannot be sampled from outputs alone; use a full distribution")
        if self.name == "categorical":
            return jax.random.categorical(key, outputs, axis=-1)
        return self.kind.draw(key, self.mean(outputs), dispersion, self.parameter)

    def read(self, targets: Shaped[Array, "n *k"], dtype: Any) -> tuple[Float[Array, "n *k"], Float[Array, "*n"]]:
        """Targets as ``Kind`` has them (shares of successes, rows of class probabilities), and trials."""
        one = jnp.ones((), dtype)
        if self.name == "categorical" and targets.ndim == 1:
            return one_hot(targets, int(self.parameter), dtype), one
        targets = targets.astype(dtype)
        if self.name != "binomial":
            return targets, one
        trials = jnp.sum(targets, axis=-1)
        return jnp.where(trials == 0, 0, targets[..., 0] / jnp.where(trials == 0, 1, trials)), trials


def one_hot(classes: Shaped[Array, " n"], num_classes: int, dtype: Any) -> Float[Array, "n c"]:
    """Rows of the identity matrix; NaN for what is no class."""
    valid = (classes >= 0) & (classes < num_classes) & (classes == jnp.floor(classes))
    return jnp.where(valid[..., None], (classes[..., None] == jnp.arange(num_classes)).astype(dtype), jnp.nan)


# The families ---------------------------------------------------------------------------------------------------------


def _make(kind: Kind, link: str | Link | None, parameter: Any = None) -> Family:
    return Family(kind, links.get(kind.link if link is None else link), parameter)


def gaussian(*, link: str | Link | None = None) -> Family:
    """Normal with one variance; ``V = 1``.

    >>> f"{gaussian().nll(jnp.array([1.0]), jnp.array([1.0]))[0]:.4f}"
    '0.9189'
    """
    return _make(kinds.GAUSSIAN, link)


def bernoulli(*, link: str | Link | None = None) -> Family:
    """0 or 1, or a share of as many trials as the weight says; logit by default.

    >>> bernoulli().nll(jnp.array([200.0, -200.0]), jnp.array([1.0, 1.0])).tolist()
    [0.0, 200.0]
    """
    return _make(kinds.BERNOULLI, link)


def binomial(*, link: str | Link | None = None) -> Family:
    """Pairs ``(successes, failures)``; the mean is that of the share of successes.

    >>> round(float(binomial().nll(jnp.zeros(1), jnp.array([[1, 1]]))[0]), 4)    # 2 of 4 equally likely sequences
    0.6931
    """
    return _make(kinds.BINOMIAL, link)


def categorical(num_classes: int) -> Family:
    """One of ``num_classes`` classes, outputs are logits ``[n, num_classes]``.

    >>> categorical(3).mean(jnp.zeros((1, 3))).round(3).tolist()
    [[0.3330000042915344, 0.3330000042915344, 0.3330000042915344]]
    """
    check_count("num_classes", num_classes, 2)
    return Family(kinds.CATEGORICAL, kinds.SOFTMAX, num_classes)


def poisson(*, link: str | Link | None = None) -> Family:
    """Counts; ``V = m``, log by default."""
    return _make(kinds.POISSON, link)


def gamma(*, link: str | Link | None = None) -> Family:
    """Positive, with a constant coefficient of variation; ``V = m^2``, inverse by default (log is safer)."""
    return _make(kinds.GAMMA, link)


def inverse_gaussian(*, link: str | Link | None = None) -> Family:
    """Positive; ``V = m^3``, inverse squared by default."""
    return _make(kinds.INVERSE_GAUSSIAN, link)


def negative_binomial(dispersion: float | None = None, *, link: str | Link | None = None) -> Family:
    """Counts that vary more than Poisson's; ``V = m + dispersion m^2``, log by default.

    Args:
      dispersion: above 0 (R's ``1 / theta``); ``None``: ``glm.fit`` estimates it by maximum likelihood.
    """
    if isinstance(dispersion, (int, float)) and not dispersion > 0:
        raise InputError(f"dispersion: got {dispersion}, needs a number above 0, or None to estimate it")
    return _make(kinds.NEGATIVE_BINOMIAL, link, dispersion)


def tweedie(power: float, *, link: str | Link | None = None) -> Family:
    """Zeros and positive numbers together; ``V = m^power``, 1 < power < 2, log by default."""
    if isinstance(power, (int, float)) and not 1 < power < 2:
        raise InputError(f"power: got {power}, needs a number between 1 and 2; outside there are poisson, gamma, quasi")
    return _make(kinds.TWEEDIE, link, power)


def quasi_poisson(*, link: str | Link | None = None) -> Family:
    """Variance proportional to the mean, with a dispersion to estimate."""
    return _make(_quasi(kinds.POISSON, "quasi_poisson"), link)


def quasi_binomial(*, link: str | Link | None = None) -> Family:
    """Shares whose variance is proportional to ``m (1 - m)``, with a dispersion to estimate."""
    return _make(_quasi(kinds.BERNOULLI, "quasi_binomial"), link)


def quasi(power: float, *, link: str | Link = "log") -> Family:
    """Positive means and a variance proportional to ``m^power``, whatever the distribution.

    Args:
      power: 0 and 1 admit targets of 0.
    """
    return _make(_quasi_power(float(power)), link)


@cached_factory
def _quasi(kind: Kind, name: str) -> Kind:
    return kind._replace(name=name, normaliser=None, draw=None, fixed_dispersion=False)


@cached_factory
def _quasi_power(power: float) -> Kind:
    if not math.isfinite(power) or power < 0:
        raise InputError(f"power: got {power}, needs a finite number of at least 0")
    low = (kinds.at_least_0, "at least 0") if power < 2 else (kinds.above_0, "above 0")
    return kinds.of_power(
        f"quasi({power:g})", "log", None, power, *low, boundary=kinds.zero_is_low if power < 2 else None
    )


FAMILIES = {
    family.__name__: family
    for family in (gaussian, bernoulli, binomial, poisson, gamma, inverse_gaussian, negative_binomial)
} | {"quasi_poisson": quasi_poisson, "quasi_binomial": quasi_binomial}


def get(family: str | Family, link: str | Link | None = None) -> Family:
    """The family of that name, with the link where one is given.

    Raises:
      InputError: there is none of that name, or the link does not go with it.
    """
    if not isinstance(family, Family):
        if not isinstance(family, str) or family not in FAMILIES:
            needs = "families.categorical(num_classes), tweedie(power) or quasi(power)"
            raise InputError(f"family: got {family!r}, needs one of {', '.join(FAMILIES)}, or {needs}")
        family = FAMILIES[family]()
    if link is None:
        return family
    if family.name == "categorical":
        raise InputError(f"link: got {link!r}, but categorical has softmax alone; leave link out")
    return family._replace(link=links.get(link))

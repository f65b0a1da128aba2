"""Families against scipy's distributions, links against many digits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.stats

from jaxmodels import families, links
from jaxmodels.core import InputError

MEAN = np.array([0.3, 1.7, 4.0])
COUNTS = np.array([0.0, 2.0, 7.0])
POSITIVE = np.array([0.2, 1.5, 9.0])
DISPERSION = 0.7

# name: family, targets, dispersion, scipy's log density of them at MEAN (or, for shares, at MEAN / 5)
DENSITIES = {
    "gaussian": (
        families.gaussian(),
        POSITIVE,
        DISPERSION,
        lambda y, m: scipy.stats.norm.logpdf(y, m, DISPERSION**0.5),
    ),
    "bernoulli": (families.bernoulli(), np.array([0, 1, 1]), 1.0, lambda y, m: scipy.stats.bernoulli.logpmf(y, m)),
    "binomial": (
        families.binomial(),
        np.array([[0, 3], [2, 1], [5, 0]]),
        1.0,
        lambda y, m: scipy.stats.binom.logpmf(y[:, 0], y.sum(1), m),
    ),
    "poisson": (families.poisson(), COUNTS, 1.0, lambda y, m: scipy.stats.poisson.logpmf(y, m)),
    "gamma": (
        families.gamma(),
        POSITIVE,
        DISPERSION,
        lambda y, m: scipy.stats.gamma.logpdf(y, 1 / DISPERSION, scale=m * DISPERSION),
    ),
    "inverse_gaussian": (
        families.inverse_gaussian(),
        POSITIVE,
        DISPERSION,
        lambda y, m: scipy.stats.invgauss.logpdf(y, m * DISPERSION, scale=1 / DISPERSION),
    ),
    "negative_binomial": (
        families.negative_binomial(0.4),
        COUNTS,
        1.0,
        lambda y, m: scipy.stats.nbinom.logpmf(y, 1 / 0.4, 1 / (1 + 0.4 * m)),
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", DENSITIES)
def test_nll_is_scipys_log_density(name):
    family, targets, dispersion, log_density = DENSITIES[name]
    mean = MEAN / 5 if name in ("bernoulli", "binomial") else MEAN
    outputs = family.link.link(jnp.asarray(mean))
    np.testing.assert_allclose(family.mean(outputs), mean, rtol=1e-14)
    np.testing.assert_allclose(
        family.nll(outputs, jnp.asarray(targets), dispersion=dispersion), -log_density(targets, mean), rtol=1e-12
    )


@pytest.mark.usefixtures("x64")
def test_categorical_nll_is_scipys_multinomial():
    logits, classes = np.array([[0.1, -1.0, 2.0], [3.0, 0.0, 0.5]]), np.array([2, 0])
    probabilities = scipy.special.softmax(logits, axis=1)
    expected = -scipy.stats.multinomial.logpmf(np.eye(3)[classes], 1, probabilities)
    np.testing.assert_allclose(families.categorical(3).nll(jnp.asarray(logits), jnp.asarray(classes)), expected)


@pytest.mark.parametrize(
    ("family", "dispersion"),
    [
        (families.gaussian(), 0.5),
        (families.bernoulli(), 1.0),
        (families.poisson(), 1.0),
        (families.gamma(link="log"), 0.5),
        (families.inverse_gaussian(link="log"), 0.3),
        (families.negative_binomial(0.5), 1.0),
        (families.tweedie(1.5), 0.8),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_samples_have_the_mean_and_variance_of_their_family(family, dispersion):
    count, output = 40_000, 0.4
    draws = np.asarray(family.sample(jax.random.key(1), jnp.full(count, output), dispersion=dispersion), np.float64)
    mean = float(family.mean(jnp.float32(output)))
    variance = dispersion * float(family.variance(jnp.float32(mean)))
    assert abs(draws.mean() - mean) < 5 * (variance / count) ** 0.5
    assert abs(draws.var() / variance - 1) < 0.1


def test_categorical_samples_follow_their_probabilities():
    logits = jnp.log(jnp.array([0.2, 0.5, 0.3]))
    draws = families.categorical(3).sample(jax.random.key(0), jnp.broadcast_to(logits, (20_000, 3)))
    np.testing.assert_allclose(np.bincount(draws, minlength=3) / 20_000, [0.2, 0.5, 0.3], atol=0.02)


@pytest.mark.usefixtures("x64")
def test_tweedie_deviance_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    ours = families.tweedie(1.5).deviance(jnp.log(MEAN), jnp.asarray(COUNTS)).mean()
    np.testing.assert_allclose(ours, metrics.mean_tweedie_deviance(COUNTS, MEAN, power=1.5), rtol=1e-13)


# log mean and log(1 - mean), in many digits
TAILS = {
    "logit": (lambda z: -mpmath.log1p(mpmath.exp(-z)), lambda z: -mpmath.log1p(mpmath.exp(z))),
    "probit": (lambda z: mpmath.log(mpmath.ncdf(z)), lambda z: mpmath.log(mpmath.ncdf(-z))),
    "cloglog": (lambda z: mpmath.log(-mpmath.expm1(-mpmath.exp(z))), lambda z: -mpmath.exp(z)),
    "loglog": (lambda z: -mpmath.exp(-z), lambda z: mpmath.log(-mpmath.expm1(-mpmath.exp(-z)))),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", TAILS)
def test_tails_and_their_two_derivatives_keep_their_digits(name):
    """Far beyond where the mean rounds to 0 or 1."""
    points = np.array([-30.0, -8.0, -1.5, 0.2, 3.0, 6.0] if "loglog" in name else [-200.0, -31.0, -8.0, 0.2, 8.0, 36.0])
    if name == "loglog":
        points = -points
    for side in (0, 1):

        def tail(z, side=side):
            return links.LINKS[name].tails(z)[side]

        ours = [jax.vmap(each)(points) for each in (tail, jax.grad(tail), jax.grad(jax.grad(tail)))]
        with mpmath.workdps(400):
            exact = [
                [float(mpmath.diff(TAILS[name][side], mpmath.mpf(float(z)), order)) for z in points]
                for order in range(3)
            ]
        for value, expected in zip(ours, exact, strict=True):
            np.testing.assert_allclose(value, expected, rtol=2e-11, atol=1e-290)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("link", [*links.LINKS.values(), links.power(1.5)], ids=lambda link: link.name)
def test_links_undo_their_means(link):
    mean = jnp.array([0.05, 0.4, 0.93])
    np.testing.assert_allclose(link.mean(link.link(mean)), mean, rtol=1e-13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: families.get("weibull"), "family: got 'weibull', needs one of gaussian, "),
        (lambda: families.get("poisson", "logarithm"), "link: got 'logarithm', needs one of identity, "),
        (lambda: families.get(families.categorical(3), "log"), "link: got 'log', but categorical has softmax alone"),
        (lambda: families.categorical(1), "num_classes: got 1, "),
        (lambda: families.negative_binomial(-1.0), "dispersion: got -1.0, "),
        (lambda: families.tweedie(3.0), "power: got 3.0, "),
        (lambda: families.quasi(-1.0), "power: got -1.0, "),
        (lambda: links.power(float("nan")), "exponent: got nan, "),
        (lambda: families.quasi_poisson().sample(jax.random.key(0), jnp.zeros(2)), "family: quasi_poisson cannot be"),
    ],
)
def test_wrong_names_and_numbers_are_told(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)

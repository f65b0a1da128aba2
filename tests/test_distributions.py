"""Tail probabilities and quantiles against scipy, against mpmath where scipy has fewer digits, and their gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.stats

from jaxmodels.numerics import distributions

DOFS = np.array([0.5, 1.0, 2.0, 3.5, 10.0, 30.0, 1e3, 1e6])[:, None]
T = np.array([0.0, 1e-3, 0.1, 0.5, 1.0, 1.4, 1.7, 2.0, 5.0, 10.0, 20.0, 40.0, 1e3, 1e6])
F = np.array([0.0, 1e-6, 1e-3, 0.1, 0.5, 0.9, 1.0, 1.1, 1.5, 3.0, 10.0, 1e2, 1e4, 1e8])


def assert_close(ours, reference, rtol):
    np.testing.assert_allclose(np.asarray(ours, float), np.asarray(reference, float), rtol=rtol, atol=1e-300)


def test_student_t_sf(x64):
    dofs = np.concatenate([DOFS, [[np.inf]]])
    expected = scipy.stats.t.sf(T, dofs)
    assert expected[5, -1] < 1e-60
    assert_close(distributions.student_t_sf(T, dofs), expected, 1e-12)
    assert_close(distributions.student_t_sf(-T, dofs), scipy.stats.t.cdf(T, dofs), 1e-12)


def test_student_t_against_fifty_digits(x64):
    t, dofs = np.array([1e-8, 0.5, 1.7, 3.0, 20.0, 40.0]), (1, 7, 100, 10_000)
    ours = distributions.student_t_sf(t, np.array(dofs, float)[:, None])
    with mpmath.workdps(50):
        for (row, column), tail in np.ndenumerate(ours):
            half, square = mpmath.mpf(dofs[row]) / 2, mpmath.mpf(t[column]) ** 2
            expected = mpmath.betainc(half, 0.5, 0, dofs[row] / (dofs[row] + square), regularized=True) / 2
            assert abs(tail - expected) <= 2e-13 * expected or expected < 1e-300


def test_f_tails(x64):
    pairs = [(1, 1), (1, 10), (5, 20), (3, 1e3), (100, 100), (1e4, 1e4), (1e6, 1e6), (2, 1e8), (1e6, 3)]
    dof1, dof2 = np.array(pairs, float).T[:, :, None]
    # With 1e4 degrees of freedom the rounding of f itself moves a tail of 1e-258 by 1e-12.
    assert_close(distributions.f_sf(F, dof1, dof2), scipy.stats.f.sf(F, dof1, dof2), 2e-12)
    assert_close(distributions.f_cdf(F, dof1, dof2), scipy.stats.f.cdf(F, dof1, dof2), 2e-12)


def test_chi_square_tails(x64):
    x = F * DOFS
    assert_close(distributions.chi_square_sf(x, DOFS), scipy.stats.chi2.sf(x, DOFS), 2e-12)
    assert_close(distributions.chi_square_cdf(x, DOFS), scipy.stats.chi2.cdf(x, DOFS), 2e-12)


PROBABILITIES = np.array([1e-30, 1e-10, 1e-3, 0.025, 0.2, 0.4, 0.7, 0.999])


def test_student_t_quantile(x64):
    dofs = np.array([1.0, 2.0, 10.0, 1e4, 1e6, np.inf])[:, None]
    upper = distributions.student_t_quantile(PROBABILITIES, dofs, upper=True)
    # scipy's own quantile is only good to 1e-12 in the far tails of few degrees of freedom.
    assert_close(upper, scipy.stats.t.isf(PROBABILITIES, dofs), 2e-12)
    assert_close(distributions.student_t_quantile(PROBABILITIES, dofs), -upper, 1e-13)
    assert_close(distributions.student_t_sf(upper, dofs), np.broadcast_to(PROBABILITIES, upper.shape), 1e-12)


def test_student_t_quantile_at_the_centre_and_the_ends(x64):
    at = distributions.student_t_quantile(np.array([0.0, 0.5, 1.0, -0.1, 1.1]), 5.0)
    np.testing.assert_array_equal(at, [-np.inf, 0.0, np.inf, np.nan, np.nan])
    near = distributions.student_t_quantile(np.full(5, 0.49999), 5.0)
    assert_close(distributions.student_t_sf(near, 5.0), 1 - np.full(5, 0.49999), 1e-14)


def test_f_quantile_returns_its_probability(x64):
    dof1, dof2 = np.array([1.0, 3.0, 100.0, 1e5])[:, None, None], np.array([1.0, 10.0, 1e4, 1e6])[:, None]
    upper = distributions.f_quantile(PROBABILITIES, dof1, dof2, upper=True)
    # A tail at a million degrees of freedom moves 1e6 times as fast as the quantile's last digit.
    assert_close(scipy.stats.f.sf(upper, dof1, dof2), np.broadcast_to(PROBABILITIES, upper.shape), 2e-10)
    assert_close(distributions.f_sf(upper, dof1, dof2), np.broadcast_to(PROBABILITIES, upper.shape), 2e-10)
    lower = distributions.f_quantile(PROBABILITIES[2:], dof1, dof2)
    assert_close(lower, scipy.stats.f.ppf(PROBABILITIES[2:], dof1, dof2), 1e-9)


def test_chi_square_quantile(x64):
    dofs = np.array([1.0, 2.0, 10.0, 1e4, 1e6])[:, None]
    upper = distributions.chi_square_quantile(PROBABILITIES, dofs, upper=True)
    assert_close(upper, scipy.stats.chi2.isf(PROBABILITIES, dofs), 1e-12)
    lower = distributions.chi_square_quantile(PROBABILITIES, dofs)
    assert_close(lower, scipy.stats.chi2.ppf(PROBABILITIES, dofs), 1e-11)


def test_normal(x64):
    assert_close(distributions.normal_sf(T), scipy.stats.norm.sf(T), 1e-12)
    assert_close(distributions.normal_quantile(0.01, upper=True), scipy.stats.norm.isf(0.01), 1e-13)


@pytest.mark.slow
def test_float32_keeps_its_own_digits():
    t, dofs = T[T < 12].astype(np.float32), np.array([1.0, 30.0, 1e3, 1e6], np.float32)[:, None]
    ours = distributions.student_t_sf(t, dofs)
    assert ours.dtype == jnp.float32
    assert_close(ours, scipy.stats.t.sf(t.astype(float), dofs.astype(float)), 2e-5)
    quantile = distributions.student_t_quantile(np.float32(0.025), dofs)
    assert_close(quantile, scipy.stats.t.ppf(np.float32(0.025).astype(float), dofs.astype(float)), 3e-6)


@pytest.mark.parametrize(
    ("tail", "density"),
    [
        (lambda x: distributions.student_t_sf(x, 7.0), lambda x: -scipy.stats.t.pdf(x, 7)),
        (lambda x: distributions.student_t_sf(x, np.inf), lambda x: -scipy.stats.norm.pdf(x)),
        (lambda x: distributions.f_sf(x, 3.0, 11.0), lambda x: -scipy.stats.f.pdf(x, 3, 11)),
        (lambda x: distributions.chi_square_sf(x, 4.0), lambda x: -scipy.stats.chi2.pdf(x, 4)),
    ],
)
def test_gradient_is_the_density(x64, tail, density):
    x = np.array([1e-2, 0.7, 2.3, 15.0])
    assert_close(jax.jit(jax.vmap(jax.grad(tail)))(x), density(x), 1e-12)
    assert_close(jax.grad(tail)(0.7), density(0.7), 1e-12)


def test_gradient_of_t_below_zero(x64):
    assert_close(jax.grad(distributions.student_t_sf)(-1.2, 6.0), -scipy.stats.t.pdf(-1.2, 6), 1e-12)
    assert_close(jax.grad(distributions.student_t_sf)(0.0, 6.0), -scipy.stats.t.pdf(0.0, 6), 1e-12)


def test_gradient_of_quantiles(x64):
    slope = jax.grad(lambda p: distributions.student_t_quantile(p, 5.0))(0.9)
    assert_close(slope, 1 / scipy.stats.t.pdf(scipy.stats.t.ppf(0.9, 5), 5), 1e-10)
    slope = jax.grad(lambda p: distributions.chi_square_quantile(p, 5.0, upper=True))(0.1)
    assert_close(slope, -1 / scipy.stats.chi2.pdf(scipy.stats.chi2.isf(0.1, 5), 5), 1e-10)


def test_nan_where_there_is_no_distribution(x64):
    for dof in (0.0, -1.0, np.nan):
        assert np.isnan(distributions.student_t_sf(1.0, dof))
        assert np.isnan(distributions.f_sf(1.0, 2.0, dof))
        assert np.isnan(distributions.student_t_quantile(0.3, dof))
    assert np.isnan(distributions.student_t_sf(np.nan, 3.0))
    assert distributions.student_t_sf(np.inf, 3.0) == 0


def test_vmap_and_jit_change_nothing(x64):
    dofs = jnp.array([1.0, 10.0, np.inf, 0.0])
    looped = jnp.stack([distributions.student_t_sf(T, dof) for dof in dofs])
    mapped = jax.jit(jax.vmap(lambda dof: distributions.student_t_sf(T, dof)))(dofs)
    assert_close(mapped, looped, 1e-13)

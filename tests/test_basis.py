"""Polynomial columns against exact powers."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import interpolate

from jaxmodels import losses, train
from jaxmodels.core import Batch, InputError, chain, stateless
from jaxmodels.numerics import double_double as dd
from jaxmodels.regression import basis, linear

DEGREE = 11


def relative_errors(columns, base):
    """Of each power, the largest over the rows."""
    high, low = (np.asarray(part, float).tolist() for part in dd.as_pair(columns))
    for k in range(DEGREE):
        yield max(
            float(abs((Fraction(high[i][k]) + Fraction(low[i][k])) / x ** (k + 1) - 1)) for i, x in enumerate(base)
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("precision", basis.PRECISIONS)
def test_powers(dtype, precision):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.random.default_rng(0).uniform(-9, 9, 30), dtype)
        unit = float(jnp.finfo(dtype).eps) / 2
        unit = unit if precision == "working" else 4 * unit**2
        exact = [Fraction(v) for v in np.asarray(x, float).tolist()]
        for function in (basis.polynomial, jax.jit(basis.polynomial, static_argnames=("degree", "precision"))):
            columns = function(x, degree=DEGREE, precision=precision)
            assert dd.as_pair(columns).high.shape == (30, DEGREE)
            assert dd.as_pair(columns).high.dtype == dtype
            for k, error in enumerate(relative_errors(columns, exact)):
                assert error <= 2 * k * unit


def test_powers_of_a_pair(x64):
    texts = ["-6.860120914", "0.1", "1e3"]
    columns = basis.polynomial(dd.from_exact(texts, dtype="float64"), DEGREE, precision="double_double")
    assert max(relative_errors(columns, [Fraction(text) for text in texts])) < 1e-30


def test_gradient_and_vmap(x64):
    x = jnp.asarray([-1.5, 0.0, 2.0])
    slopes = jax.vmap(jax.jacobian(lambda each: basis.polynomial(each[None], 4)[0]))(x)
    np.testing.assert_allclose(slopes, [[1, 2 * v, 3 * v**2, 4 * v**3] for v in x.tolist()], rtol=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"degree": 0}, "degree: got 0"),
        ({"degree": 2.0}, "degree: got 2.0"),
        ({"degree": True}, "degree: got True"),
        ({"precision": "double"}, "precision: got 'double'"),
        ({"x": jnp.ones((2, 2))}, r"x: got shape \(2, 2\)"),
        ({"x": jnp.arange(3)}, "x: got dtype int32"),
        ({"x": dd.as_pair(jnp.ones(3))}, "x: got a DoubleDouble"),
    ],
)
def test_bad_input(arguments, message):
    x, degree = arguments.get("x", jnp.ones(3)), arguments.get("degree", 2)
    with pytest.raises(InputError, match=message):
        basis.polynomial(x, degree, precision=arguments.get("precision", "working"))


def test_chebyshev_and_fourier_against_numpy(x64):
    x = np.linspace(-3, 5, 50)
    theirs = np.polynomial.chebyshev.chebvander((2 * x - 2) / 8, 6)[:, 1:]
    np.testing.assert_allclose(basis.chebyshev(x, 6, domain=(-3, 5)), theirs, atol=1e-13)
    columns = basis.fourier(x, 3, period=2.5)
    np.testing.assert_allclose(columns[:, 4], np.cos(2 * np.pi * 3 * x / 2.5), atol=1e-12)
    np.testing.assert_allclose(columns[:, 5], np.sin(2 * np.pi * 3 * x / 2.5), atol=1e-12)


@pytest.mark.parametrize("degree", [1, 3])
def test_b_splines_against_scipy(x64, degree):
    knots = np.array([0.0, 0.5, 1.5, 2.0, 4.0])
    x = np.linspace(-0.5, 4.5, 60)
    full = np.concatenate([np.zeros(degree), knots, np.full(degree, 4.0)])
    size = len(full) - degree - 1
    theirs = interpolate.BSpline(full, np.eye(size), degree, extrapolate=True)(x)[:, 1:]
    np.testing.assert_allclose(basis.b_spline(x, knots, degree=degree), theirs, atol=1e-12)


def test_features_in_closed_form_and_by_descent():
    """``y = b_0 + b_1 sin(x_1) + b_2 cos(x_2) + b_3 exp(x_3)``."""
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (200, 3)), jnp.float32)
    columns = basis.features([jnp.sin, jnp.cos, jnp.exp])
    y = 1 + columns(x) @ jnp.array([2.0, -1.0, 0.5])
    solution = linear.fit(columns(x), y)
    np.testing.assert_allclose(solution.params.coefficients, [2, -1, 0.5], rtol=1e-5)
    runner = train.trainer(
        chain(stateless(columns), linear.model()), loss=losses.squared_error, optimizer=optax.adam(0.05)
    )
    state = runner.init(jax.random.key(0), Batch(x, y))
    for _ in range(1500):
        state, _ = runner.step(state, Batch(x, y))
    np.testing.assert_allclose(state.params[1].coefficients, [2, -1, 0.5], atol=0.02)


def test_bad_shapes_of_other_bases():
    with pytest.raises(InputError, match=r"x: got shape \(3, 2\), needs \[n, 1\]"):
        basis.features([jnp.sin])(jnp.ones((3, 2)))
    with pytest.raises(InputError, match="domain: got"):
        basis.chebyshev(jnp.ones(3), 2, domain=(1.0, 0.0))
    with pytest.raises(InputError, match="knots: got shape"):
        basis.b_spline(jnp.ones(3), [0.0])


@pytest.mark.parametrize("knots", [[1.0, 0.5, 0.0], [0.0, 1.0, 1.0], [0.0, np.nan, 1.0]])
def test_knots_that_do_not_increase_are_refused(knots):
    with pytest.raises(InputError, match="knots: not increasing"):
        basis.b_spline(jnp.array([0.25]), knots)


def test_other_arguments_are_named():
    x = jnp.ones(3)
    with pytest.raises(InputError, match="num_frequencies: got 0"):
        basis.fourier(x, 0, period=1.0)
    with pytest.raises(InputError, match=r"period: got 0\.0"):
        basis.fourier(x, 1, period=0.0)
    with pytest.raises(InputError, match="domain: got .* needs finite ends"):
        basis.chebyshev(x, 2, domain=(0.0, np.inf))


def test_numpys_integers_are_integers():
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(basis.polynomial(x, np.int64(2)), basis.polynomial(x, 2))

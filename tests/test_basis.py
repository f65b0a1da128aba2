"""Polynomial columns against exact powers."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.core import InputError
from jaxmodels.numerics import double_double as dd
from jaxmodels.regression import basis

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

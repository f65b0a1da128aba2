"""Certified least squares against solutions in 80 digits."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxmodels.numerics import double_double as dd
from jaxmodels.numerics import refinement
from jaxmodels.regression import basis

pytestmark = pytest.mark.slow

mpmath.mp.dps = 80
least_squares = jax.jit(refinement.least_squares)


class Exact(NamedTuple):
    coefficients: list
    residual_sum_of_squares: mpmath.mpf
    covariance: mpmath.matrix


def numbers(value) -> list:
    parts = value if isinstance(value, dd.DoubleDouble) else (value,)
    return [
        mpmath.fsum(map(mpmath.mpf, each))
        for each in zip(*(np.asarray(p, float).ravel().tolist() for p in parts), strict=True)
    ]


def solve_exactly(design, targets, weights=None, penalty=None) -> Exact:
    num_rows, num_columns = dd.as_pair(design).high.shape
    entries = numbers(design)
    rows = mpmath.matrix([entries[i * num_columns : (i + 1) * num_columns] for i in range(num_rows)])
    targets = mpmath.matrix(numbers(targets))
    weights = [mpmath.mpf(1)] * num_rows if weights is None else numbers(weights)
    weighted = mpmath.matrix([[rows[i, j] * weights[i] for i in range(num_rows)] for j in range(num_columns)])
    gram = weighted * rows
    for j, value in enumerate([] if penalty is None else numbers(penalty)):
        gram[j, j] += value
    covariance = mpmath.inverse(gram)
    solution = covariance * (weighted * targets)
    residuals = targets - rows * solution
    squares = mpmath.fsum(w * r * r for w, r in zip(weights, residuals, strict=True))
    return Exact(list(solution), squares, covariance)


def check(certified, truth, *, digits):
    """Within its estimate, the estimate within reason, and ``digits`` right."""
    unit = float(jnp.finfo(certified.error.dtype).eps) / 2
    assert bool(certified.converged)
    for value, error, exact in zip(
        numbers(certified.coefficients), certified.error.tolist(), truth.coefficients, strict=True
    ):
        true_error = abs(value - exact)
        assert true_error <= error
        assert true_error <= 10.0**-digits * abs(exact)
    largest = max(map(abs, truth.coefficients))
    assert max(certified.error.tolist()) < 1e7 * max(10.0 ** -(2 * digits), unit**2, 10.0 ** -(digits + 2)) * largest
    factor = np.asarray(certified.covariance_factor, np.float64)
    variances = [truth.covariance[j, j] for j in range(len(factor))]
    for variance, row in zip(variances, factor, strict=True):
        assert abs(mpmath.fsum(mpmath.mpf(v) ** 2 for v in row.tolist()) / variance - 1) < 40 * unit
    np.testing.assert_array_equal(factor, np.triu(factor))


def ill_conditioned(rng, num_rows, num_columns, condition, dtype):
    left, _ = np.linalg.qr(rng.normal(size=(num_rows, num_columns)))
    right, _ = np.linalg.qr(rng.normal(size=(num_columns, num_columns)))
    return jnp.asarray(left * np.logspace(0, -np.log10(condition), num_columns) @ right.T, dtype)


FLOAT64 = [
    ("float64", condition, digits) for condition, digits in [(1e0, 26), (1e4, 24), (1e8, 20), (1e12, 17), (1e14, 14)]
]
FLOAT32 = [("float32", condition, digits) for condition, digits in [(1e0, 11), (1e3, 11), (1e5, 11), (1e7, 9)]]


@pytest.mark.parametrize(("dtype", "condition", "digits"), FLOAT64 + FLOAT32)
def test_ill_conditioned_problems(dtype, condition, digits):
    with jax.enable_x64(dtype == "float64"):
        for seed in range(3):
            rng = np.random.default_rng(seed)
            design = ill_conditioned(rng, 30, 6, condition, dtype)
            for targets in (jnp.asarray(rng.normal(size=30), dtype), design @ jnp.ones(6, dtype)):
                check(least_squares(design, targets), solve_exactly(design, targets), digits=digits)


@pytest.mark.parametrize(("dtype", "degree", "digits"), [("float64", 12, 21), ("float64", 18, 14), ("float32", 9, 10)])
def test_polynomials_in_pairs(dtype, degree, digits):
    """Condition numbers (columns scaled) of 1e8, 1e13 and 2e6: the last two are beyond a working-precision factor."""
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.linspace(0, 1, 40), dtype)
        design = basis.polynomial(x, degree, precision="double_double")
        check(least_squares(design, jnp.cos(5 * x)), solve_exactly(design, jnp.cos(5 * x)), digits=digits)


@pytest.mark.parametrize(("dtype", "digits"), [("float64", 22), ("float32", 10)])
def test_weights_and_penalty(dtype, digits):
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(0)
        design = ill_conditioned(rng, 30, 6, 1e3, dtype)
        targets, weights = (jnp.asarray(v, dtype) for v in (rng.normal(size=30), 10.0 ** rng.uniform(-6, 3, 30)))
        penalty = jnp.asarray([0, 1, 1e-3, 1e-6, 10, 0], dtype)
        certified = least_squares(design, targets, weights=weights, penalty=penalty)
        truth = solve_exactly(design, targets, weights, penalty)
        check(certified, truth, digits=digits)
        squares = numbers(certified.residual_sum_of_squares)[0]
        assert abs(squares / truth.residual_sum_of_squares - 1) < 10.0**-digits


def test_many_rows_in_several_blocks(x64):
    """More rows than a block, and not a multiple of it; certified equals the closed form of a line."""
    num_rows = 5000
    x = jnp.arange(num_rows) + 1e6
    design, targets = jnp.stack([jnp.ones(num_rows), x], axis=1), x**2 % 1013
    certified = least_squares(design, targets)
    integers, values = [int(v) for v in x], [int(v) for v in targets]
    total, squares = sum(integers), sum(v * v for v in integers)
    cross = sum(u * v for u, v in zip(integers, values, strict=True))
    slope = mpmath.mpf(num_rows * cross - total * sum(values)) / (num_rows * squares - total**2)
    value = numbers(certified.coefficients)[1]
    assert abs(value - slope) <= float(certified.error[1]) < 1e-18 * abs(slope)
    variance = float(mpmath.mpf(num_rows) / (num_rows * squares - total**2))
    np.testing.assert_allclose(jnp.sum(certified.covariance_factor[1] ** 2), variance, rtol=1e-15)


def test_absent_rows_change_nothing(x64):
    rng = np.random.default_rng(1)
    design, targets = ill_conditioned(rng, 30, 6, 1e5, "float64"), jnp.asarray(rng.normal(size=30))
    weights = jnp.asarray(rng.uniform(0.5, 2, 30)).at[:3].set(0)
    certified = least_squares(design.at[:3].set(jnp.nan), targets.at[:3].set(jnp.inf), weights=weights)
    check(certified, solve_exactly(design[3:], targets[3:], weights[3:]), digits=22)


def test_batch_of_easy_and_hard_problems_equals_loop(x64):
    rng = np.random.default_rng(2)
    designs = jnp.stack([ill_conditioned(rng, 30, 6, condition, "float64") for condition in (1, 1e6, 1e14)])
    targets = jnp.asarray(rng.normal(size=(3, 30)))
    batched = jax.jit(jax.vmap(refinement.least_squares))(designs, targets)
    for lane in range(3):
        single = least_squares(designs[lane], targets[lane])
        np.testing.assert_allclose(batched.coefficients.high[lane], single.coefficients.high, rtol=4e-16)
        each = jax.tree.map(lambda leaf, lane=lane: leaf[lane], batched)
        check(each, solve_exactly(designs[lane], targets[lane]), digits=14)


def test_several_targets_equal_one_by_one(x64):
    rng = np.random.default_rng(3)
    design, targets = ill_conditioned(rng, 30, 6, 1e7, "float64"), jnp.asarray(rng.normal(size=(30, 3)))
    together = least_squares(design, targets)
    assert together.coefficients.high.shape == together.error.shape == (6, 3)
    assert together.covariance_factor.shape == (6, 6)
    assert together.residual_sum_of_squares.high.shape == together.converged.shape == (3,)
    for k in range(3):
        single = least_squares(design, targets[:, k])
        np.testing.assert_allclose(together.coefficients.high[:, k], single.coefficients.high, rtol=4e-16)


def test_without_jit():
    rng = np.random.default_rng(4)
    design, targets = ill_conditioned(rng, 30, 6, 1e3, "float32"), jnp.asarray(rng.normal(size=30), jnp.float32)
    eager, compiled = refinement.least_squares(design, targets), least_squares(design, targets)
    np.testing.assert_allclose(eager.coefficients.high, compiled.coefficients.high, rtol=1e-7)
    check(eager, solve_exactly(design, targets), digits=11)


def test_units_of_columns_do_not_matter(x64):
    rng = np.random.default_rng(5)
    design, targets = ill_conditioned(rng, 30, 6, 1e4, "float64"), jnp.asarray(rng.normal(size=30))
    scale = jnp.asarray([2.0**-60, 1.0, 2.0**40, 2.0**90, 1.0, 2.0**-9])
    plain, scaled = least_squares(design, targets), least_squares(design * scale, targets)
    np.testing.assert_allclose(scaled.coefficients.high * scale, plain.coefficients.high, rtol=4e-16)
    np.testing.assert_allclose(scaled.condition, plain.condition, rtol=1e-6)
    assert bool(scaled.converged)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fault", ["duplicate", "combination", "zero", "few rows"])
def test_dependent_columns_lower_the_rank(dtype, fault):
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(6)
        design = rng.integers(-9, 9, (30, 6)).astype(dtype)
        if fault == "duplicate":
            design[:, 3] = design[:, 1]
        if fault == "combination":
            design[:, 5] = design[:, 0] - 3 * design[:, 2] + design[:, 4]
        if fault == "zero":
            design[:, 2] = 0
        if fault == "few rows":
            design[5:] = 0
        certified = least_squares(jnp.asarray(design), jnp.asarray(rng.normal(size=30), dtype))
        assert int(certified.rank) == 5
        assert not bool(certified.converged)
        assert bool(jnp.all(jnp.isinf(certified.error)))


def test_fewer_rows_than_columns():
    certified = least_squares(jnp.eye(3, 4) + 1, jnp.arange(3.0))
    assert int(certified.rank) == 3
    assert not bool(certified.converged)


def test_a_zeroed_column_with_a_penalty_is_dropped(x64):
    rng = np.random.default_rng(7)
    design, targets = ill_conditioned(rng, 30, 6, 10, "float64"), jnp.asarray(rng.normal(size=30))
    weights = jnp.ones(30)
    dropped = least_squares(design.at[:, 2].set(0), targets, weights=weights, penalty=jnp.zeros(6).at[2].set(1))
    rest = [0, 1, 3, 4, 5]
    truth = solve_exactly(design[:, jnp.asarray(rest)], targets)
    assert bool(dropped.converged)
    assert float(dropped.coefficients.high[2]) == 0
    np.testing.assert_allclose(
        dropped.coefficients.high[jnp.asarray(rest)], list(map(float, truth.coefficients)), rtol=4e-16
    )


def test_nonfinite_data_is_not_certified():
    certified = least_squares(jnp.ones((30, 6)), jnp.full(30, jnp.nan))
    assert not bool(certified.converged)
    assert bool(jnp.all(jnp.isinf(certified.error)))


@pytest.mark.parametrize(("dtype", "digits"), [("float64", 22), ("float32", 10)])
def test_a_center_changes_no_answer_and_spares_the_turn(dtype, digits):
    """Columns a thousand deviations from zero, weights and a penalty."""
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(11)
        columns = jnp.asarray(rng.normal(size=(30, 5)) + 1000 * rng.uniform(1, 2, 5), dtype)
        design = jnp.concatenate([jnp.ones((30, 1), dtype), columns], axis=1)
        targets, weights = (jnp.asarray(v, dtype) for v in (rng.normal(size=30), rng.uniform(0.1, 2, 30)))
        penalty = jnp.asarray([0, 1, 0, 1e-3, 10, 0], dtype)
        center = jnp.asarray(np.average(design, axis=0, weights=weights), dtype).at[0].set(0)
        options = {"weights": weights, "penalty": penalty}
        centred = least_squares(design, targets, center=center, **options)
        truth = solve_exactly(design, targets, **options)
        check(centred, truth, digits=digits)
        plain = least_squares(design, targets, **options)
        np.testing.assert_allclose(centred.condition, plain.condition, rtol=0.1)
        np.testing.assert_allclose(centred.covariance_factor, plain.covariance_factor, rtol=1e3 * jnp.finfo(dtype).eps)

"""The certified linear problems of NIST's Statistical Reference Datasets, each through ``linear.fit``."""

from __future__ import annotations

import functools
import math
import re
from decimal import Decimal, localcontext
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxmodels.core import Status
from jaxmodels.numerics import double_double as dd
from jaxmodels.numerics import refinement
from jaxmodels.regression import basis, linear

pytestmark = pytest.mark.slow

DEGREES = {"Filip": 10, "Pontius": 2} | {f"Wampler{k}": 5 for k in range(1, 6)}
WITHOUT_INTERCEPT = ("NoInt1", "NoInt2")
NAMES = ["Filip", "Longley", "NoInt1", "NoInt2", "Norris", "Pontius", *(f"Wampler{k}" for k in range(1, 6))]
# The least digits (LRE) of coefficients that the default method is to reach, where it is hard.
DEFAULT_DIGITS = {"Longley": 10.5, "Filip": 7, "Wampler4": 7, "Wampler5": 5.5} | {f"Wampler{k}": 9 for k in (1, 2, 3)}
FLOAT32_DIGITS = {"Longley": 10.5, "Wampler1": 8, "Wampler2": 8, "Wampler3": 8, "Wampler4": 6.5}


class Reference(NamedTuple):
    """A data set as its text has it."""

    targets: list[str]
    columns: list[list[str]]
    coefficients: list[str]
    standard_deviations: list[str]


@functools.cache
def read(path) -> Reference:
    lines = path.read_text().splitlines()
    start = max(i for i, line in enumerate(lines) if line.startswith("Data:"))
    rows = [line.split() for line in lines[start + 1 :] if line.strip()]
    certified = [line.split() for line in lines[:start] if re.match(r"\s+B\d+\s+[-\d.]", line)]
    return Reference(
        [row[0] for row in rows], [row[1:] for row in rows], *map(list, zip(*(c[1:3] for c in certified), strict=True))
    )


@pytest.fixture
def reference(data_dir, name):
    return read(data_dir / "nist" / "linear" / f"{name}.dat")


def pair_columns(reference, name, dtype) -> dd.DoubleDouble:
    columns = dd.from_exact(reference.columns, dtype=dtype)
    if name not in DEGREES:
        return columns
    return basis.polynomial(jax.tree.map(lambda each: each[:, 0], columns), DEGREES[name], precision="double_double")


def digits(value, certified) -> float:
    """Log relative error, or log error where the certified value is 0; 15 at most, which is what NIST prints."""
    certified = mpmath.mpf(certified)
    error = abs(mpmath.mpf(value) - certified) / (abs(certified) or 1)
    return 15.0 if error == 0 else min(15.0, float(-mpmath.log10(error)))


def least_digits(values, certified) -> float:
    assert len(values) == len(certified)
    return min(digits(value, text) for value, text in zip(values, certified, strict=True))


def parameters(params, intercept: bool) -> list[float]:
    coefficients = params.coefficients.tolist()
    return [float(params.intercept), *coefficients] if intercept else coefficients


def standard_deviations(stats) -> list[float]:
    center = np.asarray(stats.center, float)
    transform = np.eye(len(stats.covariance_factor))
    transform[0, len(transform) - len(center) :] -= center if len(transform) > len(center) else 0
    factor = transform @ np.asarray(stats.covariance_factor, float)
    return [math.sqrt(float(stats.sigma2)) * math.hypot(*row) for row in factor.tolist()]


@pytest.mark.parametrize("name", NAMES)
def test_certified_reaches_14_digits_and_knows_its_error(reference, name, x64):
    """Decimal text as pairs, so that the problem solved is the one that NIST certifies; its error in 60 digits."""
    intercept = name not in WITHOUT_INTERCEPT
    x, y = pair_columns(reference, name, "float64"), dd.from_exact(reference.targets, dtype="float64")
    solution = linear.fit(x, y, intercept=intercept, method="certified")
    values = parameters(solution.params, intercept)
    assert int(solution.status) == Status.ok
    assert int(solution.stats.rank) == len(reference.coefficients)
    assert least_digits(values, reference.coefficients) >= 14
    assert least_digits(standard_deviations(solution.stats), reference.standard_deviations) >= 14
    errors = parameters(solution.stats.error, intercept)
    for value, error, exact in zip(values, errors, solve_exactly(x, y, intercept), strict=True):
        assert abs(mpmath.mpf(value) - exact) <= error <= 2.3e-16 * abs(exact) + 1e-22


def solve_exactly(x, y, intercept) -> list:
    with mpmath.workdps(60):
        rows = exact_rows(x)
        design = mpmath.matrix([[mpmath.mpf(1), *row] for row in rows] if intercept else rows)
        targets = mpmath.matrix(exact_rows(jax.tree.map(lambda part: part[:, None], y)))
        return list(mpmath.lu_solve(design.T * design, design.T * targets))


def exact_rows(pair) -> list:
    return [
        [mpmath.mpf(high) + mpmath.mpf(low) for high, low in zip(*row, strict=True)]
        for row in zip(pair.high.tolist(), pair.low.tolist(), strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_default_method(reference, name, x64):
    intercept = name not in WITHOUT_INTERCEPT
    x, y = pair_columns(reference, name, "float64").high, jnp.asarray(np.array(reference.targets, float))
    solution = linear.fit(x, y, intercept=intercept)
    assert int(solution.status) == Status.ok
    assert int(solution.stats.rank) == len(reference.coefficients)
    assert least_digits(parameters(solution.params, intercept), reference.coefficients) >= DEFAULT_DIGITS.get(name, 12)


@pytest.mark.parametrize("name", FLOAT32_DIGITS)
def test_pairs_of_float32(reference, name):
    """No float64 anywhere: data and answer are pairs of float32."""
    x, y = pair_columns(reference, name, "float32"), dd.from_exact(reference.targets, dtype="float32")
    ones = jnp.ones((len(reference.targets), 1), jnp.float32)
    design = dd.DoubleDouble(jnp.concatenate([ones, x.high], axis=1), jnp.concatenate([0 * ones, x.low], axis=1))
    certified = jax.jit(refinement.least_squares)(design, y)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(certified)} <= {"float32", "int32", "bool"}
    with localcontext() as context:
        context.prec = 40
        values = [
            str(Decimal(h) + Decimal(low))
            for h, low in zip(*(part.tolist() for part in certified.coefficients), strict=True)
        ]
    assert least_digits(values, reference.coefficients) >= FLOAT32_DIGITS[name]
    for value, error, exact in zip(values, certified.error.tolist(), solve_exactly(x, y, True), strict=True):
        assert abs(mpmath.mpf(value) - exact) <= error

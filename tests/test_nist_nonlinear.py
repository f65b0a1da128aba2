"""The certified nonlinear problems of NIST's Statistical Reference Datasets, through ``nonlinear.fit`` by default."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.core import Status
from jaxmodels.regression import nonlinear

pytestmark = pytest.mark.slow


def saturation(b, x):
    return b[0] * (1 - jnp.exp(-b[1] * x))


def chwirut(b, x):
    return jnp.exp(-b[0] * x) / (b[1] + b[2] * x)


def gauss(b, x):
    peaks = b[2] * jnp.exp(-(((x - b[3]) / b[4]) ** 2)) + b[5] * jnp.exp(-(((x - b[6]) / b[7]) ** 2))
    return b[0] * jnp.exp(-b[1] * x) + peaks


def lanczos(b, x):
    return b[0] * jnp.exp(-b[1] * x) + b[2] * jnp.exp(-b[3] * x) + b[4] * jnp.exp(-b[5] * x)


def cubic(b, x):
    return (b[0] + x * (b[1] + x * (b[2] + x * b[3]))) / (1 + x * (b[4] + x * (b[5] + x * b[6])))


def enso(b, x):
    def wave(cosine, sine, period):
        return cosine * jnp.cos(2 * jnp.pi * x / period) + sine * jnp.sin(2 * jnp.pi * x / period)

    return b[0] + wave(b[1], b[2], 12) + wave(b[4], b[5], b[3]) + wave(b[7], b[8], b[6])


MODELS = {
    "Bennett5": lambda b, x: b[0] * (b[1] + x) ** (-1 / b[2]),
    "BoxBOD": saturation,
    "Chwirut1": chwirut,
    "Chwirut2": chwirut,
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "ENSO": enso,
    "Eckerle4": lambda b, x: b[0] / b[1] * jnp.exp(-0.5 * ((x - b[2]) / b[1]) ** 2),
    "Gauss1": gauss,
    "Gauss2": gauss,
    "Gauss3": gauss,
    "Hahn1": cubic,
    "Kirby2": lambda b, x: (b[0] + x * (b[1] + x * b[2])) / (1 + x * (b[3] + x * b[4])),
    "Lanczos1": lanczos,
    "Lanczos2": lanczos,
    "Lanczos3": lanczos,
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH10": lambda b, x: b[0] * jnp.exp(b[1] / (x + b[2])),
    "MGH17": lambda b, x: b[0] + b[1] * jnp.exp(-x * b[3]) + b[2] * jnp.exp(-x * b[4]),
    "Misra1a": saturation,
    "Misra1b": lambda b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2.0),
    "Misra1c": lambda b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Misra1d": lambda b, x: b[0] * b[1] * x / (1 + b[1] * x),
    "Nelson": lambda b, x: b[0] - b[1] * x[:, 0] * jnp.exp(-b[2] * x[:, 1]),
    "Rat42": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)),
    "Rat43": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "Roszman1": lambda b, x: b[0] - b[1] * x - jnp.arctan(b[2] / (x - b[3])) / jnp.pi,
    "Thurber": cubic,
}
LEAST_DIGITS = 8.0
MEDIAN_DIGITS = 9.8


def read(path):
    """``x, y`` and the certified table: two starts, the value and its standard deviation, a row a parameter."""
    lines = path.read_text().splitlines()
    start = max(i for i, line in enumerate(lines) if line.startswith("Data:"))
    rows = np.array([line.split() for line in lines[start + 1 :] if line.strip()], float)
    table = np.array([line.split("=")[1].split() for line in lines[:start] if re.match(r"\s+b\d+ =", line)], float)
    y = np.log(rows[:, 0]) if path.stem == "Nelson" else rows[:, 0]
    return rows[:, 1:].squeeze(), y, table


def least_digits(values, certified) -> float:
    error = np.max(np.abs(np.asarray(values) / certified - 1))
    return min(11.0, -np.log10(max(error, 1e-16)))  # NIST prints 11 digits


def test_all_sets_from_both_starts(data_dir, x64):
    digits, errors = {}, {}
    for name, function in MODELS.items():
        x, y, table = read(data_dir / "nist" / "nonlinear" / f"{name}.dat")
        for start in (0, 1):
            solution = nonlinear.fit(function, table[:, start], x, y)
            assert int(solution.status) == Status.ok, (name, start)
            digits[name, start] = least_digits(solution.params, table[:, 2])
            standard_errors = np.sqrt(np.diag(solution.stats.covariance))
            errors[name, start] = least_digits(standard_errors, table[:, 3])
    for (name, start), reached in digits.items():
        print(f"{name:9s} start {start + 1}: {reached:5.2f} digits, standard errors {errors[name, start]:5.2f}")
    assert len(digits) == 54
    assert min(digits.values()) >= LEAST_DIGITS
    assert np.median(list(digits.values())) >= MEDIAN_DIGITS
    assert min(errors[key] for key in errors if key[0] != "Lanczos1") >= 5  # its residuals are rounding, 1e-13
    jax.clear_caches()  # 27 programs that no other test needs


@pytest.mark.parametrize("name", ["MGH17", "Thurber"])
def test_projection(data_dir, x64, name):
    """The same solution with the linear parameters eliminated, whatever they start from."""
    x, y, table = read(data_dir / "nist" / "nonlinear" / f"{name}.dat")
    linear = {"MGH17": (0, 1, 2), "Thurber": (0, 1, 2, 3)}[name]
    start = table[:, 0].copy()
    start[list(linear)] = 0
    solution = nonlinear.fit(MODELS[name], start, x, y, linear=linear)
    assert int(solution.status) == Status.ok
    assert least_digits(solution.params, table[:, 2]) >= LEAST_DIGITS
    assert least_digits(np.sqrt(np.diag(solution.stats.covariance)), table[:, 3]) >= 6

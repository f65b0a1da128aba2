"""What does ``method="certified"`` cost beside the default method of ``linear.fit``?

    python bench/certified.py [--rounds 25] [--dtype float64]

One JSON line a problem: milliseconds a fit (medians of rounds in which the two methods take turns), certified over
default, the largest error estimate relative to its coefficient, and seconds to compile. "centred" columns have a
condition number near 1; "far" ones lie 100 standard deviations from 0, which the default method subtracts first and
the certified one must not, so that it takes another turn of its factor; "polynomial" is a design of pairs, its default
counterpart works on the upper halves.

Last run, two cores of a Zen 4 machine that others were using, jax 0.10.2, float64, certified over default: 1.1 to 2.2
on small problems; 10,000 rows: centred 3.4, polynomial 6.6; 100,000 rows: centred 3.5.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.numerics.double_double import DoubleDouble, as_pair
from jaxmodels.regression import basis, linear


class Question(NamedTuple):
    """A problem of n rows and d columns."""

    kind: str
    num_rows: int
    num_columns: int


QUESTIONS = (
    Question("centred", 16, 6),
    Question("far", 16, 6),
    Question("polynomial", 82, 10),
    Question("centred", 10_000, 20),
    Question("far", 10_000, 20),
    Question("polynomial", 10_000, 10),
    Question("centred", 100_000, 10),
    Question("far", 100_000, 10),
)


def problem(question: Question, dtype: str) -> tuple[jax.Array | DoubleDouble, jax.Array]:
    generator = np.random.default_rng(0)
    targets = jnp.asarray(generator.normal(size=question.num_rows), dtype)
    if question.kind == "polynomial":
        x = jnp.asarray(generator.uniform(-9, -3, question.num_rows), dtype)
        return basis.polynomial(x, question.num_columns, precision="double_double"), targets
    columns = generator.normal(size=(question.num_rows, question.num_columns)) + 100 * (question.kind == "far")
    return jnp.asarray(columns, dtype), targets


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def measure(question: Question, dtype: str, rounds: int) -> dict:
    x, y = problem(question, dtype)
    calls = {
        "default": functools.partial(jax.jit(lambda x, y: linear.fit(x, y)), as_pair(x).high, y),
        "certified": functools.partial(jax.jit(lambda x, y: linear.fit(x, y, method="certified")), x, y),
    }
    first = {name: seconds(call) for name, call in calls.items()}
    times = [{name: seconds(call) for name, call in calls.items()} for _ in range(rounds)]
    medians = {name: statistics.median(each[name] for each in times) for name in calls}
    fit = calls["certified"]()
    relative = jnp.max(fit.stats.error.coefficients / jnp.abs(fit.params.coefficients))
    return question._asdict() | {
        "dtype": dtype,
        "default_ms": round(1e3 * medians["default"], 3),
        "certified_ms": round(1e3 * medians["certified"], 3),
        "ratio": round(medians["certified"] / medians["default"], 2),
        "relative_error": float(f"{float(relative):.1e}"),
        "compile_s": {name: round(value, 1) for name, value in first.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    options = parser.parse_args()
    device = (
        jax.devices()[0].device_kind if jax.default_backend() != "cpu" else platform.processor() or platform.machine()
    )
    print(json.dumps({"device": device, "jax": importlib.metadata.version("jax"), "python": platform.python_version()}))
    with jax.enable_x64(options.dtype == "float64"):
        for question in QUESTIONS:
            print(json.dumps(measure(question, options.dtype, options.rounds)), flush=True)


if __name__ == "__main__":
    main()

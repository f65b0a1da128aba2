"""What does ``method="certified"`` cost beside the default method of ``linear.fit``?

    python bench/certified.py [--rounds 25] [--dtype float64]

One JSON line a problem: milliseconds a fit (medians of rounds in which the two methods take turns), certified over
default, the largest error estimate relative to its coefficient, and seconds to compile. "centred" columns have a
condition number near 1; "far" ones lie 100 standard deviations from 0, which the default method subtracts first and
the certified one must not, so that it takes another turn of its factor; "polynomial" is a design of pairs, its default
counterpart works on the upper halves.

Last run, two idle Zen 4 cores, jax 0.10.2, float64, certified over default: 1.8 to 2.0 on small problems; 10,000 rows:
centred 2.7, far 2.7, polynomial 3.3; 100,000 rows of 10 columns: 4.2 centred and far. Two quiet Xeon cores (Emerald
Rapids): 2.1 to 2.3; 3.2, 3.3, 4.4; 3.5, 3.7.
"""

from __future__ import annotations

import argparse
import functools
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels import benchmark
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


def measure(question: Question, dtype: str, rounds: int) -> dict:
    x, y = problem(question, dtype)
    calls = {
        "default": functools.partial(jax.jit(lambda x, y: linear.fit(x, y)), as_pair(x).high, y),
        "certified": functools.partial(jax.jit(lambda x, y: linear.fit(x, y, method="certified")), x, y),
    }
    timed = benchmark.take_turns(calls, rounds=rounds)
    fit = timed["certified"].result
    relative = jnp.max(fit.stats.error.coefficients / jnp.abs(fit.params.coefficients))
    return question._asdict() | {
        "dtype": dtype,
        "default_ms": round(1e3 * timed["default"].median, 3),
        "certified_ms": round(1e3 * timed["certified"].median, 3),
        "ratio": round(timed["certified"].over(timed["default"]).value, 2),
        "relative_error": float(f"{float(relative):.1e}"),
        "compile_s": {name: round(timing.first_seconds, 1) for name, timing in timed.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    options = parser.parse_args()
    print(json.dumps(benchmark.around()))
    with jax.enable_x64(options.dtype == "float64"):
        for question in QUESTIONS:
            print(json.dumps(measure(question, options.dtype, options.rounds)), flush=True)


if __name__ == "__main__":
    main()

"""How fast is a generalized linear model beside scikit-learn's and statsmodels' on the same objective?

    python bench/glm.py [--quick] [--rounds 7]

One JSON line a candidate. The candidates of a question take turns in one process; ``ratio`` is the median over rounds
of jaxmodels' time over that candidate's in the same round: below 1, jaxmodels is faster. Compilation is timed apart.
``gradient`` is the largest entry of the objective's gradient in float64, over the number of rows, so that all are seen
to have solved the same problem as well: scikit-learn's tolerances are set where its gradient is about as small.

Last runs, Python 3.11, jax 0.10.2, scikit-learn 1.9.1, 7 rounds, ratios to newton-cholesky and lbfgs, on two Zen cores
and on two quiet Xeon cores (Emerald Rapids): logistic float32 0.65, 0.41 and 0.60, 0.42 (at ten times our gradient),
float64 0.44, 1.4 and 0.59, 2.1 (at 1e7 times our gradient, which is as small as it gets); poisson 0.31 to 0.46, 0.13 to
0.21 and 0.28, 0.19. BLAS threads that spin on busy cores made newton-cholesky up to ten times slower in other runs:
those ratios do not count.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jaxmodels import benchmark, glm


class Question(NamedTuple):
    """A regression of so many rows and columns; ``l2`` is on the sum of losses, as scikit-learn's 1 / C."""

    family: str
    num_rows: int
    num_columns: int
    dtype: str
    l2: float = 1.0


QUESTIONS = (
    Question("bernoulli", 100_000, 100, "float32"),
    Question("bernoulli", 100_000, 100, "float64"),
    Question("poisson", 10_000, 50, "float64"),
)
QUICK = (Question("bernoulli", 2_000, 10, "float64"), Question("poisson", 2_000, 10, "float64"))
# Seconds before a turn, for the threads of the one before to stop spinning.
PAUSE = 0.3
# Coefficients, intercept.
Answer = tuple[np.ndarray, float]


def problem(question: Question) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(question.num_rows, question.num_columns))
    predictor = x @ rng.normal(size=question.num_columns) / question.num_columns**0.5
    if question.family == "bernoulli":
        y = rng.uniform(size=question.num_rows) < 1 / (1 + np.exp(-predictor))
    else:
        y = rng.poisson(np.exp(predictor / 2))
    return x.astype(question.dtype), y.astype(question.dtype)


def gradient(question: Question, x: np.ndarray, y: np.ndarray, answer: Answer) -> float:
    coefficients, intercept = (np.asarray(part, np.float64) for part in answer)
    predictor = x.astype(np.float64) @ coefficients + intercept
    mean = 1 / (1 + np.exp(-predictor)) if question.family == "bernoulli" else np.exp(predictor)
    slopes = x.astype(np.float64).T @ (mean - y) + question.l2 * coefficients
    return float(np.abs(np.append(slopes, np.sum(mean - y))).max() / question.num_rows)


def ours(question: Question, x: np.ndarray, y: np.ndarray) -> Callable[[], Answer]:
    device_x, device_y = jax.device_put((x, y))

    return lambda: glm.fit(device_x, device_y, family=question.family, l2=question.l2).params


def scikit_learn(question: Question, x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], Answer]]:
    from sklearn.linear_model import LogisticRegression, PoissonRegressor

    def make(solver: str, tolerance: float):
        if question.family == "bernoulli":
            return LogisticRegression(C=1 / question.l2, solver=solver, tol=tolerance, max_iter=1000)
        return PoissonRegressor(alpha=question.l2 / len(x), solver=solver, tol=tolerance, max_iter=1000)

    def run(solver, tolerance):
        model = make(solver, tolerance).fit(x, y)
        return np.ravel(model.coef_), float(np.ravel(model.intercept_)[0])

    single = question.dtype == "float32"
    return {
        "scikit-learn newton-cholesky": lambda: run("newton-cholesky", 1e-6 if single else 1e-10),
        "scikit-learn lbfgs": lambda: run("lbfgs", 1e-8),
    }


def measure(question: Question, rounds: int) -> None:
    x, y = problem(question)
    timed = benchmark.take_turns(
        {"jaxmodels": ours(question, x, y)} | scikit_learn(question, x, y), rounds=rounds, pause=PAUSE
    )
    for name, timing in timed.items():
        line = question._asdict() | {
            "candidate": name,
            "milliseconds": round(1e3 * timing.median, 2),
            "ratio": round(timed["jaxmodels"].over(timing).value, 3),
            "gradient": float(f"{gradient(question, x, y, timing.result):.1e}"),
            "rounds": rounds,
        }
        if name == "jaxmodels":
            line["compile_seconds"] = round(timing.first_seconds - timing.median, 2)
        print(json.dumps(line | benchmark.around()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    for question in QUICK if options.quick else QUESTIONS:
        measure(question, 2 if options.quick else options.rounds)


if __name__ == "__main__":
    main()

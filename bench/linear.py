"""How fast is linear regression, one large problem and thousands of small ones, beside the libraries people use?

    python bench/linear.py [--quick] [--rounds 7]

One JSON line a candidate. All candidates of a question take turns in one process, and ``ratio`` is the median of
jaxmodels' default method over that candidate's: below 1, jaxmodels is faster. Compilation is timed apart. ``error`` is
the largest difference from a float64 Householder solution, relative to the largest coefficient. A candidate that would
take minutes is timed on a part of the problems, and ``timed_on`` says on how many.

Last run, two idle Zen 4 cores, Python 3.11.7, jax 0.10.2, scikit-learn 1.9.1, torch 2.13.0; ratios float32, float64.
100,000 x 100: scikit-learn 0.30, 0.32 (a run before 0.31, 0.30), scipy gelsy 0.45, 0.39, torch gels 0.53, 0.62, a
Cholesky factor without refinement and with 25 to 500 times the error 2.6, 2.2. 100,000 problems of 100 x 5: vmap of
jnp.linalg.qr 1.12 (six times the error), 0.95; normal equations 0.96, 0.98; torch 0.76, 0.67; numpy qr 0.25, 0.25;
scikit-learn in a loop 0.004, 0.005. 10,000 of them: the fastest in batches 1.43, 1.41; scikit-learn 0.005, 0.008.
Two quiet Xeon cores (Emerald Rapids): 100,000 x 100: scikit-learn 0.31, 0.31, scipy gelsy 0.37, 0.43; 100,000 problems:
vmap of jnp.linalg.qr 1.28, 1.38, torch 1.02, 0.89, numpy qr 0.28, 0.19, scikit-learn 0.008, 0.010; of 10,000 the
fastest 2.2, 1.5.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels import benchmark
from jaxmodels.regression import linear

DEFAULT = "jaxmodels qr"


class Candidate(NamedTuple):
    """A way to the coefficients (and standard errors), of all problems or the first ``part`` of them."""

    run: Callable[[], Any]
    part: int | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rounds = 2 if options.quick else options.rounds
    rows, columns = (5_000, 20) if options.quick else (100_000, 100)
    for dtype in (np.float32, np.float64):
        question = {"question": f"{rows} x {columns}", "dtype": np.dtype(dtype).name}
        report(question, *one_large(rows, columns, dtype), rounds=rounds, problems=1)
    for problems in (500,) if options.quick else (10_000, 100_000):
        for dtype in (np.float32, np.float64):
            question = {"question": f"{problems} of 100 x 5, standard errors", "dtype": np.dtype(dtype).name}
            report(question, *many_small(problems, dtype), rounds=rounds, problems=problems)


def report(
    question: dict, candidates: dict[str, Candidate], reference: np.ndarray, *, rounds: int, problems: int
) -> None:
    """Time the candidates in turns and print a line each."""
    timed = benchmark.take_turns({name: candidate.run for name, candidate in candidates.items()}, rounds=rounds)
    for name, candidate in candidates.items():
        timing, scale = timed[name], problems / candidate.part if candidate.part else 1
        found = np.asarray(timing.result, np.float64)
        error = np.abs(found - reference[: len(found)]).max() / np.abs(reference).max()
        line = question | {
            "candidate": name,
            "milliseconds": round(1e3 * scale * timing.median, 2),
            "fastest_milliseconds": round(1e3 * scale * min(timing.seconds), 2),
            "ratio": round(timed[DEFAULT].over(timing).value / scale, 4),
            "error": float(f"{error:.1e}"),
            "rounds": rounds,
        }
        if name.startswith(("jaxmodels", "jax.")):
            line["compile_milliseconds"] = round(1e3 * (timing.first_seconds - timing.median))
        if candidate.part:
            line["timed_on"] = candidate.part
        print(json.dumps(line | benchmark.around()), flush=True)


# One large problem ---------------------------------------------------------------------------------------------------


def one_large(rows: int, columns: int, dtype: Any) -> tuple[dict[str, Candidate], np.ndarray]:
    """Coefficients of one problem, correlated columns, with an intercept."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(rows, 5)) @ rng.normal(size=(5, columns))
    x = (rng.normal(size=(rows, columns)) + 0.3 * factors + rng.normal(size=columns)).astype(dtype)
    y = (x @ rng.normal(size=columns) + rng.normal(size=rows)).astype(dtype)
    centered = x - x.mean(axis=0, dtype=np.float64)
    upper = np.linalg.qr(np.column_stack([centered, y - y.mean(dtype=np.float64)]), mode="r")
    reference = np.linalg.solve(upper[:columns, :columns], upper[:columns, -1])
    device_x, device_y = jax.device_put((x, y))
    candidates = {
        f"jaxmodels {method}": Candidate(lambda method=method: _coefficients(device_x, device_y, method))
        for method in linear.METHODS
    }
    design = np.column_stack([np.ones(rows, dtype), x])
    candidates["numpy lstsq"] = Candidate(lambda: np.linalg.lstsq(design, y, rcond=None)[0][1:])
    candidates |= _scipy(x, y, design) | _statsmodels(design, y) | _torch(design, y)
    return candidates, reference


def _coefficients(x, y, method):
    return jax.block_until_ready(linear.fit(x, y, method=method).params.coefficients)


def _scipy(x, y, design) -> dict[str, Candidate]:
    import scipy.linalg
    from sklearn.linear_model import LinearRegression

    def cholesky():
        factor = scipy.linalg.cho_factor(design.T @ design)
        return scipy.linalg.cho_solve(factor, design.T @ y)[1:]

    return {
        "scikit-learn LinearRegression": Candidate(lambda: LinearRegression().fit(x, y).coef_),
        "scipy lstsq gelsy": Candidate(lambda: scipy.linalg.lstsq(design, y, lapack_driver="gelsy")[0][1:]),
        "scipy Cholesky, not refined": Candidate(cholesky),
    }


def _statsmodels(design, y) -> dict[str, Candidate]:
    try:
        import statsmodels.api as sm
    except ImportError:
        return {}
    return {"statsmodels OLS qr": Candidate(lambda: sm.OLS(y, design).fit(method="qr").params[1:])}


def _torch(design, y) -> dict[str, Candidate]:
    try:
        import torch
    except ImportError:
        return {}
    rows, targets = torch.from_numpy(design), torch.from_numpy(y)[:, None]
    return {"torch lstsq gels": Candidate(lambda: torch.linalg.lstsq(rows, targets, driver="gels").solution[1:, 0])}


# Many small problems -------------------------------------------------------------------------------------------------


def many_small(problems: int, dtype: Any) -> tuple[dict[str, Candidate], np.ndarray]:
    """Coefficients and standard errors, intercept first: ``[problems, 2, 6]``."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(problems, 100, 5)).astype(dtype)
    y = (np.einsum("bni,i->bn", x, rng.normal(size=5)) + rng.normal(size=(problems, 100))).astype(dtype)
    device_x, device_y = jax.device_put((x, y))
    device_weights = jnp.ones_like(device_y)
    candidates = {
        DEFAULT: Candidate(lambda: jax.block_until_ready(_fit_all(device_x, device_y))),
        "jaxmodels qr, weighted": Candidate(
            lambda: jax.block_until_ready(_fit_all(device_x, device_y, device_weights))
        ),
        "jax.vmap of jnp.linalg.qr": Candidate(lambda: jax.block_until_ready(_jax_qr(device_x, device_y))),
        "numpy qr": Candidate(lambda: _numpy_qr(x, y)),
        "numpy normal equations": Candidate(lambda: _numpy_normal(x, y)),
    }
    candidates |= _torch_batched(x, y) | _loops(x, y)
    reference = _numpy_qr(x.astype(np.float64), y.astype(np.float64))
    return candidates, reference


@jax.jit
def _fit_all(x, y, weights=None):
    axes = (0, 0, None if weights is None else 0)
    return jax.vmap(lambda x, y, weights: _with_errors(linear.fit(x, y, weights=weights)), axes)(x, y, weights)


def _with_errors(solution):
    stats = solution.stats
    factor = stats.covariance_factor.at[0].add(-stats.center @ stats.covariance_factor[1:])
    estimates = jnp.concatenate([solution.params.intercept[None], solution.params.coefficients])
    return jnp.stack([estimates, jnp.sqrt(stats.sigma2 * jnp.sum(factor**2, axis=1))])


@jax.jit
def _jax_qr(x, y):
    return jax.vmap(lambda x, y: _from_triangle(jnp, *_augmented_triangle(jnp, x, y)))(x, y)


def _numpy_qr(x, y):
    return _from_triangle(np, *_augmented_triangle(np, x, y))


def _augmented_triangle(module, x, y):
    rows = module.concatenate([module.ones_like(x[..., :1]), x, y[..., None]], axis=-1)
    return module.linalg.qr(rows, mode="r"), x.shape[-2]


def _from_triangle(module, upper, num_rows):
    size = upper.shape[-1] - 1
    inverse = module.linalg.inv(upper[..., :size, :size])
    sigma = module.abs(upper[..., size, size]) / (num_rows - size) ** 0.5
    estimates = (inverse @ upper[..., :size, size:])[..., 0]
    errors = sigma[..., None] * module.sqrt((inverse**2).sum(-1))
    return module.stack([estimates, errors], -2)


def _numpy_normal(x, y):
    rows = np.concatenate([np.ones_like(x[..., :1]), x], axis=-1)
    turned = rows.swapaxes(-1, -2)
    inverse = np.linalg.inv(turned @ rows)
    estimates = inverse @ (turned @ y[..., None])
    residuals = y - (rows @ estimates)[..., 0]
    sigma2 = (residuals**2).sum(-1) / (x.shape[-2] - rows.shape[-1])
    errors = np.sqrt(sigma2[:, None] * np.diagonal(inverse, axis1=-2, axis2=-1))
    return np.stack([estimates[..., 0], errors], -2)


def _torch_batched(x, y) -> dict[str, Candidate]:
    try:
        import torch
    except ImportError:
        return {}
    rows = torch.cat([torch.ones(*x.shape[:2], 1, dtype=torch.from_numpy(x[:0]).dtype), torch.from_numpy(x)], -1)
    targets = torch.from_numpy(y)[..., None]

    def qr():
        upper = torch.linalg.qr(torch.cat([rows, targets], -1), mode="r").R
        size = upper.shape[-1] - 1
        identity = torch.eye(size, dtype=upper.dtype)
        inverse = torch.linalg.solve_triangular(upper[:, :size, :size], identity, upper=True)
        sigma = upper[:, size, size].abs() / (rows.shape[-2] - size) ** 0.5
        errors = sigma[:, None] * (inverse**2).sum(-1).sqrt()
        return torch.stack([(inverse @ upper[:, :size, size:])[..., 0], errors], -2)

    part = min(len(x), 500)

    def lstsq():
        estimates = torch.linalg.lstsq(rows[:part], targets[:part]).solution[..., 0]
        return torch.stack([estimates, torch.from_numpy(exact_errors)], -2)

    exact_errors = _numpy_qr(x[:part], y[:part])[:, 1]
    return {"torch qr": Candidate(qr), "torch lstsq (no standard errors)": Candidate(lstsq, part)}


def _loops(x, y) -> dict[str, Candidate]:
    from sklearn.linear_model import LinearRegression

    part = min(len(x), 500)
    exact_errors = _numpy_qr(x[:part], y[:part])[:, 1]

    def scikit_learn():
        fits = [LinearRegression().fit(*each) for each in zip(x[:part], y[:part], strict=True)]
        return np.stack([np.stack([[fit.intercept_, *fit.coef_] for fit in fits]), exact_errors], -2)

    candidates = {"scikit-learn loop (no standard errors)": Candidate(scikit_learn, part)}
    try:
        import statsmodels.api as sm
    except ImportError:
        return candidates

    def statsmodels():
        fits = [sm.OLS(b, sm.add_constant(a)).fit() for a, b in zip(x[:part], y[:part], strict=True)]
        return np.stack([np.stack([fit.params, fit.bse]) for fit in fits])

    return candidates | {"statsmodels loop": Candidate(statsmodels, part)}


if __name__ == "__main__":
    main()

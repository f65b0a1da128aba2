"""How fast is nonlinear least squares, one curve and thousands of them, beside scipy's curve_fit with its Jacobian?

    python bench/nonlinear.py [--quick] [--rounds 5]

One JSON line a candidate. Candidates of a question take turns in one process, and ``ratio`` is the median of the
candidate over that of curve_fit: below 1, it is faster. Many curves are also spread over devices, where the CPU is so
many of them as it has cores: XLA runs a program of small operations on one. Compilation is timed apart. Same model,
same starts; both sides give standard errors. ``error`` is how far the parameters are from the minimum at most, in
standard errors: the tolerances, curve_fit's own and that of jaxmodels here, are such that it is alike, where the
default of jaxmodels would go on to 1e-9. curve_fit is timed on ``timed_on`` of the curves where all would take minutes;
where it gives up it is counted as ``failed``, and its time counts. The last question is for accelerators: a million
small fits in float32.

Last run, jax 0.10.2, on two quiet Xeon cores (Emerald Rapids): one fit of 1000 x 4 0.46; 10,000 together 0.20, over
devices 0.10; 160,000 of 140 x 5 0.14 and 0.06, in 9 and 4 s; 10,000 of 25 x 5 in float32 0.09 and 0.03. No
accelerator was at hand.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from jaxmodels import benchmark
from jaxmodels.regression import nonlinear

# height, rate, level, slope; the fifth: place of a peak that is left out of the four.
TRUTH = np.array([3.0, 0.8, 1.0, 0.1, 4.0])
START = np.array([1.0, 1.0, 0.0, 0.0, 3.5])
TOLERANCE = {"float64": 1e-7, "float32": 1e-4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    many, most = (200, 1_000) if options.quick else (10_000, 160_000)
    compare(1, num_points=1000, num_params=4, rounds=5 * options.rounds)
    compare(many, num_points=1000, num_params=4, rounds=options.rounds)
    compare(most, num_points=140, num_params=5, rounds=1)
    small = 1_000_000 if jax.default_backend() != "cpu" else many
    compare(small, num_points=25, num_params=5, rounds=options.rounds, dtype="float32")


def curve(params, x, exp=jnp.exp):
    mean = params[0] * exp(-params[1] * x) + params[2] + params[3] * x
    return mean if len(params) == 4 else mean + exp(-((x - params[4]) ** 2))


def jacobian(x, *params) -> np.ndarray:
    fall = np.exp(-params[1] * x)
    columns = [fall, -params[0] * x * fall, np.ones_like(x), x]
    if len(params) == 5:
        columns.append(2 * (x - params[4]) * np.exp(-((x - params[4]) ** 2)))
    return np.stack(columns, axis=1)


@functools.partial(jax.jit, static_argnames=("num_params", "tolerance"))
def jaxmodels_fit(x, y, *, num_params, tolerance=None):
    def one(y):
        solution = nonlinear.fit(curve, jnp.asarray(START[:num_params], y.dtype), x, y, tolerance=tolerance)
        return solution.params, nonlinear.infer(solution).standard_error, solution.status

    return one(y[0]) if len(y) == 1 else jax.vmap(one)(y)


def spread(fit, data):
    """``fit`` and its data with the curves over all devices."""
    num_devices = math.gcd(jax.device_count(), len(data[1]))
    mesh = jax.make_mesh((num_devices,), ("curves",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere, curves = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("curves")
    places = [jax.sharding.NamedSharding(mesh, spec) for spec in (everywhere, curves)]
    fit = jax.shard_map(fit, mesh=mesh, in_specs=(everywhere, curves), out_specs=curves, check_vma=False)
    return jax.jit(fit), [jax.device_put(each, place) for each, place in zip(data, places, strict=True)]


def scipy_fit(x, y, *, num_params):
    def function(x, *params):
        return curve(params, x, np.exp)

    def one(y):
        try:
            return optimize.curve_fit(function, x, y, START[:num_params], jac=jacobian)[0]
        except RuntimeError:  # no convergence
            return np.full(num_params, np.nan)

    return np.array([one(each) for each in y])


def compare(num_curves: int, *, num_points: int, num_params: int, rounds: int, dtype: str = "float64") -> None:
    random = np.random.default_rng(0)
    x = np.linspace(0, 6, num_points)
    truth = TRUTH[:num_params] * random.uniform(0.8, 1.2, (num_curves, num_params))
    noise = 0.05 * random.normal(size=(num_curves, num_points))
    y = curve(truth.T[..., None], x, np.exp) + noise
    part = min(num_curves, 1000)
    data = jax.device_put((x.astype(dtype), y.astype(dtype)))
    fit = functools.partial(jaxmodels_fit, num_params=num_params, tolerance=TOLERANCE[dtype])
    candidates = {"jaxmodels": lambda: fit(*data)}
    if num_curves > 1 and jax.device_count() > 1:
        spread_fit, spread_data = spread(fit, data)
        candidates["jaxmodels, over devices"] = lambda: spread_fit(*spread_data)
    candidates["curve_fit"] = lambda: scipy_fit(x, y[:part], num_params=num_params)
    timed = benchmark.take_turns(candidates, rounds=rounds)
    minimum, unit, _ = of_lanes(jaxmodels_fit(x, y[:part], num_params=num_params), part)
    for name, timing in timed.items():
        theirs = name == "curve_fit"
        scale = num_curves / part if theirs else 1.0
        params = timing.result if theirs else of_lanes(timing.result, num_curves)[0]
        line = {
            "question": f"{num_curves} of {num_points} x {num_params} {dtype}",
            "candidate": name,
            "milliseconds": round(1e3 * scale * timing.median, 3),
            "ratio": round(timing.over(timed["curve_fit"]).value * scale * part / num_curves, 4),
            "fits_a_second": round(num_curves / (scale * timing.median)),
            "error": float(f"{np.nanmax(np.abs(params[:part] - minimum) / unit):.1e}"),
            "rounds": rounds,
        }
        if theirs:
            line |= {"timed_on": part, "failed": int(np.isnan(params).any(axis=1).sum())}
        else:
            compiling = timing.first_seconds - timing.median
            failed = int(np.count_nonzero(of_lanes(timing.result, num_curves)[2]))
            line |= {"compile_milliseconds": round(1e3 * compiling), "failed": failed}
        print(json.dumps(line | benchmark.around()), flush=True)


def of_lanes(result, num_lanes: int) -> list[np.ndarray]:
    return [np.asarray(each).reshape(num_lanes, -1) for each in result]


if __name__ == "__main__":
    main()

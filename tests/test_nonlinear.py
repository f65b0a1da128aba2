"""Nonlinear least squares against scipy, closed forms and itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

from jaxmodels import losses, train
from jaxmodels.core import Batch, InputError, Status
from jaxmodels.numerics import lanes, qr, robust
from jaxmodels.numerics import levenberg_marquardt as lm
from jaxmodels.regression import nonlinear

X = np.linspace(0, 5, 40)
Y = 3 * np.exp(-0.7 * X) + 0.05 * np.random.default_rng(0).normal(size=40)
START = np.array([1.0, 1.0])
NO_LIMITS = lm.Limits(lower=None, upper=None, magnitude=jnp.ones(()))


def decay(params, x):
    return params[0] * jnp.exp(-params[1] * x)


def scipy_residuals(params):
    return params[0] * np.exp(-params[1] * X) - Y


@pytest.mark.parametrize("loss", ["huber", "soft_l1", "cauchy"])
def test_robust_losses_against_scipy(x64, loss):
    y = Y.copy()
    y[[3, 17, 30]] += [5, -4, 8]
    solution = nonlinear.fit(decay, START, X, y, loss=loss, loss_scale=0.1)
    theirs = optimize.least_squares(
        lambda b: b[0] * np.exp(-b[1] * X) - y, START, loss=loss, f_scale=0.1, xtol=1e-15, ftol=1e-15, gtol=1e-12
    )
    assert int(solution.status) == Status.ok
    assert float(solution.stats.cost) <= 2 * theirs.cost * (1 + 1e-12)
    np.testing.assert_allclose(solution.params, theirs.x, rtol=2e-6)


def test_tukey_ignores_wild_values(x64):
    y = Y.copy()
    y[[3, 17, 30]] += [5, -4, 8]
    keep = np.ones(40, bool)
    keep[[3, 17, 30]] = False
    robust = nonlinear.fit(decay, np.array([3.0, 0.6]), X, y, loss="tukey", loss_scale=0.5)
    without = nonlinear.fit(decay, np.array([3.0, 0.6]), X, y, loss="tukey", loss_scale=0.5, mask=keep)
    np.testing.assert_allclose(robust.params, without.params, rtol=1e-8)
    assert np.abs(robust.params - np.array([3, 0.7])).max() < 0.1


def test_bounds_against_scipy(x64):
    """One bound holds: the other parameter is where it belongs given that."""
    solution = nonlinear.fit(decay, np.array([1.0, 0.3]), X, Y, bounds=(jnp.array([0.0, 0.0]), jnp.array([10.0, 0.5])))
    height = np.sum(Y * np.exp(-0.5 * X)) / np.sum(np.exp(-1.0 * X))
    assert int(solution.status) == Status.ok
    np.testing.assert_allclose(solution.params, [height, 0.5], rtol=1e-9)
    assert solution.stats.free.tolist() == [True, False]
    error = nonlinear.infer(solution).standard_error
    assert np.isfinite(error[0])
    assert np.isnan(error[1])


@pytest.mark.parametrize("columns", [[X, X], [X, X, np.ones_like(X)]])
def test_a_bound_frees_the_parameter_that_depended_on_the_one_it_holds(x64, columns):
    """The search goes on to the minimum, where any split of the slope between the two would do."""
    y, columns = 3 * X + 0.1 * np.sin(9 * X), np.array(columns)
    upper = np.array([1.0, 10.0, 10.0])[: len(columns)]
    solution = nonlinear.fit(lambda b, x: b @ columns, np.full(len(columns), 0.5), X, y, bounds=(-1.0, upper))
    assert int(solution.status) in (Status.ok, Status.rank_deficient)
    np.testing.assert_allclose(
        solution.params @ columns, columns.T @ np.linalg.lstsq(columns.T, y, rcond=None)[0], atol=1e-9
    )


def test_infer_against_curve_fit(x64):
    sigma = np.linspace(0.03, 0.09, 40)
    solution = nonlinear.fit(decay, START, X, Y, sigma=sigma)
    for absolute in (False, True):
        params, covariance = optimize.curve_fit(
            lambda x, a, b: a * np.exp(-b * x), X, Y, START, sigma, absolute, xtol=1e-14, ftol=1e-14
        )
        found = nonlinear.infer(solution, absolute_sigma=absolute)
        np.testing.assert_allclose(found.estimate, params, rtol=1e-7)
        np.testing.assert_allclose(found.covariance, covariance, rtol=1e-5)
    half_life = nonlinear.infer(solution, of=lambda params: jnp.log(2) / params[1])
    slope = np.log(2) / solution.params[1] ** 2
    np.testing.assert_allclose(half_life.standard_error, slope * np.sqrt(solution.stats.covariance[1, 1]), rtol=1e-12)


@pytest.mark.parametrize("units", [(1, 1, 1, 1), (1e-25, 1, 1e25, 1e12)])  # whose squares float32 does not hold
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear_models_are_householders(x64, dtype, units):
    """Also by one Gram matrix in the basis of the point before, as two rates become one and part again."""
    units, eps = np.array(units), np.finfo(dtype).eps

    def residuals(_, params):
        first, second = (params * units.astype(dtype)).reshape(2, 2)
        return (Y - decay(first, X) - decay(second, X)).astype(dtype)

    squared = robust.LOSSES["squared"]
    problem = lm.Problem(residuals, squared, num_linear=0, tolerance=1e-9, max_steps=9)
    each = lanes.each_alone((None, jnp.zeros(4, dtype), NO_LIMITS))
    state = lm.start(problem, each)
    look = jax.jit(lambda at, trial: lm.look(problem, state._replace(at=at, trial=trial), each))
    at, ranks, basis = state.at, [], np.eye(4)
    for rate in (3, 2.5, 1.5, 0.6, 0.51, 0.5, 0.6, 2):
        params = np.array([1, 0.5, 2, rate])
        at = look(at, jnp.asarray(params / units, dtype))
        first, second = np.exp(-0.5 * X), np.exp(-rate * X)
        jacobian = np.stack([first, -X * first, second, -2 * X * second], axis=1)
        rotation, upper = np.linalg.qr(jacobian)
        # A Gram matrix loses the square of the condition that is left in the basis of the point before.
        loss = 100 * eps * max(np.linalg.cond(jacobian), min(np.linalg.cond(jacobian @ basis), eps ** (-1 / 3)) ** 2)
        kept = np.asarray(jnp.any(at.inverse != 0, axis=1))
        ranks.append(kept.sum())
        if kept.all():
            sign = np.sign(np.diagonal(upper))
            ours = np.asarray(at.upper, float) / units
            np.testing.assert_allclose(ours, sign[:, None] * upper, rtol=0, atol=loss)
            np.testing.assert_allclose(ours @ (units[:, None] * at.inverse), np.eye(4), atol=loss)
            rotated = sign * (rotation.T @ (Y - first - 2 * second))
            np.testing.assert_allclose(at.rotated, rotated, rtol=0, atol=loss)
        basis = units[:, None] * np.asarray(at.inverse, float) if kept.all() else np.eye(4)
    assert ranks == [4, 4, 4, 4, 4, 2, 4, 4]


@pytest.mark.parametrize(("num_params", "unit"), [(3, 1e-25), (3, 1e25), (48, 1)])
def test_looks_keep_the_parameters_that_a_full_factor_keeps(num_params, unit):
    """The last column goes towards the first, its distance as many times as said the least that counts."""
    design = np.random.default_rng(0).normal(size=(200, num_params)).astype("float32")
    least = qr.DEPENDENT * qr.growth(num_params) * np.finfo("float32").eps

    def residuals(_, params):
        *others, last = jnp.split(params * np.float32(unit), [num_params - 1])
        line = jnp.concatenate([*others, jnp.zeros(1)])
        return -(design @ line + design[:, 0] * last + design[:, -1] * last**2 / 2)

    squared = robust.LOSSES["squared"]
    problem = lm.Problem(residuals, squared, num_linear=0, tolerance=1e-4, max_steps=9)
    each = lanes.each_alone((None, jnp.ones(num_params) / np.float32(unit), NO_LIMITS))
    state = lm.start(problem, each)
    look = jax.jit(lambda at, trial: lm.look(problem, state._replace(at=at, trial=trial), each))
    in_full = jax.jit(lambda trial: lm.linearise(problem, None, trial, NO_LIMITS))
    at, kept = state.at, []
    for distance in (1e4, 1e3, 100, 10, 1.5, 1.3, 0.8, 0.1, 0.01, 0.1, 10, 1e4):
        trial = state.trial.at[-1].set(np.float32(distance * least / unit))
        at, exact = look(at, trial), in_full(trial)
        kept.append(bool(at.inverse[-1].any()))
        np.testing.assert_array_equal(at.inverse.any(axis=1), exact.inverse.any(axis=1))
        np.testing.assert_allclose(at.upper / unit, exact.upper / unit, rtol=0, atol=1e-4)
    assert kept == [True] * 6 + [False] * 4 + [True] * 2


def test_units_of_parameters_do_not_matter():
    units = np.array([1e-15, 1e15], "float32")
    plain = nonlinear.fit(decay, np.float32(START), X, np.float32(Y))
    ours = nonlinear.fit(lambda params, x: decay(params * units, x), START / units, X, np.float32(Y))
    assert int(ours.status) == Status.ok
    np.testing.assert_allclose(ours.params * units, plain.params, rtol=1e-5)
    errors = nonlinear.infer(plain).standard_error
    np.testing.assert_allclose(nonlinear.infer(ours).standard_error * units, errors, rtol=1e-4)


def test_lanes_alone_and_together(x64, monkeypatch):
    """Ragged lanes, one that is hopeless and one that does not converge: the others stay as they are, bit for bit."""
    monkeypatch.setattr(lanes, "CPU_GROUP_LANES", 8)  # of the last group not all
    num_lanes = 20
    rates = np.linspace(0.2, 3, num_lanes)
    y = np.exp(-rates[:, None] * X) * 2 + 0.01 * np.random.default_rng(1).normal(size=(num_lanes, 40))
    mask = np.arange(40) < np.linspace(10, 40, num_lanes)[:, None]
    y = np.where(mask, y, np.nan)
    together = jax.jit(jax.vmap(lambda y, mask: nonlinear.fit(decay, START, X, y, mask=mask)))
    healthy = together(y, mask)
    assert not healthy.status.any()
    y[5, 0] = np.nan
    spoilt = together(y, mask)
    others = np.arange(num_lanes) != 5
    assert int(spoilt.status[5]) == Status.nonfinite
    assert np.isnan(spoilt.params[5]).all()
    for one, two in zip(jax.tree.leaves(healthy), jax.tree.leaves(spoilt), strict=True):
        np.testing.assert_array_equal(one[others], two[others])
    for lane in (0, 11, 19):
        alone = nonlinear.fit(decay, START, X, y[lane], mask=mask[lane])
        np.testing.assert_allclose(healthy.params[lane], alone.params, rtol=1e-9)
        cut = mask[lane]
        np.testing.assert_allclose(
            healthy.params[lane],
            optimize.curve_fit(lambda x, a, b: a * np.exp(-b * x), X[cut], y[lane][cut], START, xtol=1e-14)[0],
            rtol=1e-6,
        )


def waves(params, x):
    return params[0] + params[1:5] @ jnp.sin(jnp.arange(1, 5)[:, None] * x) + params[5] * jnp.exp(-params[6] * x)


@pytest.mark.parametrize("options", [{}, {"bounds": (0.1, np.array([9, 9, 9, 9, 9, 2.5, 0.9]))}, {"linear": range(6)}])
@pytest.mark.parametrize("function", [decay, waves])  # of so few parameters that entries are lanes, and of more
def test_lanes_are_the_loop(x64, monkeypatch, function, options):
    """A few lanes at a time of a larger group, whatever a turn does."""
    monkeypatch.setattr(lanes, "CPU_FEW_BYTES", 1)
    num_params, num_lanes = {decay: 2, waves: 7}[function], 20
    if "bounds" in options:
        options = {"bounds": (options["bounds"][0], options["bounds"][1][-num_params:])}
    elif options:
        options = {"linear": range(num_params - 1)}
    random = np.random.default_rng(2)
    truth = random.uniform(0.5, 2, (num_lanes, num_params))
    y = jax.vmap(function, (0, None))(truth, X) + 0.02 * random.normal(size=(num_lanes, 40))
    fit = jax.jit(lambda y: nonlinear.fit(function, np.full(num_params, 0.8), X, y, **options))
    together = jax.vmap(fit)(y)
    assert not together.status.any()
    for lane in range(num_lanes):
        alone = fit(y[lane])
        np.testing.assert_allclose(together.params[lane], alone.params, rtol=1e-8)
        np.testing.assert_allclose(together.stats.covariance[lane], alone.stats.covariance, rtol=1e-6, atol=1e-12)
        np.testing.assert_array_equal(together.stats.free[lane], alone.stats.free)
    if "bounds" in options:
        assert 0 < together.stats.free.sum() < together.stats.free.size


def test_options_may_be_arrays_but_not_traced():
    options = {"max_steps": jnp.int32(30), "tolerance": jnp.float32(1e-4), "linear": jnp.array([0])}
    assert int(nonlinear.fit(decay, START, X, Y, **options).status) == Status.ok
    with pytest.raises(InputError, match="tolerance: got a traced value"):
        jax.jit(lambda tolerance: nonlinear.fit(decay, START, X, Y, tolerance=tolerance))(1e-4)


def test_lanes_of_lanes_are_the_lanes(x64):
    y = Y * np.linspace(0.5, 2, 6)[:, None]
    fit = jax.vmap(lambda y: nonlinear.fit(decay, START, X, y, bounds=(0.0, np.array([4.0, 0.71]))))
    flat, nested = fit(y), jax.vmap(fit)(y.reshape(2, 3, -1))
    for one, two in zip(jax.tree.leaves(flat), jax.tree.leaves(nested), strict=True):
        np.testing.assert_allclose(two.reshape(one.shape), one, rtol=1e-9)


def test_slopes_of_lanes_are_those_of_each(x64):
    y = jnp.asarray(Y * np.linspace(0.5, 2, 3)[:, None])

    def rate(y):
        return nonlinear.fit(decay, START, X, y).params[1]

    slopes = jax.jit(jax.grad(lambda y: jnp.sum(jax.vmap(rate)(y))))(y)
    np.testing.assert_allclose(slopes, jnp.stack([jax.grad(rate)(each) for each in y]), rtol=1e-8, atol=1e-14)


def test_lanes_over_eight_devices(x64):
    mesh = jax.make_mesh((8,), ("lanes",), axis_types=(jax.sharding.AxisType.Auto,))
    lanes_of = jax.sharding.PartitionSpec("lanes")
    y = Y * np.linspace(0.5, 2, 24)[:, None]
    fit = jax.vmap(lambda y: nonlinear.fit(decay, START, X, y))
    spread = jax.jit(jax.shard_map(fit, mesh=mesh, in_specs=lanes_of, out_specs=lanes_of, check_vma=False))
    np.testing.assert_allclose(spread(y).params, fit(y).params, rtol=1e-9)


def test_rows_over_eight_devices(x64):
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put((X, Y), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows")))
    ours, alone = nonlinear.fit(decay, START, *spread), nonlinear.fit(decay, START, X, Y)
    assert int(ours.status) == Status.ok
    np.testing.assert_allclose(ours.params, alone.params, rtol=1e-9)
    np.testing.assert_allclose(ours.stats.covariance, alone.stats.covariance, rtol=1e-7)
    # Each device keeps its rows: sums travel.
    compiled = jax.jit(lambda x, y: nonlinear.fit(decay, START, x, y)).lower(*spread).compile().as_text()
    assert "all-reduce" in compiled
    assert "all-gather" not in compiled


def test_gradient_against_finite_differences(x64):
    def rate(y, upper):
        bounds = (jnp.array([0.0, 0.0]), jnp.stack([upper, 10.0 + 0 * upper]))
        return nonlinear.fit(decay, START, X, y, bounds=bounds).params[1]

    y, step = jnp.asarray(Y), 1e-5
    for upper in (jnp.array(10.0), jnp.array(2.5)):  # free, and held by its bound
        slopes, bound_slope = jax.jit(jax.grad(rate, argnums=(0, 1)))(y, upper)
        for i in (0, 20):
            difference = (rate(y.at[i].add(step), upper) - rate(y.at[i].add(-step), upper)) / (2 * step)
            np.testing.assert_allclose(slopes[i], difference, rtol=1e-4, atol=1e-9)
        difference = (rate(y, upper + step) - rate(y, upper - step)) / (2 * step)
        np.testing.assert_allclose(bound_slope, difference, rtol=1e-4, atol=1e-9)


def test_a_parameter_too_many(x64):
    solution = nonlinear.fit(lambda b, x: (b[0] + b[1]) * jnp.exp(-b[2] * x), np.ones(3), X, Y)
    assert int(solution.status) == Status.rank_deficient
    theirs = optimize.least_squares(scipy_residuals, START).cost
    np.testing.assert_allclose(solution.stats.cost, 2 * theirs, rtol=1e-8)


@pytest.mark.parametrize("bounds", [None, (0.0, 9.0)])
def test_a_start_that_changes_nothing_is_not_called_converged(x64, bounds):
    """Also where it lies on its bound."""
    flat = nonlinear.fit(lambda b, x: b[0] ** 2 * x + b[1], np.array([0.0, 1.0]), X, 3 * X + 0.5, bounds=bounds)
    assert int(flat.status) == Status.rank_deficient
    unused = nonlinear.fit(lambda b, x: decay(b, x) + 0 * b[2], np.array([1.0, 1.0, 0.0]), X, Y, bounds=bounds)
    assert int(unused.status) == Status.rank_deficient
    held = nonlinear.fit(decay, np.array([1.0, 0.0]), X, Y, bounds=(np.zeros(2), np.array([9.0, 0.5])))
    assert int(held.status) == Status.ok


def test_gradient_descent_ends_where_fit_does():
    x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)
    runner = train.trainer(
        nonlinear.model(decay, jnp.asarray(START, jnp.float32)), loss=losses.squared_error, optimizer=optax.adam(0.05)
    )
    state = runner.init(jax.random.key(0), Batch(x, y))
    for _ in range(600):
        state, _ = runner.step(state, Batch(x, y))
    exact = nonlinear.fit(decay, jnp.asarray(START, jnp.float32), x, y)
    assert exact.params.dtype == jnp.float32
    assert int(exact.status) == Status.ok
    np.testing.assert_allclose(state.params, exact.params, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "l1"}, "loss: got 'l1'"),
        ({"loss": "huber", "linear": (0,)}, "linear: got it with loss='huber'"),
        ({"linear": (2,)}, "linear: no 2"),
        ({"linear": (0, 1)}, "linear: names every parameter"),
        ({"linear": 0}, r"linear: got 0, needs a sequence of keys or indices: use \[0\]"),
        ({"linear": "rate"}, "linear: got 'rate', needs a sequence"),
        ({"loss": "huber", "loss_scale": np.ones(3)}, r"loss_scale: got shape \(3,\), needs one number"),
        ({"loss": "huber", "loss_scale": "a"}, "loss_scale: got dtype <U1, needs numbers"),
        ({"tolerance": 0.0}, "tolerance: got 0.0"),
        ({"tolerance": "a"}, "tolerance: got 'a'"),
        ({"max_steps": 0}, "max_steps: got 0"),
        ({"max_steps": None}, "max_steps: got None"),
        ({"params": None}, "params: 0 numbers for 40 values"),
        ({"params": "a"}, "params: got dtype <U1, needs numbers"),
        ({"y": None}, "y: got dtype object, needs numbers"),
        ({"bounds": 1.0}, "bounds: got float"),
        ({"sigma": 1j}, "sigma: got dtype complex128, needs real numbers"),
        ({"y": np.ma.masked_array(Y)}, "y: got a masked array; pass y.filled"),
        ({"bounds": ("a", "b")}, "bounds: got dtype <U1, needs numbers"),
        ({"loss": "huber", "loss_scale": np.inf}, "loss_scale: got inf, needs a finite number above 0"),
        ({"sigma": np.ones(3)}, r"sigma: got shape \(3,\)"),
        ({"mask": np.ones(40)}, "mask: got shape"),
        ({"function": lambda b, x: x[:3]}, r"function: returns shape \(3,\), needs that of y, \(40,\)"),
        ({"function": None}, "function: got NoneType"),
        ({"params": np.ones(41), "function": lambda b, x: x * b[0]}, "params: 41 numbers for 40 values"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"function": decay, "params": START, "x": X, "y": Y} | change
    with pytest.raises(InputError, match=message):
        nonlinear.fit(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": np.array([np.nan, 1.0])}, "function: not finite at the start in 40 of 40"),
        ({"y": np.where(X > 4, np.nan, Y)}, "y: not finite"),
    ],
)
def test_bad_values(x64, change, message):
    with pytest.raises(InputError, match=message):
        nonlinear.fit(**({"function": decay, "params": START, "x": X, "y": Y} | change))


@pytest.mark.parametrize(
    ("start", "lower", "upper", "message"),
    [
        (START, [0.0, 3.0], [9.0, 2.0], "bounds: lower 3 is not below upper 2"),
        (START, [0.0, 0.0], [9.0, 0.5], "params: start 1 of parameter 1 lies outside"),
    ],
)
def test_bad_bounds(x64, start, lower, upper, message):
    bounds = (jnp.array(lower), jnp.array(upper))
    with pytest.raises(InputError, match=message):
        nonlinear.fit(decay, start, X, Y, bounds=bounds)
    traced = jax.jit(lambda start: nonlinear.fit(decay, start, X, Y, bounds=bounds))(start)
    assert int(traced.status) == Status.invalid_input
    assert np.isnan(traced.params).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda at: nonlinear.infer(at, confidence=95), "confidence: 95 is not between 0 and 1"),
        (lambda at: nonlinear.infer(at, confidence="a"), "confidence: a is not between 0 and 1"),
        (lambda at: nonlinear.multi_start(decay, 1.0, X, Y), r"starts: got arrays of shapes \[\(\)\]"),
        (lambda at: nonlinear.multi_start(decay, np.zeros((0, 2)), X, Y), r"starts: got arrays of shapes \[\(0, 2\)\]"),
        (lambda at: nonlinear.multi_start(decay, np.full((2, 2), np.nan), X, Y), "function: not finite at the start"),
        (lambda at: nonlinear.infer(at.params), "solution: got ArrayImpl, needs what nonlinear.fit returned"),
        (lambda at: nonlinear.random_starts(0, 0.0, 1.0, 2), "key: got 0, needs a key"),
        (lambda at: nonlinear.random_starts(jax.random.key(0), 0.0, 1.0, 2.5), "num_starts: got 2.5"),
        (lambda at: nonlinear.random_starts(jax.random.key(0), 0.0, np.inf, 2), r"upper: got \[0.\] and \[inf\]"),
        (lambda at: nonlinear.random_starts(jax.random.key(0), {"a": 0.0}, {"b": 1.0}, 2), "upper: got .*'b'"),
        (lambda at: nonlinear.fit(decay, START, X, Y, bounds=(np.zeros(3), 9.0)), r"bounds: lower has shape \(3,\)"),
    ],
)
def test_bad_arguments_around_a_fit(call, message):
    solution = nonlinear.fit(decay, START, X, Y)
    with pytest.raises(InputError, match=message):
        call(solution)


def test_random_starts_between_integers():
    starts = nonlinear.random_starts(jax.random.key(0), 0, 4, 4)
    assert sorted(int(each) for each in starts) == [0, 1, 2, 3]

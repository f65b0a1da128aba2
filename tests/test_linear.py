"""Linear regression: against statsmodels, scikit-learn and closed forms; gradients, batches, shards and bad input."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from jaxmodels.core import InputError, Status, raise_if_failed
from jaxmodels.numerics import double_double as dd
from jaxmodels.numerics import least_squares
from jaxmodels.regression import basis, linear
from jaxmodels.regression.linear import LinearParams

pytestmark = pytest.mark.slow

N, D = 40, 3


@pytest.fixture
def data(x64):
    """x with columns of several scales, far from zero; two outputs; weights; a mask; an offset."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)) * [1, 10, 0.1] + [5, -200, 1]
    y = x @ rng.normal(size=(D, 2)) + rng.normal(size=(N, 2))
    weights = rng.uniform(0.1, 2, N)
    weights[::7] = 0
    return x, y, weights, rng.uniform(size=N) > 0.2, rng.normal(size=N)


def ordinary(x, y, weights=None, l2=0.0):
    """The estimate by NumPy's lstsq: ``(coefficients, intercept)``."""
    root = np.ones(len(x)) if weights is None else np.sqrt(weights)
    rows = np.concatenate([np.ones((len(x), 1)), x], axis=1) * root[:, None]
    penalty = np.sqrt(np.diag(np.concatenate([[0], np.broadcast_to(l2, x.shape[1])])))
    targets = np.concatenate([(y.T * root).T, np.zeros((len(penalty), *y.shape[1:]))])
    solution = np.linalg.lstsq(np.concatenate([rows, penalty]), targets, rcond=None)[0]
    return solution[1:], solution[0]


def assert_params(params, expected, rtol=1e-11):
    for ours, theirs in zip(params, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-13)


# The estimate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", linear.METHODS)
def test_weighted_fit_equals_statsmodels(data, method):
    import statsmodels.api as sm

    x, y, weights, mask, offset = data
    missing = np.where(mask[:, None], x, np.nan)
    solution = linear.fit(missing, y[:, 0], weights=weights, mask=mask, offset=offset, method=method)
    rows = mask & (weights > 0)
    theirs = sm.WLS(y[rows, 0] - offset[rows], sm.add_constant(x[rows]), weights=weights[rows]).fit()
    assert_params(solution.params, (theirs.params[1:], theirs.params[0]))
    stats = solution.stats
    np.testing.assert_allclose(stats.sigma2, theirs.scale, rtol=1e-12)
    np.testing.assert_allclose(stats.residual_sum_of_squares, theirs.ssr, rtol=1e-12)
    assert (stats.rank, stats.dof, stats.num_rows) == (4, theirs.df_resid, rows.sum())
    np.testing.assert_allclose(stats.total_weight, weights[rows].sum(), rtol=1e-14)
    shear = np.eye(4)
    shear[0, 1:] = -np.asarray(stats.center)
    covariance = stats.sigma2 * shear @ stats.covariance_factor @ stats.covariance_factor.T @ shear.T
    np.testing.assert_allclose(covariance, theirs.cov_params(), rtol=1e-9)
    assert stats.condition >= np.linalg.cond((x[rows] - x[rows].mean(0)) / x[rows].std(0)) * 0.9
    assert (stats.error is None) == (method != "certified")


def test_several_outputs_equal_one_by_one(data):
    x, y, *_ = data
    together = linear.fit(x, y)
    assert_params(together.params, ordinary(x, y))
    assert together.params.coefficients.shape == (D, 2)
    assert together.stats.sigma2.shape == together.params.intercept.shape == (2,)
    for output in range(2):
        alone = linear.fit(x, y[:, output])
        np.testing.assert_allclose(together.params.coefficients[:, output], alone.params.coefficients, rtol=1e-12)
        np.testing.assert_allclose(together.stats.sigma2[output], alone.stats.sigma2, rtol=1e-12)


def test_ridge_equals_scikit_learn(data):
    from sklearn.linear_model import Ridge

    x, y, weights, *_ = data
    for l2 in (3.0, np.array([0.1, 100.0, 0.0])):
        solution = linear.fit(x, y, weights=weights, l2=l2)
        theirs = Ridge(alpha=np.full(2, l2) if np.ndim(l2) == 0 else 1.0)
        if np.ndim(l2) == 0:
            theirs.fit(x, y, sample_weight=weights)
            assert_params(solution.params, (theirs.coef_.T, theirs.intercept_))
        assert_params(solution.params, ordinary(x, y, weights, l2))
    rows = np.concatenate([np.ones((N, 1)), x], axis=1) * np.sqrt(weights)[:, None]
    hat = np.trace(np.linalg.solve(rows.T @ rows + np.diag([0, 0.1, 100, 0]), rows.T @ rows))
    np.testing.assert_allclose(solution.stats.dof, (weights > 0).sum() - hat, rtol=1e-12)


def test_without_intercept(data):
    x, y, *_ = data
    solution = linear.fit(x, y[:, 0], intercept=False)
    np.testing.assert_allclose(solution.params.coefficients, np.linalg.lstsq(x, y[:, 0], rcond=None)[0], rtol=1e-11)
    assert solution.params.intercept == 0
    assert solution.stats.covariance_factor.shape == (D, D)
    assert not solution.stats.center.any()


def test_polynomial_equals_polyfit(x64):
    x = np.linspace(-1, 2, N)
    y = np.sin(3 * x)
    coefficients, intercept = linear.fit(basis.polynomial(jnp.asarray(x), 5), y).params
    np.testing.assert_allclose([intercept, *coefficients], np.polyfit(x, y, 5)[::-1], rtol=1e-9)


def test_far_from_zero_in_float32():
    """What centring is for: the spread of a column is 1e-4 of its values, 1e3 units in the last place."""
    rng = np.random.default_rng(1)
    x = (1e4 + rng.normal(size=(5000, 2))).astype(np.float32)
    y = (x.astype(np.float64) @ [1, -2] + rng.normal(size=5000)).astype(np.float32)
    solution = linear.fit(x, y)
    exact, _ = ordinary(x.astype(np.float64) - 1e4, y.astype(np.float64))
    assert solution.params.coefficients.dtype == jnp.float32
    np.testing.assert_allclose(solution.params.coefficients, exact, rtol=2e-5)


def test_the_dtype_of_the_input_is_that_of_the_work(data):
    x, y, weights, _, offset = data
    solution = linear.fit(x.astype(np.float32), y.astype(np.float32), weights=weights, offset=offset, l2=0.5)
    dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(solution)}
    assert dtypes == {"float32", "int32"}


@pytest.mark.parametrize("filler", [np.nan, np.inf, 1e300, 0.0])
def test_a_row_of_weight_zero_is_as_good_as_removed(data, filler):
    x, y, weights, _, _ = data
    kept = weights > 0
    removed = linear.fit(x[kept], y[kept], weights=weights[kept], l2=0.1)
    x[~kept], y[~kept] = filler, filler
    for solution in (
        linear.fit(x, y, weights=weights, l2=0.1),
        linear.fit(x, y, weights=np.where(kept, weights, np.nan), mask=kept, l2=0.1),
    ):
        for ours, theirs in zip(jax.tree.leaves(solution), jax.tree.leaves(removed), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_jit_changes_nothing_and_traces_once(data):
    x, y, weights, *_ = data
    traces = []

    @jax.jit
    def fit(x, weights, l2):
        traces.append(1)
        return linear.fit(x, y, weights=weights, l2=l2)

    jitted = fit(x, weights, 0.3), fit(x + 1, weights[::-1], 0.4)
    assert len(traces) == 1
    plain = linear.fit(x, y, weights=weights, l2=0.3)
    for ours, theirs in zip(jax.tree.leaves(jitted[0]), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-14)


def test_certified_knows_its_error(data):
    import mpmath

    x, y, *_ = data
    solution = linear.fit(x, y[:, 0], method="certified")
    with mpmath.workdps(50):
        rows = mpmath.matrix([[1, *map(float, row)] for row in x])
        exact = mpmath.lu_solve(rows.T * rows, rows.T * mpmath.matrix(y[:, 0].tolist()))
        ours = [float(solution.params.intercept), *solution.params.coefficients.tolist()]
        true_error = np.array([float(abs(mpmath.mpf(a) - b)) for a, b in zip(ours, exact, strict=True)])
    claimed = np.array([solution.stats.error.intercept, *solution.stats.error.coefficients])
    assert (true_error <= claimed).all()
    assert (claimed <= np.finfo(float).eps * np.abs(ours)).all()


def test_pairs_are_accepted_everywhere(x64):
    x = basis.polynomial(jnp.linspace(0.1, 1, N), 3, precision="double_double")
    y = jnp.sin(jnp.linspace(0, 2, N))
    certified = linear.fit(x, dd.as_pair(y), method="certified")
    assert_params(linear.fit(x, y).params, certified.params, rtol=1e-9)
    np.testing.assert_allclose(linear.predict(certified.params, x), y, atol=1e-2)


# Rank ----------------------------------------------------------------------------------------------------------------


def deficient(x):
    """A sum, a duplicate after rounding (Celsius and Fahrenheit), and a constant beside the intercept."""
    return np.stack([x[:, 0], x[:, 1], x[:, 0] + x[:, 1], 1.8 * x[:, 1] + 32, np.full(N, 7.7), x[:, 2]], axis=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", ["qr", "cholesky", "svd", "certified"])
def test_dependent_columns(data, method, dtype):
    x, y, *_ = data
    x, y = deficient(x).astype(dtype), y[:, 0].astype(dtype)
    solution = linear.fit(x, y, method=method)
    assert int(solution.status) == Status.rank_deficient
    assert int(solution.stats.rank) == 4
    kept = [0, 1, 5]
    expected = np.zeros(6)
    if method == "svd":
        centered = x.astype(np.float64) - x.mean(0, dtype=np.float64)
        expected = np.linalg.pinv(centered, rcond=1e-5) @ (y - y.mean(dtype=np.float64))
    else:
        expected[kept] = ordinary(x[:, kept].astype(np.float64), y.astype(np.float64))[0]
        assert not np.asarray(solution.params.coefficients)[[2, 3, 4]].any()
    rtol = 1e-9 if dtype == np.float64 else 2e-3
    np.testing.assert_allclose(solution.params.coefficients, expected, rtol=rtol, atol=rtol)
    with pytest.raises(RuntimeError, match="drop some, or add a penalty"):
        raise_if_failed(solution)


def test_a_penalty_mends_dependent_columns(data):
    x, y, *_ = data
    solution = linear.fit(deficient(x), y[:, 0], l2=1e-3)
    assert int(solution.status) == Status.ok
    coefficients, intercept = ordinary(deficient(x), y[:, 0], l2=1e-3)
    coefficients[4] = 0  # a constant beside the intercept, which NumPy leaves to rounding
    assert_params(solution.params, (coefficients, intercept), rtol=1e-8)


@pytest.mark.parametrize("method", ["qr", "svd"])
def test_fewer_rows_than_columns(data, method):
    x, y, *_ = data
    solution = linear.fit(x[:3], y[:3], method=method)
    assert int(solution.status) == Status.underdetermined
    np.testing.assert_allclose(linear.predict(solution.params, x[:3]), y[:3], atol=1e-10)
    assert np.isnan(solution.stats.sigma2).all()
    if method == "svd":
        centered = x[:3] - x[:3].mean(0)
        np.testing.assert_allclose(
            solution.params.coefficients, np.linalg.pinv(centered, rcond=1e-10) @ y[:3], atol=1e-10
        )
    masked = linear.fit(x, y, mask=np.arange(N) < 3, method=method)
    assert int(masked.status) == Status.underdetermined
    assert_params(masked.params, solution.params, rtol=1e-8)


# Many at once --------------------------------------------------------------------------------------------------------


@pytest.fixture
def lanes(data):
    x, y, weights, *_ = data
    rng = np.random.default_rng(2)
    x = x + rng.normal(size=(7, *x.shape))
    mask = np.arange(N) < rng.integers(10, N, 7)[:, None]  # ragged
    return np.where(mask[..., None], x, np.nan), y[:, 0] + rng.normal(size=(7, N)), mask, weights


def batched_fit(x, y, mask, weights):
    return jax.vmap(lambda x, y, mask: linear.fit(x, y, mask=mask, weights=weights))(x, y, mask)


@pytest.mark.parametrize(
    "group_bytes", [2**21, 3 * N * (D + 2) * 8]
)  # all lanes at once; groups of 3, the last overlaps
def test_vmap_equals_the_loop(lanes, monkeypatch, group_bytes):
    monkeypatch.setattr(least_squares, "GROUP_BYTES", group_bytes)
    x, y, mask, weights = lanes
    jax.clear_caches()
    batched = batched_fit(x, y, mask, weights)
    for lane in range(7):
        single = linear.fit(x[lane], y[lane], mask=mask[lane], weights=weights)
        for ours, theirs in zip(jax.tree.leaves(batched), jax.tree.leaves(single), strict=True):
            np.testing.assert_allclose(ours[lane], theirs, rtol=1e-11, atol=1e-13)


def test_one_bad_lane_fails_alone(lanes):
    x, y, mask, weights = lanes
    healthy = batched_fit(x, y, mask, weights)
    x, y, mask = x.copy(), y.copy(), mask.copy()
    x[1, 3, 1] = np.nan
    y[6, 2] = np.inf
    x[3, :, 1] = x[3, :, 0]
    mask[5] = False
    mixed = batched_fit(x, y, mask, weights)
    expected = [0, Status.nonfinite, 0, Status.rank_deficient, 0, Status.invalid_input, Status.nonfinite]
    assert mixed.status.tolist() == expected
    assert np.isnan(mixed.params.coefficients[jnp.array([1, 5, 6])]).all()
    for ours, theirs in zip(jax.tree.leaves(mixed), jax.tree.leaves(healthy), strict=True):
        assert (np.asarray(ours)[:6:2] == np.asarray(theirs)[:6:2]).all()


def test_batches_of_batches_and_of_targets(data):
    x, y, *_ = data
    nested = jax.vmap(jax.vmap(linear.fit, in_axes=(None, 0)), in_axes=(0, None))(np.stack([x, 2 * x]), y.T)
    assert nested.params.coefficients.shape == (2, 2, D)
    expected, _ = ordinary(x, y)
    np.testing.assert_allclose(nested.params.coefficients[0], expected.T, rtol=1e-11)
    np.testing.assert_allclose(nested.params.coefficients[1], expected.T / 2, rtol=1e-11)


# Gradients -----------------------------------------------------------------------------------------------------------


def estimates(x, y, weights, l2, method="qr"):
    return linear.fit(x, y, weights=weights, l2=l2, method=method).params


def unrolled(x, y, weights, l2):
    rows = jnp.concatenate([jnp.ones_like(x[:, :1]), x], axis=1)
    gram = rows.T @ (weights[:, None] * rows) + jnp.diag(jnp.concatenate([jnp.zeros(1), l2]))
    solution = jnp.linalg.solve(gram, rows.T @ (weights * y))
    return LinearParams(solution[1:], solution[0])


@pytest.fixture
def point(data):
    x, y, weights, *_ = data
    return tuple(map(jnp.asarray, (x[:15] + np.array([0, 200, 0]), y[:15, 0], weights[:15], np.array([0.1, 1.0, 0.2]))))


def test_implicit_derivatives_equal_unrolled_ones(point):
    """In x, y, weights (of which some are 0) and l2; forward, backward and second order."""
    arguments = (0, 1, 2, 3)
    theirs = jax.jit(jax.jacrev(unrolled, arguments))(*point)
    for mode in (jax.jacrev, jax.jacfwd):
        ours = jax.jit(mode(estimates, arguments))(*point)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8 * np.abs(b).max())

    def loss(fit, weights, l2):
        return sum(jnp.sum(leaf**2) for leaf in fit(point[0], point[1], weights, l2))

    ours, theirs = (
        jax.jit(jax.hessian(functools.partial(loss, fit), (0, 1)))(*point[2:]) for fit in (estimates, unrolled)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8 * np.abs(b).max())


@pytest.mark.parametrize("method", ["svd", "certified"])
def test_derivatives_equal_finite_differences(point, method):
    @jax.jit
    def everything(x, y, weights, l2):
        solution = linear.fit(x, y, weights=weights, l2=l2, method=method)
        factor = solution.stats.covariance_factor
        return solution.params, solution.stats.sigma2, solution.stats.dof, (factor @ factor.T)[1:, 1:]

    x, y, weights, l2 = point
    modes = ("fwd",) if method == "certified" else ("fwd", "rev")
    check_grads(everything, (x, y, weights + 0.1, l2), order=1, modes=modes, rtol=1e-6, atol=1e-6, eps=1e-5)


def test_rows_that_do_not_count_have_no_gradient(data):
    x, y, weights, mask, _ = data
    x = np.where(mask[:, None], x, np.nan)

    @jax.jit
    def loss(x, weights):
        return jnp.sum(linear.fit(x, y, weights=weights, mask=mask).params.coefficients ** 2)

    by_x, by_weights = jax.jit(jax.grad(loss, (0, 1)))(jnp.asarray(x), jnp.asarray(weights))
    assert not np.asarray(by_x)[~mask | (weights == 0)].any()
    assert not np.asarray(by_weights)[~mask].any()
    # A row of weight 0 that is there: what a little weight would do.
    row = int(np.flatnonzero(mask & (weights == 0))[0])
    step = np.zeros(N)
    step[row] = 1e-7
    np.testing.assert_allclose(by_weights[row], (loss(x, weights + step) - loss(x, weights)) / 1e-7, rtol=1e-4)


@pytest.mark.parametrize("method", ["qr", "svd"])
def test_gradients_are_finite_at_a_rank_deficiency(data, method):
    x, y, *_ = data

    @jax.jit
    def loss(x, y):
        solution = linear.fit(x, y, method=method)
        return jnp.sum(solution.params.coefficients**2) + solution.stats.sigma2

    gradients = jax.jit(jax.grad(loss, (0, 1)))(jnp.asarray(deficient(x)), jnp.asarray(y[:, 0]))
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    check_grads(lambda y: loss(deficient(x), y), (jnp.asarray(y[:, 0]),), order=1, rtol=1e-6, atol=1e-6)


def test_least_norm_moves_with_its_null_space(data):
    x, y, *_ = data

    @jax.jit
    def along(t):
        first = x[:, 0] + t * x[:, 2]
        columns = jnp.stack([first, jnp.asarray(x[:, 1]), first + (1 + t) * x[:, 1], (1 + t) * x[:, 2]], axis=1)
        return linear.fit(columns, y[:, 0], method="svd").params

    check_grads(along, (0.1,), order=1, modes=("fwd",), rtol=1e-6, atol=1e-6)


def test_a_bad_lane_has_a_zero_gradient(lanes):
    x, y, mask, weights = lanes
    y = y.copy()
    y[2, 1] = np.inf

    def loss(y):
        solution = batched_fit(x, y, mask, weights)
        return jnp.sum(jnp.where(solution.status[:, None] == Status.ok, solution.params.coefficients, 0))

    gradient = jax.jit(jax.grad(loss))(jnp.asarray(y))
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient[2]).any()
    assert np.asarray(gradient[3]).any()


def test_a_ridge_per_feature_is_learned_by_validation_loss(x64):
    """Of ten features two matter; descent on the validation loss shrinks the others."""
    rng = np.random.default_rng(3)
    x, held_out = rng.normal(size=(2, 30, 10))
    truth = np.zeros(10)
    truth[:2] = [2, -3]
    y, held_out_y = (rows @ truth + rng.normal(size=30) for rows in (x, held_out))

    @jax.jit
    @jax.value_and_grad
    def loss(log_l2):
        params = linear.fit(x, y, l2=jnp.exp(log_l2)).params
        return jnp.mean((linear.predict(params, held_out) - held_out_y) ** 2)

    log_l2 = jnp.zeros(10)
    first, _ = loss(log_l2)
    for _ in range(100):
        value, gradient = loss(log_l2)
        log_l2 = log_l2 - 2.0 * gradient
    assert value < 0.9 * first
    assert jnp.mean(log_l2[:2]) < jnp.mean(log_l2[2:]) - 1


# Sharded -------------------------------------------------------------------------------------------------------------


def test_rows_over_eight_devices(data):
    x, y, weights, *_ = data
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    by_row = NamedSharding(mesh, P("rows"))
    spread = jax.device_put((jnp.asarray(x), jnp.asarray(y), jnp.asarray(weights)), by_row)

    def fit(x, y, weights):
        return linear.fit(x, y, weights=weights)

    ours, theirs = fit(*spread), fit(x, y, weights)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    # Each device keeps its rows: sums travel, columns of the data do not.
    compiled = jax.jit(fit).lower(*spread).compile().as_text()
    assert "all-reduce" in compiled
    assert "all-gather" not in compiled
    assert "all-to-all" not in compiled


# Gradient descent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_outputs", [0, 2])
def test_the_gradient_of_the_docs_is_the_gradient(data, num_outputs):
    x, y, weights, *_ = data
    y = y if num_outputs else y[:, 0]
    params = jax.tree.map(lambda leaf: leaf + 0.5, linear.model(num_outputs=num_outputs).init(None, x)[0])

    def cost(params, weights):
        errors = (linear.predict(params, x) - y) ** 2
        return jnp.average(errors if errors.ndim == 1 else errors.mean(axis=1), weights=weights)

    for each in (None, jnp.asarray(weights)):
        ours = linear.mean_squared_error_gradient(params, x, y, weights=each)
        theirs = jax.grad(cost)(params, each)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize(
    ("optimizer", "batch_size", "num_steps"),
    [
        (optax.sgd(0.5), N, 200),  # batch
        (optax.sgd(optax.exponential_decay(0.2, 1000, 0.2)), 1, 6000),  # stochastic
        (optax.sgd(optax.exponential_decay(0.3, 300, 0.2)), 8, 2000),  # mini-batch
        (optax.adam(optax.exponential_decay(0.5, 1000, 0.03)), N, 6000),
    ],
)
def test_gradient_descent_arrives_where_fit_does(data, optimizer, batch_size, num_steps):
    x, y, *_ = data
    x = (x - x.mean(0)) / x.std(0)
    solution = linear.fit(x, y[:, 0])
    x, y = jnp.asarray(x), jnp.asarray(y[:, 0])
    line = linear.model()
    params, state = line.init(jax.random.key(0), x)

    def cost(params, rows):
        outputs, _ = line.apply(params, state, x[rows])
        return jnp.mean((outputs - y[rows]) ** 2)

    def step(carry, key):
        params, opt_state = carry
        rows = jax.random.choice(key, N, (batch_size,), replace=False)
        updates, opt_state = optimizer.update(jax.grad(cost)(params, rows), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    keys = jax.random.split(jax.random.key(1), num_steps)
    (params, _), _ = jax.jit(lambda start: jax.lax.scan(step, start, keys))((params, optimizer.init(params)))
    for ours, theirs in zip(params, solution.params, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6 if batch_size == N else 5e-2)


def test_model_without_intercept_learns_coefficients_only():
    params, state = linear.model(num_outputs=2, intercept=False).init(jax.random.key(0), jnp.ones((5, 3)))
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == [(3, 2)]
    outputs, after = linear.model(num_outputs=2, intercept=False).apply(params, state, jnp.ones((5, 3)), train=True)
    assert outputs.shape == (5, 2)
    assert after == state == {}


# Bad input -----------------------------------------------------------------------------------------------------------

X, Y = np.float32(np.arange(4)[:, None] ** np.arange(1, 3)), np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": Y[:3]}, r"y: got 3 rows for the 4 of x \(4, 2\)"),
        ({"x": X[:, 0]}, r"x: got shape \(4,\), needs \[n, d\]: use x\[:, None\]"),
        ({"x": X[None]}, r"x: got shape \(1, 4, 2\).*jax.vmap\(linear.fit\)"),
        ({"y": Y[:, None, None]}, r"y: got shape \(4, 1, 1\)"),
        ({"x": X.astype(int)}, r"x: got dtype int64, works in float32 and float64: use x.astype\('float32'\)"),
        ({"y": Y > 0}, "y: got dtype bool"),
        ({"x": X.astype(np.float16)}, "x: got dtype float16"),
        ({"x": jnp.asarray(X, jnp.bfloat16)}, "x: got dtype bfloat16"),
        ({"x": X + 0j}, "x: got dtype complex64"),
        ({"x": X.astype(str)}, "x: got dtype <U.*needs numbers"),
        ({"x": [[1.0, 2.0], [3.0]]}, "x: rows of unequal length"),
        ({"x": X[:0], "y": Y[:0]}, r"nothing to fit in shapes \(0, 2\)"),
        ({"x": X[:, :0]}, r"nothing to fit in shapes \(4, 0\)"),
        ({"weights": Y[:3]}, r"weights: got shape \(3,\), needs one number a row, \(4,\)"),
        ({"weights": "heavy"}, "weights: got dtype <U5"),
        ({"mask": np.ones((4, 1), bool)}, r"mask: got shape \(4, 1\)"),
        ({"offset": np.ones((4, 2))}, r"offset: got shape \(4, 2\), needs \(4,\)"),
        ({"l2": np.ones(3)}, r"l2: got shape \(3,\), needs one number or one a column of x, \(2,\)"),
        ({"l2": -1.0}, "l2: got -1.0, a penalty is finite and at least 0"),
        ({"l2": np.inf}, "l2: got inf"),
        ({"method": "lu"}, "method: got 'lu', needs one of 'qr', 'svd', 'cholesky', 'certified'"),
        ({"weights": -Y}, "weights: 4 negative, first -1 in row 0"),
        ({"weights": 0 * Y}, "weights: 0 in every row"),
        ({"mask": Y < 0}, "mask: leaves out every row"),
        ({"mask": Y / 2}, "mask: got dtype float32, needs booleans"),
        ({"x": np.where(X == 3, np.nan, X)}, "x: 1 values that are not finite in 1 rows, first NaN in row 3"),
        ({"y": np.where(Y > 0, np.inf, Y)}, "y: 4 values that are not finite in 4 rows, first infinite in row 0"),
        ({"weights": Y * np.nan}, "weights: 4 values that are not finite"),
        ({"offset": Y * np.nan}, "offset: 4 values that are not finite"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message) as raised:
        linear.fit(**({"x": X, "y": Y} | arguments))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"x": X * np.nan}, Status.nonfinite),
        ({"y": Y * np.inf}, Status.nonfinite),
        ({"offset": Y * np.nan}, Status.nonfinite),
        ({"l2": np.float32(np.nan)}, Status.nonfinite),
        ({"weights": Y * np.nan}, Status.nonfinite),
        ({"weights": -Y}, Status.invalid_input),
        ({"weights": 0 * Y}, Status.invalid_input),
        ({"mask": Y < 0}, Status.invalid_input),
        ({"l2": np.float32(-1)}, Status.invalid_input),
        ({}, Status.ok),
    ],
)
@pytest.mark.parametrize("method", ["qr", "svd"])
def test_bad_values_become_a_status_under_jit(change, status, method):
    given = {"x": X, "y": Y, "weights": Y, "offset": 0 * Y, "mask": Y > 0, "l2": np.float32(0)} | change
    solution = traced_fit(given, method=method)
    assert Status(int(solution.status)) == status
    assert np.isnan(solution.params.coefficients).all() == (status != Status.ok)


@functools.partial(jax.jit, static_argnames="method")
def traced_fit(given, *, method):
    return linear.fit(given.pop("x"), given.pop("y"), **given, method=method)


def test_predict_checks_its_columns():
    params = LinearParams(jnp.ones(3), jnp.zeros(()))
    with pytest.raises(InputError, match=r"x: got shape \(4, 2\), the model needs \[n, 3\]"):
        linear.predict(params, X)
    assert linear.predict(params, jnp.ones((2, 3)), offset=jnp.ones(2)).tolist() == [4.0, 4.0]

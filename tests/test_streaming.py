"""Streamed fits against fits of all rows at once, folds and windows against refits, and the cost in memory."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import statsmodels.api as sm

from jaxmodels.core import Batch, InputError, Status
from jaxmodels.regression import accumulator, inference, linear, streaming

pytestmark = pytest.mark.slow

N, D = 40, 3


def assert_close(ours, reference, rtol=1e-11, atol=1e-13):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(reference), rtol=rtol, atol=atol)


def problem(seed=0, *, n=N, k=None):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D)) + np.array([3, 0, -2])
    y = x @ rng.normal(size=(D, k or 1)) + rng.normal(size=(n, k or 1)) + 1
    return x, y if k else y[:, 0], rng.uniform(0.5, 2, n)


def streamed(x, y, weights=None, *, block=10):
    acc = streaming.init(x.shape[1], None if y.ndim == 1 else y.shape[1], dtype=x.dtype)
    for start in range(0, len(x), block):
        rows = slice(start, start + block)
        acc = streaming.update(acc, x[rows], y[rows], weights=None if weights is None else weights[rows])
    return acc


def covariance(solution):
    """Of intercept and coefficients over sigma2, whatever the basis of the factor."""
    stats = solution.stats
    factor = np.array(stats.covariance_factor)
    if factor.shape[0] > stats.center.shape[0]:
        factor[0] -= np.asarray(stats.center) @ factor[1:]
    return factor @ factor.T


def assert_same_fit(ours, expected, rtol=1e-11):
    jax.tree.map(functools.partial(assert_close, rtol=rtol), ours.params, expected.params)
    assert ours.status == expected.status
    assert_close(covariance(ours), covariance(expected), rtol=10 * rtol)
    for name in (
        "rank",
        "condition",
        "num_rows",
        "total_weight",
        "dof",
        "residual_sum_of_squares",
        "sigma2",
        "center",
        "penalty",
    ):
        assert_close(getattr(ours.stats, name), getattr(expected.stats, name), rtol=rtol)


@pytest.mark.parametrize(
    ("outputs", "intercept", "l2"), [(None, True, 0.0), (2, True, 2.0), (2, False, 0.0), (None, False, [0.5, 0.0, 3.0])]
)
def test_solve_equals_the_fit_of_all_rows(x64, outputs, intercept, l2):
    x, y, weights = problem(k=outputs)
    l2 = np.array(l2)
    ours = streaming.solve(streamed(x, y, weights), l2=l2, intercept=intercept)
    assert_same_fit(ours, linear.fit(x, y, weights=weights, l2=l2, intercept=intercept))


@pytest.mark.parametrize("intercept", [True, False])
def test_infer_equals_statsmodels_and_inference_of_the_rows(x64, intercept):
    x, y, weights = problem()
    acc = streamed(x, y, weights)
    ours = streaming.infer(acc, intercept=intercept, confidence=0.9)
    expected = sm.WLS(y, sm.add_constant(x) if intercept else x, weights).fit()
    for name, reference in {
        "estimate": "params", "standard_error": "bse", "p_value": "pvalues", "r_squared": "rsquared", "aic": "aic",
        "f_p_value": "f_pvalue", "log_likelihood": "llf",
    }.items():  # fmt: skip
        assert_close(getattr(ours, name), getattr(expected, reference), rtol=1e-10)
    rows = inference.infer(streaming.solve(acc, intercept=intercept), x, y, weights=weights, confidence=0.9)
    jax.tree.map(functools.partial(assert_close, rtol=1e-10), ours, rows)


def test_infer_of_several_outputs(x64):
    x, y, _ = problem(k=2)
    both = streaming.infer(streamed(x, y))
    one = streaming.infer(streamed(x, y[:, 1]))
    assert_close(both.p_value[:, 1], one.p_value)
    assert_close(both.f_statistic[1], one.f_statistic)


def test_the_order_of_merges_does_not_matter(x64):
    x, y, weights = problem()
    parts = [streamed(x[i::4], y[i::4], weights[i::4]) for i in range(4)]
    left = functools.reduce(streaming.merge, parts)
    right = functools.reduce(lambda b, a: streaming.merge(a, b), reversed(parts))
    tree = streaming.merge(streaming.merge(parts[2], parts[0]), streaming.merge(parts[3], parts[1]))
    for other in (right, tree, streamed(x, y, weights, block=1), streaming.merge(streaming.init(D), left)):
        jax.tree.map(functools.partial(assert_close, rtol=1e-12), left, other)
    assert_close(left.factor, np.abs(np.sign(np.diag(left.factor)))[:, None] * left.factor)
    design = np.sqrt(weights)[:, None] * np.column_stack([np.ones(N), x])
    assert_close(np.abs(left.factor), np.abs(scipy.linalg.qr(design, mode="r")[0][: D + 1]))


def test_condition_is_not_squared(x64):
    """Longley-like: the columns agree to eight digits, where the moment matrix would keep none."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(200, 1))
    x = base + 1e-8 * rng.normal(size=(200, D))
    y = x @ np.array([1.0, -2.0, 3.0])
    solution = streaming.solve(streamed(x, y, block=20))
    assert_close(solution.params.coefficients, [1, -2, 3], rtol=1e-6)
    exact = np.linalg.lstsq(np.column_stack([np.ones(200), x]), y, rcond=None)[0]
    assert np.abs(exact[1:] - [1, -2, 3]).max() < 1e-6


@pytest.mark.parametrize("how", ["weights", "mask"])
def test_absent_rows_change_nothing(x64, how):
    x, y, weights = problem()
    absent = np.arange(N) % 3 == 0
    expected = streamed(x[~absent], y[~absent], weights[~absent], block=N)
    x, y = np.where(absent[:, None], np.nan, x), np.where(absent, np.inf, y)
    data = {"weights": np.where(absent, 0, weights)} if how == "weights" else {"weights": weights, "mask": ~absent}
    jax.tree.map(assert_close, streaming.update(streaming.init(D), x, y, **data), expected)


def test_accumulate_pads_to_one_shape_and_compiles_once(x64):
    x, y, weights = problem()
    sizes = [0, 16, 20, 32, N]
    blocks = [Batch(x[a:b], y[a:b], weights[a:b]) for a, b in itertools.pairwise(sizes)]
    accumulator._donating_update.clear_cache()
    acc = streaming.accumulate(streaming.init(D), blocks)
    streaming.accumulate(streaming.init(D), blocks[::-1], num_rows=16)
    assert accumulator._donating_update._cache_size() == 1
    assert_same_fit(streaming.solve(acc), linear.fit(x, y, weights=weights))
    pairs = [(x[:30], y[:30]), (x[30:], y[30:])]
    assert_same_fit(streaming.solve(streaming.accumulate(streaming.init(D), pairs)), linear.fit(x, y))
    with pytest.raises(InputError, match="one has 12 rows, more than 4"):
        streaming.accumulate(streaming.init(D), blocks[1:])


def test_memory_of_an_update_does_not_depend_on_the_rows_before(x64):
    x, y, _ = problem()
    compiled = jax.jit(streaming.update, donate_argnums=0).lower(streaming.init(D), x, y).compile()
    memory = compiled.memory_analysis()
    assert memory.output_size_in_bytes < 8 * 2 * (D + 2) ** 2 + 64
    sizes = [sum(leaf.nbytes for leaf in streamed(x[:n], y[:n])) for n in (10, 40)]
    assert sizes[0] == sizes[1]


def test_leave_one_fold_out_equals_refits(x64):
    x, y, weights = problem()
    folds = jax.vmap(lambda x, y, w: streaming.update(streaming.init(D), x, y, weights=w))(
        x.reshape(5, 8, D), y.reshape(5, 8), weights.reshape(5, 8)
    )
    fits = jax.vmap(functools.partial(streaming.solve, l2=0.7))(streaming.leave_one_fold_out(folds))
    for fold in range(5):
        kept = np.arange(N) // 8 != fold
        expected = linear.fit(x[kept], y[kept], weights=weights[kept], l2=0.7)
        assert_same_fit(jax.tree.map(lambda leaf, fold=fold: leaf[fold], fits), expected)


def test_leave_one_out_equals_refits(x64):
    l2 = 2.0
    x, y, weights = problem(n=12, k=2)
    offset = np.linspace(0, 1, 12)
    solution = linear.fit(x, y, weights=weights, l2=l2, offset=offset)
    ours = streaming.leave_one_out(solution, x, y, weights=weights, offset=offset)
    refit = jax.jit(lambda kept: linear.fit(x, y, weights=jnp.where(kept, weights, 0), l2=l2, offset=offset).params)
    for row in range(12):
        expected = linear.predict(refit(np.arange(12) != row), x)[row] + offset[row]
        assert_close(ours[row], expected, rtol=1e-10)
    block = streaming.leave_one_out(solution, x[4:8], y[4:8], weights=weights[4:8], offset=offset[4:8])
    assert_close(block, ours[4:8])
    assert np.all(streaming.leave_one_out(solution, x, y, mask=np.zeros(12, bool)) == 0)


@pytest.mark.parametrize("length", [1, 7, N])
def test_rolling_equals_refits(x64, length):
    x, y, weights = problem()
    rows = jax.vmap(lambda x, y, w: streaming.update(streaming.init(D), x[None], y[None], weights=w[None]))(
        x, y, weights
    )
    windows = jax.jit(functools.partial(streaming.rolling, length=length))(rows)
    assert windows.num_rows.shape == (N - length + 1,)
    assert np.all(windows.num_rows == length)
    for start in {0, (N - length) // 2, N - length}:
        inside = slice(start, start + length)
        expected = streamed(x[inside], y[inside], weights[inside], block=N)
        ours = jax.tree.map(lambda leaf, start=start: leaf[start], windows)
        jax.tree.map(functools.partial(assert_close, rtol=1e-10), ours, expected)


def test_rolling_forgets_what_has_left(x64):
    """Downdating would carry the rounding of 1e8 into every later window."""
    x, y, _ = problem(n=30)
    x[:5] *= 1e8
    y[:5] *= 1e12
    rows = jax.vmap(streaming.update, (None, 0, 0))(streaming.init(D), x[:, None], y[:, None])
    windows = streaming.rolling(rows, length=8)
    last = streaming.solve(jax.tree.map(lambda leaf: leaf[-1], windows))
    assert_same_fit(last, linear.fit(x[-8:], y[-8:]), rtol=1e-10)


def test_later_of_two_dependent_columns_is_dropped(x64):
    x, y, _ = problem()
    repeated = np.column_stack([x[:, 0], 2 * x[:, 0] - 1, x[:, 1:], np.full(N, 0.1)])
    ours = streaming.solve(streamed(repeated, y))
    expected = linear.fit(x, y)
    assert ours.status == Status.rank_deficient
    assert ours.stats.rank == D + 1
    assert_close(ours.params.coefficients[np.array([0, 2, 3])], expected.params.coefficients)
    assert_close(ours.params.coefficients[np.array([1, 4])], [0, 0])
    assert_close(ours.stats.residual_sum_of_squares, expected.stats.residual_sum_of_squares)
    assert_close(ours.stats.sigma2, expected.stats.sigma2)
    table = streaming.infer(streamed(repeated, y))
    assert np.isnan(table.standard_error).tolist() == [False, False, True, False, False, True]
    without = streaming.solve(streamed(repeated, y), intercept=False)
    assert_same_fit(without, linear.fit(repeated, y, intercept=False))
    penalised = streaming.solve(streamed(repeated, y), l2=1.0)
    assert penalised.status == Status.ok


def test_status_says_what_is_wrong(x64):
    x, y, weights = problem()
    assert streaming.solve(streaming.init(D)).status == Status.invalid_input
    assert streaming.solve(streamed(x, y), l2=-1.0).status == Status.invalid_input
    assert streaming.solve(streamed(x[:2], y[:2])).status == Status.underdetermined
    bad = x.copy()
    bad[7, 1] = np.nan
    assert streaming.solve(streamed(bad, y)).status == Status.nonfinite
    for weight in (-1.0, np.nan):
        assert (
            streaming.solve(streamed(x, y, np.where(np.arange(N) == 3, weight, weights))).status == Status.invalid_input
        )


def test_float32_keeps_its_dtype():
    x, y, weights = (part.astype(np.float32) for part in problem())
    acc = streamed(x, y, weights)
    assert acc.factor.dtype == acc.num_rows.dtype == np.float32
    fit = streaming.solve(acc)
    exact = np.linalg.lstsq(
        np.sqrt(weights.astype(float))[:, None] * np.column_stack([np.ones(N), x]),
        np.sqrt(weights) * y.astype(float),
        None,
    )[0]
    assert_close(fit.params.coefficients, exact[1:], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: streaming.init(0), "num_columns: got 0"),
        (lambda x, y: streaming.init(2, 1.5), "num_targets: got 1.5"),
        (lambda x, y: streaming.init(2, dtype=jnp.float16), "dtype: got float16"),
        (lambda x, y: streaming.update(streaming.init(2), x, y), "x: got shape .* has 2 columns"),
        (lambda x, y: streaming.update(streaming.init(D), x, y[:-1]), "y: got shape"),
        (lambda x, y: streaming.update(streaming.init(D, 1), x, y), r"needs \(40, 1\)"),
        (lambda x, y: streaming.merge(streaming.init(2), streaming.init(3)), r"b: \(4,\)"),
        (lambda x, y: streaming.init_window(streaming.init(2), 0), "length: got 0"),
        (lambda x, y: streaming.solve(streaming.init(D), l2=np.ones(2)), "l2: got shape"),
        (lambda x, y: streaming.infer(streamed(x, y), confidence=95), "confidence: 95"),
    ],
)
def test_wrong_arguments_say_the_fix(call, message):
    x, y, _ = problem()
    with pytest.raises(InputError, match=message) as raised:
        call(x, y)
    assert "\n" not in str(raised.value)

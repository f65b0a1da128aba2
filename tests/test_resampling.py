"""Resampled fits against refits, closed forms and scipy's bootstrap."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxmodels.core import InputError
from jaxmodels.regression import inference, linear, resampling

pytestmark = pytest.mark.slow

N, D = 30, 2
KEY = jax.random.key(3)


def assert_close(ours, reference, rtol=1e-10, atol=1e-12):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(reference), rtol=rtol, atol=atol)


@functools.cache
def problem(*, outputs=None):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(N, D)) + 1
    y = 1 + x @ np.array([[0.5], [0.0]]) + rng.normal(size=(N, outputs or 1)) * (0.3 + x[:, :1] ** 2) / 2
    return x, y if outputs else y[:, 0], rng.uniform(0.5, 2, N)


def spoiled(x, y, weights):
    """The same data with rows of NaN between them that do not count."""
    places = [0, 4, 4, 20, N]
    x, y = (np.insert(part, places, np.nan, axis=0) for part in (x, y))
    return x, y, np.insert(weights, places, 0.0)


@pytest.mark.parametrize(("outputs", "l2"), [(None, 0.0), (2, np.array([2.0, 0.3]))])
def test_jackknife_equals_the_refits(x64, l2, outputs):
    x, y, weights = problem(outputs=outputs)
    offset = np.linspace(0, 1, N)
    ours = resampling.jackknife(x, y, weights=weights, l2=l2, offset=offset)
    keep = 1 - np.eye(N)
    refits = jax.jit(jax.vmap(lambda w: linear.fit(x, y, weights=w, l2=l2, offset=offset).params))(weights * keep)
    samples = np.concatenate([refits.intercept[:, None], refits.coefficients], axis=1)
    assert_close(ours.samples, samples)
    assert_close(ours.bias, (N - 1) * (samples.mean(0) - ours.estimate), rtol=1e-8)
    assert_close(ours.standard_error, np.sqrt((N - 1) * samples.var(0)))


def test_jackknife_leaves_absent_rows_out(x64):
    x, y, weights = problem()
    expected = resampling.jackknife(x, y, weights=weights)
    sx, sy, sw = spoiled(x, y, weights)
    ours = resampling.jackknife(sx, sy, weights=sw)
    assert_close(ours.samples[sw > 0], expected.samples)
    assert_close(ours.standard_error, expected.standard_error)
    assert_close(ours.bias, expected.bias)


def test_a_pairs_sample_is_the_fit_of_the_drawn_rows(x64):
    x, y, weights = problem()
    ours = resampling.bootstrap(KEY, x, y, weights=weights, num_samples=5)
    for key, sample in zip(jax.random.split(KEY, 5), ours.samples, strict=True):
        drawn = np.asarray(resampling._draw(key, N, N))
        assert drawn.min() >= 0
        assert drawn.max() < N
        refit = linear.fit(x[drawn], y[drawn], weights=weights[drawn]).params
        assert_close(sample, np.r_[refit.intercept, refit.coefficients])


@pytest.mark.parametrize(("kind", "l2"), [("residual", 3.0), ("wild", 0.0)])
def test_a_sample_with_the_same_design_is_a_refit(x64, kind, l2):
    x, y, weights = problem(outputs=2)
    ours = resampling.bootstrap(KEY, x, y, weights=weights, l2=l2, num_samples=3, kind=kind)
    solution = linear.fit(x, y, weights=weights, l2=l2)
    diagnostics = inference.diagnostics(solution, x, y, weights=weights)
    scaled = diagnostics.residual * np.sqrt(weights / (1 - diagnostics.leverage))[:, None]
    key = jax.random.split(KEY, 3)[2]
    if kind == "residual":
        noise = (scaled - scaled.mean(0))[resampling._draw(key, N, N)]
    else:
        signs = np.sign(jax.random.uniform(key, (N,)) - 0.5)
        assert set(signs.tolist()) == {-1.0, 1.0}
        noise = scaled * signs[:, None]
    refit = linear.fit(x, y - diagnostics.residual + noise / np.sqrt(weights)[:, None], weights=weights, l2=l2).params
    assert_close(ours.samples[2], np.concatenate([refit.intercept[None], refit.coefficients]))


def test_wild_covariance_is_hc2_and_residual_covariance_is_classical(x64):
    x, y, weights = problem()
    solution = linear.fit(x, y, weights=weights)
    num_samples = 20_000
    wild = resampling.bootstrap(KEY, x, y, weights=weights, num_samples=num_samples, kind="wild")
    expected = inference.infer(solution, x, y, weights=weights, covariance="HC2").standard_error
    assert_close(wild.standard_error, expected, rtol=4 / np.sqrt(2 * num_samples))
    residual = resampling.bootstrap(KEY, x, y, weights=weights, num_samples=num_samples, kind="residual")
    diagnostics = inference.diagnostics(solution, x, y, weights=weights)
    scaled = diagnostics.residual * np.sqrt(weights / (1 - diagnostics.leverage))
    expected = inference.infer(solution, x, y, weights=weights).standard_error
    expected = expected * np.sqrt(np.var(scaled) / solution.stats.sigma2)
    assert_close(residual.standard_error, expected, rtol=5 / np.sqrt(2 * num_samples))


def test_intervals_and_errors_equal_scipy(x64):
    """scipy is handed our draws, row by row, so that only its formulas differ."""
    x, y, _ = problem()
    ours = resampling.bootstrap(KEY, x, y, num_samples=999, confidence=0.9)
    samples = np.asarray(ours.samples)
    assert_close(ours.percentile_interval, np.quantile(samples, [0.05, 0.95], axis=0).T)
    assert_close(ours.standard_error, samples.std(0, ddof=1))
    assert_close(ours.bias, samples.mean(0) - ours.estimate)
    for j in range(D + 1):

        def statistic(rows, j=j):
            rows = rows.astype(int)
            design = np.column_stack([np.ones(N), x])[rows]
            return np.linalg.lstsq(design, y[rows], rcond=None)[0][j]

        # As scipy.stats.bootstrap does after its draws, which it does not let us choose.
        leave_out = np.array([statistic(np.delete(np.arange(N), row)) for row in range(N)])
        influence = leave_out.mean() - leave_out
        acceleration = np.sum(influence**3) / (6 * np.sum(influence**2) ** 1.5)
        bias = scipy.stats.norm.ppf(np.mean(samples[:, j] < float(ours.estimate[j])))
        z = scipy.stats.norm.ppf([0.05, 0.95])
        levels = scipy.stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
        assert_close(ours.bca_interval[j], np.quantile(samples[:, j], levels), rtol=1e-8)


def test_bca_interval_agrees_with_scipys_own_draws(x64):
    x, y, _ = problem()
    ours = resampling.bootstrap(KEY, x[:, :1], y, num_samples=6000)

    def slope(x, y, axis):
        x, y = x - x.mean(axis, keepdims=True), y - y.mean(axis, keepdims=True)
        return (x * y).sum(axis) / (x * x).sum(axis)

    theirs = scipy.stats.bootstrap(
        (x[:, 0], y), slope, paired=True, n_resamples=6000, method="BCa", rng=np.random.default_rng(0)
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert_close(ours.bca_interval[1], theirs.confidence_interval, rtol=0, atol=0.06 * width)
    assert_close(ours.standard_error[1], theirs.standard_error, rtol=0.05)


@pytest.mark.parametrize("kind", ["pairs", "wild"])
def test_absent_rows_and_the_batch_size_change_no_sample(x64, kind):
    x, y, weights = problem()
    run = functools.partial(resampling.bootstrap, KEY, num_samples=7, kind=kind)
    expected = run(x, y, weights=weights)
    sx, sy, sw = spoiled(x, y, weights)
    jax.tree.map(functools.partial(assert_close, rtol=1e-9), run(sx, sy, weights=sw, batch_size=3), expected)


def test_a_sample_that_does_not_determine_the_fit_does_not_count(x64):
    x = np.zeros((8, 1))
    x[3] = 1.0
    y = np.arange(8.0)
    ours = resampling.bootstrap(KEY, x, y, num_samples=200)
    drawn = [np.asarray(resampling._draw(key, 8, 8)) for key in jax.random.split(KEY, 200)]
    without = np.array([3 not in rows for rows in drawn])
    assert 20 < without.sum() < 120
    assert ours.num_samples == (~without).sum()
    assert np.isnan(ours.samples[without]).all()
    kept = np.asarray(ours.samples)[~without]
    assert_close(ours.standard_error, kept.std(0, ddof=1))
    assert_close(ours.percentile_interval, np.quantile(kept, [0.025, 0.975], axis=0).T)


def refit_statistics(x, y, weights):
    result = inference.infer(linear.fit(x, y, weights=weights), x, y, weights=weights)
    return np.asarray(result.statistic)[1:], float(result.f_statistic)


@pytest.mark.parametrize("kind", resampling.SCHEMES)
def test_permutation_p_values_equal_refits(x64, kind):
    x, y, weights = problem()
    num_samples = 40
    ours = resampling.permutation_test(KEY, x, y, weights=weights, num_samples=num_samples, kind=kind)
    t, f = refit_statistics(x, y, weights)
    assert_close(ours.statistic, t)
    assert_close(ours.f_statistic, f)
    root, extreme, f_extreme = np.sqrt(weights), np.zeros(D), 0
    null = {None: np.full(N, weights @ y / weights.sum())}
    for j in range(D):
        without = np.delete(x, j, axis=1)
        null[j] = np.asarray(linear.predict(linear.fit(without, y, weights=weights).params, without))
    for key in jax.random.split(KEY, num_samples):
        order = np.asarray(resampling._shuffle(key, N, N))
        assert sorted(order.tolist()) == list(range(N))
        permuted = {j: fitted + (root * (y - fitted))[order] / root for j, fitted in null.items()}
        t_null, f_null = refit_statistics(x, permuted[None], weights)
        f_extreme += f_null >= f
        if kind == "freedman_lane":
            t_null = np.array([refit_statistics(x, permuted[j], weights)[0][j] for j in range(D)])
        extreme += np.abs(t_null) >= np.abs(t)
    assert_close(ours.p_value, (1 + extreme) / (1 + num_samples))
    assert_close(ours.f_p_value, (1 + f_extreme) / (1 + num_samples))


def test_permutation_test_of_several_outputs_and_absent_rows(x64):
    x, y, weights = problem(outputs=2)
    run = functools.partial(resampling.permutation_test, KEY, num_samples=50)
    both = run(x, y, weights=weights, batch_size=7)
    one = run(x, y[:, 1], weights=weights)
    assert_close(both.p_value[:, 1], one.p_value)
    assert_close(both.f_p_value[1], one.f_p_value)
    sx, sy, sw = spoiled(x, y, weights)
    jax.tree.map(assert_close, run(sx, sy, weights=sw), both)
    without = run(x, y, intercept=False)
    result = inference.infer(linear.fit(x, y, intercept=False), x, y)
    assert_close(without.statistic, result.statistic)
    assert_close(without.f_statistic, result.f_statistic)


def test_exact_permutation_p_value_of_a_tiny_problem(x64):
    """All 120 orders of five targets, against as many random ones as make the error small."""
    x, y = np.array([[0.0], [1], [2], [3], [4]]), np.array([1.0, 0, 2.5, 2, 4])
    expected = scipy.stats.permutation_test(
        (x[:, 0],), lambda x: np.abs(np.corrcoef(x, y)[0, 1]), permutation_type="pairings", n_resamples=np.inf,
        alternative="greater",
    ).pvalue  # fmt: skip
    ours = resampling.permutation_test(KEY, x, y, num_samples=20_000)
    assert_close(ours.p_value, [expected], rtol=0, atol=4 * np.sqrt(expected / 20_000))
    assert_close(ours.f_p_value, ours.p_value[0])


def test_pure_same_key_same_answer_under_jit_and_vmap(x64):
    x, y, _ = problem()
    run = functools.partial(resampling.bootstrap, num_samples=4, kind="wild")
    keys = jax.random.split(KEY, 2)
    mapped = jax.jit(jax.vmap(lambda key: run(key, x, y).samples))(keys)
    assert_close(mapped[1], run(keys[1], x, y).samples)
    assert not np.allclose(mapped[0], mapped[1])


def test_float32_keeps_its_dtype():
    x, y, _ = (part.astype(np.float32) for part in problem())
    for result in (resampling.bootstrap(KEY, x, y, num_samples=3), resampling.jackknife(x, y)):
        assert {leaf.dtype for leaf in result} <= {np.dtype("float32"), np.dtype("int32")}
    assert resampling.permutation_test(KEY, x, y, num_samples=3).p_value.dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: resampling.bootstrap(KEY, x, y, kind="block"), "kind: 'block' is none of pairs, residual, wild"),
        (lambda x, y: resampling.bootstrap(KEY, x, y, num_samples=1), "num_samples: got 1"),
        (lambda x, y: resampling.bootstrap(KEY, x, y, batch_size=0.5), "batch_size: got 0.5"),
        (lambda x, y: resampling.bootstrap(KEY, x, y, confidence=95), "confidence: 95"),
        (lambda x, y: resampling.permutation_test(KEY, x, y, kind="t"), "kind: 't' is none of freedman_lane, response"),
        (lambda x, y: resampling.permutation_test(KEY, x, y[:-1]), "y: got 29 rows"),
        (lambda x, y: resampling.jackknife(x, y[:-1]), "y: got 29 rows"),
    ],
)
def test_wrong_arguments_say_the_fix(call, message):
    x, y, _ = problem()
    with pytest.raises(InputError, match=message) as raised:
        call(x, y)
    assert "\n" not in str(raised.value)

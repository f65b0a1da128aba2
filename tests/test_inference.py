"""Standard errors, tests, intervals and diagnostics against statsmodels, R and NIST's certified values."""

from __future__ import annotations

import csv
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.outliers_influence import OLSInfluence

from jaxmodels.core import InputError
from jaxmodels.regression import inference, linear

pytestmark = [pytest.mark.slow, pytest.mark.unoptimised]

N, D = 60, 4
RTOL = 1e-10


def assert_close(ours, reference, rtol=RTOL, atol=1e-14):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(reference), rtol=rtol, atol=atol)


@functools.cache
def problem(seed=0, *, n=N, d=D):
    """Correlated columns far from 0, noise that grows with the first, groups and weights."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 5
    y = 1 + x @ np.arange(1.0, d + 1) + rng.normal(size=n) * (0.5 + np.abs(x[:, 0]))
    groups = rng.integers(0, 9, n)
    return x, y, rng.uniform(0.5, 2, n), np.where(groups == 4, 5, groups)  # nobody is in group 4


def fit_and_infer(x, y, *, weights=None, mask=None, offset=None, l2=0.0, intercept=True, **options):
    solution = linear.fit(x, y, weights=weights, mask=mask, offset=offset, l2=l2, intercept=intercept)
    return inference.infer(solution, x, y, weights=weights, mask=mask, offset=offset, **options)


def reference_fit(x, y, weights=None, *, intercept=True):
    design = sm.add_constant(x) if intercept else x
    return sm.WLS(y, design, 1.0 if weights is None else weights)


STATSMODELS = {
    "classical": ("nonrobust", {}),
    **{f"HC{i}": (f"HC{i}", {}) for i in range(4)},
    "hac": ("HAC", {"maxlags": 3}),
    "cluster": ("cluster", None),
}


@pytest.mark.parametrize(
    ("covariance", "weighted"),
    [*[(covariance, True) for covariance in inference.COVARIANCES], ("classical", False), ("cluster", False)],
)
def test_infer_equals_statsmodels(x64, covariance, weighted):
    x, y, weights, groups = problem()
    weights = weights if weighted else None
    cov_type, kwds = STATSMODELS[covariance]
    kwds = {"groups": groups} if covariance == "cluster" else kwds
    options = {"cluster": {"groups": groups}, "hac": {"lags": 3}}.get(covariance, {})
    for use_t in (True, False):
        expected = reference_fit(x, y, weights).fit(cov_type=cov_type, cov_kwds=kwds, use_t=use_t)
        ours = fit_and_infer(x, y, weights=weights, covariance=covariance, use_t=use_t, confidence=0.9, **options)
        assert_close(ours.estimate, expected.params)
        assert_close(ours.standard_error, expected.bse)
        assert_close(ours.statistic, expected.tvalues)
        assert_close(ours.p_value, expected.pvalues)
        assert_close(ours.confidence_interval, expected.conf_int(0.1))
        assert_close(ours.covariance, expected.cov_params())
        assert_close(ours.f_statistic, expected.fvalue)
        assert_close(ours.f_p_value, expected.f_pvalue)


def test_default_distribution_is_that_of_statsmodels(x64):
    x, y, _, _ = problem()
    assert fit_and_infer(x, y).dof == N - D - 1
    assert np.isinf(fit_and_infer(x, y, covariance="HC3").dof)


@pytest.mark.parametrize(("weighted", "intercept"), [(True, True), (False, False)])
def test_statistics_of_the_whole_fit_equal_statsmodels(x64, weighted, intercept):
    x, y, weights, _ = problem()
    weights = weights if weighted else None
    expected = reference_fit(x, y, weights, intercept=intercept).fit()
    ours = fit_and_infer(x, y, weights=weights, intercept=intercept)
    assert ours.estimate.shape == expected.params.shape
    for name, value in {
        "r_squared": expected.rsquared,
        "adjusted_r_squared": expected.rsquared_adj,
        "f_statistic": expected.fvalue,
        "f_p_value": expected.f_pvalue,
        "f_dof": expected.df_model,
        "log_likelihood": expected.llf,
        "aic": expected.aic,
        "bic": expected.bic,
        "sigma2": expected.scale,
        "residual_dof": expected.df_resid,
        "num_rows": expected.nobs,
    }.items():
        assert_close(getattr(ours, name), value)


def test_diagnostics_equal_statsmodels(x64):
    x, y, _, _ = problem()
    expected = OLSInfluence(sm.OLS(y, sm.add_constant(x)).fit())
    ours = inference.diagnostics(linear.fit(x, y), x, y)
    assert_close(ours.leverage, expected.hat_matrix_diag)
    assert_close(ours.internally_studentized, expected.resid_studentized_internal)
    assert_close(ours.externally_studentized, expected.resid_studentized_external)
    assert_close(ours.cooks_distance, expected.cooks_distance[0])
    assert_close(ours.dffits, expected.dffits[0])


@pytest.mark.parametrize("l2", [0.0, 2.0])
def test_diagnostics_equal_refits_without_the_row(x64, l2):
    x, y, weights, _ = problem(n=20)
    solution = linear.fit(x, y, weights=weights, l2=l2)
    ours = inference.diagnostics(solution, x, y, weights=weights)
    for row in (0, 7):
        left = weights * (np.arange(20) != row)
        refit = linear.fit(x, y, weights=left, l2=l2)
        change = linear.predict(solution.params, x) - linear.predict(refit.params, x)
        shift = change[row] * (1 - ours.leverage[row]) / ours.leverage[row]
        assert_close(shift, ours.residual[row])
        if l2 == 0:
            scale = np.sqrt(refit.stats.sigma2 * (1 - ours.leverage[row]) / weights[row])
            assert_close(ours.externally_studentized[row], ours.residual[row] / scale)
            cooks = np.sum(weights * change**2) / (solution.stats.sigma2 * (D + 1))
            assert_close(ours.cooks_distance[row], cooks, rtol=1e-9)


@pytest.mark.parametrize("covariance", ["classical", "HC3"])
def test_predict_interval_equals_statsmodels(x64, covariance):
    x, y, weights, _ = problem()
    new = np.random.default_rng(1).normal(size=(6, D)) + 5
    fitted = reference_fit(x, y, weights).fit(cov_type=STATSMODELS[covariance][0], use_t=True)
    expected = fitted.get_prediction(sm.add_constant(new, has_constant="add"), weights=weights[:6])
    result = fit_and_infer(x, y, weights=weights, covariance=covariance, use_t=True)
    ours = inference.predict_interval(result, new, weights=weights[:6], confidence=0.8)
    assert_close(ours.mean, expected.predicted_mean)
    assert_close(ours.standard_error, expected.se_mean)
    assert_close(ours.mean_interval, expected.conf_int(alpha=0.2))
    assert_close(ours.prediction_interval, expected.conf_int(obs=True, alpha=0.2))
    shifted = inference.predict_interval(result, new, offset=jnp.arange(6.0))
    assert_close(shifted.mean, ours.mean + jnp.arange(6.0))


def test_intervals_do_not_cancel_far_from_zero(x64):
    x, y, _, _ = problem()
    near = inference.predict_interval(fit_and_infer(x, y), x)
    far = inference.predict_interval(fit_and_infer(x + 2.0**20, y), x + 2.0**20)
    assert_close(far.standard_error, near.standard_error, rtol=1e-8)


def test_wald_test_equals_statsmodels(x64):
    x, y, weights, groups = problem()
    restrictions = np.array([[0.0, 1, -1, 0, 0], [0, 0, 0, 1, 1]])
    fitted = reference_fit(x, y, weights).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    expected = fitted.f_test((restrictions, [0.5, 1.0]))
    result = fit_and_infer(x, y, weights=weights, covariance="cluster", groups=groups, use_t=True)
    ours = inference.wald_test(result, restrictions, values=jnp.array([0.5, 1.0]))
    assert_close(ours.statistic, expected.fvalue)
    assert_close(ours.p_value, expected.pvalue)
    assert (ours.numerator_dof, ours.denominator_dof) == (expected.df_num, expected.df_denom)


def read_csv(path):
    with open(path) as file:
        header, *lines = csv.reader(file)
    return header, lines


def test_equals_r_on_mtcars(x64, data_dir):
    folder = data_dir / "glm_reference"
    header, lines = read_csv(folder / "glm_mtcars_gaussian_data.csv")
    table = dict(zip(header, np.array(lines, float).T, strict=True))
    x = np.stack([table["wt"], table["hp"], table["cyl"] == 6, table["cyl"] == 8], axis=1).astype(float)
    solution = linear.fit(x, table["mpg"])
    ours = inference.infer(solution, x, table["mpg"])
    expected = np.array([line[1:] for line in read_csv(folder / "glm_mtcars_gaussian_coef.csv")[1]], float)
    got = jnp.stack([ours.estimate, ours.standard_error, ours.statistic, ours.p_value], axis=1)
    assert_close(got, expected)
    covariance = np.array([line[1:] for line in read_csv(folder / "glm_mtcars_gaussian_vcov.csv")[1]], float)
    assert_close(ours.covariance, covariance)
    stats = dict(read_csv(folder / "glm_mtcars_gaussian_stats.csv")[1])
    deviance, null_deviance, aic = (float(stats[key]) for key in ("deviance", "null_deviance", "aic"))
    assert_close(solution.stats.residual_sum_of_squares, deviance)
    assert_close(ours.r_squared, 1 - deviance / null_deviance)
    assert_close(ours.aic + 2, aic)  # R counts sigma
    rows = np.array(read_csv(folder / "glm_mtcars_gaussian_fitted.csv")[1], float)
    diagnostics = inference.diagnostics(solution, x, table["mpg"])
    assert_close(diagnostics.residual, rows[:, 1], atol=1e-12)
    assert_close(diagnostics.leverage, rows[:, 3])
    assert_close(diagnostics.cooks_distance, rows[:, 4], atol=1e-12)


def read_nist(path):
    """Data, certified estimates and standard deviations, and the certified numbers of the whole fit."""
    lines = path.read_text().splitlines()
    data_from, data_to = next(
        (int(line.split("lines")[1].split("to")[0]), int(line.split("to")[1].strip(" )")))
        for line in lines
        if line.strip().startswith("Data") and "lines" in line
    )
    data = np.array([line.split() for line in lines[data_from - 1 : data_to]], float)
    parameters = np.array([line.split()[1:] for line in lines if line.split()[:1] and line.split()[0][0] == "B"
                           and line.split()[0][1:].isdigit() and len(line.split()) == 3], float)  # fmt: skip
    whole = {}
    for index, line in enumerate(lines[:data_from]):
        words = line.split()
        if words[:1] == ["R-Squared"]:
            whole["r_squared"] = float(words[1])
        if words[:1] == ["Regression"] and len(words) == 5:
            whole["f_statistic"] = float(words[4]) if words[4] != "Infinity" else np.inf
        if words[:2] == ["Standard", "Deviation"] and len(words) == 3 and "Residual" in lines[index - 1]:
            whole["sigma"] = float(words[2])
    return data, parameters, whole


# name: whether an intercept, degree (None: the columns as they are), digits of the standard deviations by "qr"
NIST = {
    "NoInt1": (False, None, 1e-13),
    "Longley": (True, None, 1e-9),
    "Filip": (True, 10, 1e-6),
    "Wampler3": (True, 5, 1e-9),
    "Wampler4": (True, 5, 1e-9),
    "Wampler5": (True, 5, 1e-9),
}


@pytest.mark.parametrize("name", NIST)
def test_nist_standard_deviations_r_squared_and_f(x64, data_dir, name):
    data, certified, whole = read_nist(data_dir / "nist" / "linear" / f"{name}.dat")
    intercept, degree, rtol = NIST[name]
    y, x = data[:, 0], data[:, 1:]
    if degree is not None:
        x = x ** np.arange(1, degree + 1)
    ours = fit_and_infer(x, y, intercept=intercept)
    assert_close(ours.standard_error, certified[:, 1], rtol=rtol)
    assert_close(np.sqrt(ours.sigma2), whole["sigma"], rtol=rtol)
    assert_close(ours.r_squared, whole["r_squared"], rtol=max(rtol, 1e-12))
    assert_close(ours.f_statistic, whole["f_statistic"], rtol=max(2 * rtol, 1e-10))


# Ours against ours ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("covariance", "through"), [("cluster", "weights"), ("hac", "mask")])
def test_absent_rows_change_nothing(x64, covariance, through):
    x, y, weights, groups = problem()
    absent = np.isin(np.arange(N), [3, 4, 11, 59])
    options = {"cluster": {"groups": groups}}.get(covariance, {})
    kept = {"cluster": {"groups": groups[~absent]}}.get(covariance, {})
    expected = fit_and_infer(x[~absent], y[~absent], weights=weights[~absent], covariance=covariance, **kept)
    x, y = np.where(absent[:, None], np.nan, x), np.where(absent, np.inf, y)
    data = {"weights": weights, "mask": ~absent} if through == "mask" else {"weights": np.where(absent, 0, weights)}
    ours = fit_and_infer(x, y, covariance=covariance, **data, **options)
    jax.tree.map(functools.partial(assert_close, rtol=1e-11), ours, expected)
    diagnostics = inference.diagnostics(linear.fit(x, y, **data), x, y, **data)
    assert all(np.isfinite(leaf).all() for leaf in diagnostics)
    assert np.all(diagnostics.leverage[absent] == 0)


def test_vmap_equals_loop_and_jit_equals_no_jit(x64):
    x, y, groups = (
        np.stack(parts) for parts in zip(*[problem(seed)[:2] + problem(seed)[3:] for seed in range(3)], strict=True)
    )
    run = functools.partial(fit_and_infer, covariance="cluster", num_groups=10)
    batch = jax.jit(jax.vmap(lambda x, y, groups: run(x, y, groups=groups)))(x, y, groups)
    for lane in range(3):
        single = run(x[lane], y[lane], groups=groups[lane])
        jax.tree.map(lambda a, b, lane=lane: assert_close(a[lane], b, rtol=1e-11), batch, single)


def test_outputs_are_as_many_single_fits(x64):
    x, y, weights, _ = problem()
    both = np.stack([y, y**2], axis=1)
    ours = fit_and_infer(x, both, weights=weights, covariance="hac")
    for j in range(2):
        one = fit_and_infer(x, both[:, j], weights=weights, covariance="hac")
        assert_close(ours.p_value[:, j], one.p_value)
        assert_close(ours.confidence_interval[:, j], one.confidence_interval)
        assert_close(ours.covariance[j], one.covariance)
        assert_close(ours.f_p_value[j], one.f_p_value)
        assert_close(ours.aic[j], one.aic)
    several = inference.predict_interval(ours, x[:3])
    assert_close(several.prediction_interval[:, 0], inference.predict_interval(fit_and_infer(
        x, y, weights=weights, covariance="hac"), x[:3]).prediction_interval)  # fmt: skip
    assert inference.diagnostics(linear.fit(x, both), x, both).cooks_distance.shape == (N, 2)


def test_offset_is_a_shift_of_the_targets(x64):
    x, y, _, _ = problem()
    shift = np.sin(np.arange(N))
    jax.tree.map(assert_close, fit_and_infer(x, y, offset=shift), fit_and_infer(x, y - shift))


def test_ridge_covariance_is_that_of_the_linear_map(x64):
    x, y, weights, _ = problem()
    l2 = np.array([0.5, 1.0, 2.0, 4.0])
    ours = fit_and_infer(x, y, weights=weights, l2=l2)
    design, penalty = np.column_stack([np.ones(N), x]), np.diag([0, *l2])
    inverse = np.linalg.inv(design.T @ (weights[:, None] * design) + penalty)
    hat = inverse @ (design.T * weights)
    dof = N - np.trace(design @ hat)
    residuals = y - design @ hat @ y
    sigma2 = weights @ residuals**2 / dof
    assert_close(ours.residual_dof, dof)
    assert_close(ours.covariance, sigma2 * hat / weights @ hat.T, rtol=1e-9)
    robust = fit_and_infer(x, y, weights=weights, l2=l2, covariance="HC0")
    assert_close(robust.covariance, hat * residuals**2 @ hat.T, rtol=1e-9)


def test_dropped_column_has_no_standard_error(x64):
    x, y, _, _ = problem()
    repeated = np.column_stack([x, x[:, 0] - 2 * x[:, 1]])
    ours, full = fit_and_infer(repeated, y), fit_and_infer(x, y)
    assert np.isnan(ours.standard_error).sum() == np.isnan(ours.p_value).sum() == 1
    for name in ("r_squared", "adjusted_r_squared", "f_statistic", "f_p_value", "aic", "sigma2"):
        assert_close(getattr(ours, name), getattr(full, name))
    assert "dropped" in inference.summary(ours)
    robust = fit_and_infer(repeated, y, covariance="HC1")
    assert_close(robust.f_statistic, fit_and_infer(x, y, covariance="HC1").f_statistic, rtol=1e-9)
    at, reference = inference.predict_interval(ours, repeated[:4]), inference.predict_interval(full, x[:4])
    assert_close(at.prediction_interval, reference.prediction_interval)


@pytest.mark.parametrize("covariance", ["classical", "hac"])
def test_gradient_equals_finite_difference(x64, covariance):
    x, y, weights, _ = (jnp.asarray(part) for part in problem(n=15))
    direction = jnp.asarray(np.random.default_rng(2).normal(size=15))

    def loss(t):
        result = fit_and_infer(x + t * direction[:, None], y + t * direction, weights=weights, covariance=covariance)
        return jnp.log(result.p_value).sum() + result.standard_error.sum() + jnp.log(result.f_p_value) + result.aic

    loss = jax.jit(loss)
    step = 1e-5
    difference = (loss(step) - loss(-step)) / (2 * step)
    derivative = jax.jit(jax.grad(loss) if covariance == "hac" else jax.jacfwd(loss))
    assert_close(derivative(0.0), difference, rtol=1e-6)


def test_dtype_of_the_input_is_kept():
    x, y, weights, groups = problem()
    x, y, weights = (part.astype(np.float32) for part in (x, y, weights))
    result = fit_and_infer(x, y, weights=weights, covariance="cluster", groups=groups)
    assert {leaf.dtype for leaf in result} == {np.dtype("float32"), np.dtype("int32")}
    expected = reference_fit(x.astype(float), y, weights).fit(cov_type="cluster", cov_kwds={"groups": groups})
    assert_close(result.standard_error, expected.bse, rtol=1e-4)
    assert {leaf.dtype for leaf in inference.predict_interval(result, x)} == {np.dtype("float32")}


def test_float32_inside_x64_stays_float32(x64):
    x, y = (jnp.asarray(part, jnp.float32) for part in problem()[:2])
    result = fit_and_infer(x, y)
    assert {leaf.dtype for leaf in result} == {np.dtype("float32"), np.dtype("int32")}
    assert {leaf.dtype for leaf in inference.predict_interval(result, x)} == {np.dtype("float32")}


def test_default_lags_are_newey_and_wests_rule(x64):
    x, y, _, _ = problem()
    expected = reference_fit(x, y).fit(cov_type="HAC", cov_kwds={"maxlags": int(4 * (N / 100) ** (2 / 9))})
    assert_close(fit_and_infer(x, y, covariance="hac").standard_error, expected.bse)


def test_summary_shows_the_numbers(x64):
    x, y, _, _ = problem()
    result = fit_and_infer(x, y, covariance="HC3")
    text = inference.summary(result, names=["a", "b", "c", "much longer name"])
    lines = text.splitlines()
    assert lines[0] == "Least squares, HC3 standard errors"
    assert f"R-squared {result.r_squared:.4g}" in text
    assert "z value" in text
    for name, estimate in zip(["(intercept)", "a", "b", "c", "much longer name"], result.estimate, strict=True):
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert abs(float(line[len("much longer name") :].split()[0]) - estimate) < 1e-3
    header = next(index for index, line in enumerate(lines) if "estimate" in line)
    ends = {line.find(f"{value:.3f}") for line, value in zip(lines[header + 1 :], result.statistic, strict=False)}
    assert -1 not in ends
    assert "*" not in inference.summary(result, stars=False)
    with pytest.raises(InputError, match="names: got 2 for 4 columns"):
        inference.summary(result, names=["a", "b"])
    lanes = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), result)
    with pytest.raises(InputError, match="lanes"):
        inference.summary(lanes)
    several = inference.summary(fit_and_infer(x, np.stack([y, -y], axis=1)))
    assert several.count("Least squares") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covariance": "HC4"}, "covariance: 'HC4' is none of classical, HC0, HC1, HC2, HC3, cluster, hac"),
        ({"covariance": "cluster"}, "groups: covariance='cluster' needs groups"),
        ({"groups": np.zeros(N, int)}, "groups: covariance='classical' takes no groups"),
        ({"covariance": "cluster", "groups": np.zeros(3, int)}, "needs 60 integers"),
        ({"covariance": "cluster", "groups": np.zeros(N)}, "float"),
        ({"covariance": "cluster", "groups": np.arange(N), "num_groups": 5}, "ids from 0 to 59 with num_groups=5"),
        ({"covariance": "cluster", "groups": np.arange(N) - 1}, "ids from -1"),
        ({"covariance": "hac", "lags": -1}, "lags: got -1"),
        ({"covariance": "hac", "lags": 1.5}, "lags: got 1.5"),
        ({"lags": 2}, "takes no lags"),
        ({"confidence": 95}, "confidence: 95 is not between 0 and 1"),
    ],
)
def test_wrong_options_say_the_fix(options, message):
    x, y, _, _ = problem()
    solution = linear.fit(x, y)
    with pytest.raises(InputError, match=message) as raised:
        inference.infer(solution, x, y, **options)
    assert "\n" not in str(raised.value)


def test_wrong_shapes_say_the_fix():
    x, y, _, _ = problem()
    solution = linear.fit(x, y)
    for call in (
        lambda: inference.infer(solution, x[:, :2], y),
        lambda: inference.diagnostics(solution, x[:, :2], y),
        lambda: inference.predict_interval(inference.infer(solution, x, y), x[:, :2]),
    ):
        with pytest.raises(InputError, match=r"x: got shape .*, but the fit had 4 columns"):
            call()
    with pytest.raises(InputError, match="y: got 59 rows for the 60"):
        inference.infer(solution, x, y[:-1])
    with pytest.raises(InputError, match="restrictions"):
        inference.wald_test(inference.infer(solution, x, y), np.ones((1, 4)))
    with pytest.raises(InputError, match="num_groups: needed where groups is traced"):
        jax.jit(lambda g: inference.infer(solution, x, y, covariance="cluster", groups=g))(np.zeros(N, int))

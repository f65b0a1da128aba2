"""Generalized linear models against R, statsmodels, many digits, and themselves."""

from __future__ import annotations

import csv
import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import statsmodels.api as sm

from jaxmodels import families, glm, linear
from jaxmodels.core import InputError, Status
from jaxmodels.numerics import newton, row_parts

pytestmark = pytest.mark.slow

NUM_ROWS = 40


@pytest.fixture(scope="module")
def rows():
    """x, weights, offset, and a linear predictor to make targets of."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(NUM_ROWS, 2)) * [1.0, 2.0] + [0.0, 5.0]
    return x, rng.uniform(0.5, 2.0, NUM_ROWS), rng.normal(size=NUM_ROWS) / 5, x @ [0.4, 0.1] - 0.3


def targets_of(name: str, predictor: np.ndarray) -> np.ndarray:
    rng, mean = np.random.default_rng(3), np.exp(predictor)
    if name in ("poisson", "negative_binomial", "tweedie", "quasi_poisson"):
        return rng.poisson(mean * rng.gamma(2.0, 0.5, mean.shape)).astype(float)
    if name in ("bernoulli", "quasi_binomial"):
        return (rng.uniform(size=mean.shape) < mean / (1 + mean)).astype(float)
    if name == "categorical":
        return rng.integers(0, 3, mean.shape)
    return mean * rng.gamma(5.0, 0.2, mean.shape)


# R --------------------------------------------------------------------------------------------------------------------


def read(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def dummies(records, column: str, levels: list[str]) -> np.ndarray:
    return np.array([[float(record[column] == level) for level in levels] for record in records])


def numbers(records, *columns: str) -> np.ndarray:
    return np.array([[float(record[column]) for column in columns] for record in records])


def mtcars(records):
    return np.hstack([numbers(records, "wt", "hp"), dummies(records, "cyl", ["6", "8"])]), numbers(records, "mpg"), None


def pima(records):
    x = numbers(records, "npreg", "glu", "bp", "skin", "bmi", "ped", "age")
    return x, dummies(records, "type", ["Yes"]), None


def quine(records):
    factors = [("Eth", ["N"]), ("Sex", ["M"]), ("Age", ["F1", "F2", "F3"]), ("Lrn", ["SL"])]
    return np.hstack([dummies(records, *factor) for factor in factors]), numbers(records, "Days"), None


def insurance(records):
    factors = [
        ("District", ["2", "3", "4"]),
        ("Group", ["1-1.5l", "1.5-2l", ">2l"]),
        ("Age", ["25-29", "30-35", ">35"]),
    ]
    offset = np.log(numbers(records, "Holders")[:, 0])
    return np.hstack([dummies(records, *factor) for factor in factors]), numbers(records, "Claims"), offset


R = {
    "mtcars_gaussian": ("gaussian", mtcars),
    "pima_binomial": ("bernoulli", pima),
    "quine_poisson": ("poisson", quine),
    "insurance_poisson_offset": ("poisson", insurance),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", R)
def test_r(name, data_dir):
    """Coefficients, covariance and deviances to 12 digits, where R has them: it stops when they change by less."""
    family, arrange = R[name]
    folder = data_dir / "glm_reference"
    x, y, offset = arrange(read(folder / f"glm_{name}_data.csv"))
    y = y[:, 0]
    expected = read(folder / f"glm_{name}_coef.csv")
    covariance = np.array([list(row.values())[1:] for row in read(folder / f"glm_{name}_vcov.csv")], float)
    whole = {row["key"]: row["value"] for row in read(folder / f"glm_{name}_stats.csv")}
    solution = glm.fit(x, y, family=family, offset=offset)
    result = glm.infer(solution, x, y, family=family, offset=offset)
    assert int(solution.status) == Status.ok
    scale = np.sqrt(np.diagonal(covariance))
    theirs = np.array([float(row["Estimate"]) for row in expected])
    np.testing.assert_allclose(result.estimate / scale, theirs / scale, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        result.covariance / np.outer(scale, scale), covariance / np.outer(scale, scale), atol=1e-11
    )
    for key in ("deviance", "null_deviance", "aic", "bic", "dispersion"):
        np.testing.assert_allclose(getattr(result, key), float(whole[key]), rtol=1e-12, err_msg=key)
    np.testing.assert_allclose(result.log_likelihood, float(whole["loglik"]), rtol=1e-12)
    column = "Pr(>|t|)" if family == "gaussian" else "Pr(>|z|)"
    p_values = np.array([float(row[column]) for row in expected])
    np.testing.assert_allclose(result.p_value, p_values, rtol=1e-8, atol=1e-300)


# Many digits ----------------------------------------------------------------------------------------------------------

MEANS = {
    "log": mpmath.exp,
    "identity": lambda z: z,
    "logit": lambda z: 1 / (1 + mpmath.exp(-z)),
    "probit": mpmath.ncdf,
    "cloglog": lambda z: -mpmath.expm1(-mpmath.exp(z)),
    "inverse": lambda z: 1 / z,
    "inverse_squared": lambda z: 1 / mpmath.sqrt(z),
    "sqrt": lambda z: z**2,
}
VARIANCES = {
    "poisson": lambda m: m,
    "bernoulli": lambda m: m * (1 - m),
    "gamma": lambda m: m**2,
    "inverse_gaussian": lambda m: m**3,
    "tweedie": lambda m: m ** mpmath.mpf(1.5),
    "negative_binomial": lambda m: m + mpmath.mpf(0.5) * m**2,
}
STATSMODELS = {
    ("bernoulli", "logit"): sm.families.Binomial(),
    ("bernoulli", "probit"): sm.families.Binomial(sm.families.links.Probit()),
    ("bernoulli", "cloglog"): sm.families.Binomial(sm.families.links.CLogLog()),
    ("poisson", "sqrt"): sm.families.Poisson(sm.families.links.Sqrt()),
    ("gamma", "inverse"): sm.families.Gamma(),
    ("gamma", "log"): sm.families.Gamma(sm.families.links.Log()),
    ("inverse_gaussian", "log"): sm.families.InverseGaussian(sm.families.links.Log()),
    ("tweedie", "log"): sm.families.Tweedie(sm.families.links.Log(), var_power=1.5),
    ("negative_binomial", "log"): sm.families.NegativeBinomial(sm.families.links.Log(), alpha=0.5),
}


def family_of(name: str, link: str) -> families.Family:
    parameter = {"tweedie": (1.5,), "negative_binomial": (0.5,)}.get(name, ())
    return getattr(families, name)(*parameter, link=link)


def exact_solution(name: str, link: str, design: np.ndarray, y: np.ndarray, weights, offset, start) -> np.ndarray:
    """Newton's method on the score in 40 digits: ``sum w (y - m) m' / V(m) z = 0``."""
    mean, variance = MEANS[link], VARIANCES[name]
    with mpmath.workdps(40):
        z, beta = mpmath.matrix(design.tolist()), mpmath.matrix([float(each) for each in start])

        def slope(i, eta):
            m = mean(eta)
            return mpmath.mpf(weights[i]) * (mpmath.mpf(y[i]) - m) * mpmath.diff(mean, eta) / variance(m)

        for _ in range(5):
            predictor = z * beta + mpmath.matrix(offset.tolist())
            values = mpmath.matrix([slope(i, predictor[i]) for i in range(len(y))])
            slopes = mpmath.diag(
                [mpmath.diff(functools.partial(slope, i), predictor[i], h=mpmath.mpf(10) ** -13) for i in range(len(y))]
            )
            beta = beta - mpmath.lu_solve(z.T * slopes * z, z.T * values)
        assert mpmath.norm(z.T * values) < 1e-13
        return np.array([float(each) for each in beta])


def score_size(name: str, link: str, design, y, weights, offset, beta) -> float:
    with mpmath.workdps(40):
        total = mpmath.matrix(design.shape[1], 1)
        for row, target, weight, shift in zip(design, y, weights, offset, strict=True):
            eta = mpmath.fdot(row.tolist(), [float(each) for each in beta]) + float(shift)
            m = MEANS[link](eta)
            factor = float(weight) * (float(target) - m) * mpmath.diff(MEANS[link], eta) / VARIANCES[name](m)
            total += factor * mpmath.matrix(row.tolist())
        return float(mpmath.norm(total))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "link"), STATSMODELS, ids=lambda value: value)
def test_newton_in_40_digits_and_statsmodels(name, link, rows):
    """Coefficients to 12 digits, at a smaller score than theirs or exact to the last digit; deviance as theirs."""
    x, weights, offset, predictor = rows
    offset = 0 * offset if link in ("inverse", "sqrt") else offset
    weights = np.ones_like(weights) if name == "bernoulli" else weights
    y = targets_of(name, predictor)
    family = family_of(name, link)
    solution = glm.fit(x, y, family=family, weights=weights, offset=offset)
    assert int(solution.status) == Status.ok
    ours = np.array([solution.params.intercept, *solution.params.coefficients])
    design = sm.add_constant(x)
    data = (design, y, weights, offset)
    exact = exact_solution(name, link, *data, start=ours)
    np.testing.assert_allclose(ours, exact, rtol=1e-12)
    theirs = sm.GLM(y, design, family=STATSMODELS[name, link], freq_weights=weights, offset=offset).fit()
    np.testing.assert_allclose(ours, theirs.params, rtol=1e-4)
    is_exact = np.all(np.abs(ours - exact) <= 4 * np.spacing(np.abs(exact)))
    assert is_exact or score_size(name, link, *data, ours) <= score_size(name, link, *data, theirs.params)
    if name != "tweedie":  # whose deviance statsmodels clips
        np.testing.assert_allclose(solution.stats.deviance, theirs.deviance, rtol=1e-7)


# Inference ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["classical", "HC0", "cluster"])
def test_inference_is_statsmodels(kind, rows):
    x, _, offset, predictor = rows
    y, groups = targets_of("poisson", predictor), np.arange(NUM_ROWS) // 5
    solution = glm.fit(x, y, family="poisson", offset=offset)
    options = {"covariance": kind} | ({"groups": groups, "num_groups": 8} if kind == "cluster" else {})
    result = glm.infer(solution, x, y, family="poisson", offset=offset, **options)
    model = sm.GLM(y, sm.add_constant(x), family=sm.families.Poisson(), offset=offset)
    theirs = model.fit(
        tol=1e-14,
        cov_type={"classical": "nonrobust"}.get(kind, kind),
        cov_kwds={"groups": groups} if kind == "cluster" else None,
    )
    for name, value in {
        "estimate": theirs.params,
        "standard_error": theirs.bse,
        "p_value": theirs.pvalues,
        "confidence_interval": theirs.conf_int(),
        "covariance": theirs.cov_params(),
        "deviance": theirs.deviance,
        "null_deviance": theirs.null_deviance,
        "pearson": theirs.pearson_chi2,
        "log_likelihood": theirs.llf,
        "aic": theirs.aic,
        "bic": theirs.bic_llf,
    }.items():
        # Their weights are those of the step before the last.
        np.testing.assert_allclose(getattr(result, name), value, rtol=1e-6, err_msg=name)


@pytest.mark.usefixtures("x64")
def test_hc1_counts_degrees_of_freedom(rows):
    """Which statsmodels leaves out for a GLM."""
    x, _, offset, predictor = rows
    y = targets_of("poisson", predictor)
    solution = glm.fit(x, y, family="poisson", offset=offset)
    plain, corrected = (
        glm.infer(solution, x, y, family="poisson", offset=offset, covariance=kind).covariance
        for kind in ("HC0", "HC1")
    )
    np.testing.assert_allclose(corrected, plain * NUM_ROWS / (NUM_ROWS - 3), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_dispersion_is_pearsons_and_gives_students_t(rows):
    x, weights, _, predictor = rows
    y = targets_of("gamma", predictor)
    solution = glm.fit(x, y, family="gamma", link="log", weights=weights)
    result = glm.infer(solution, x, y, family="gamma", link="log", weights=weights)
    model = sm.GLM(y, sm.add_constant(x), family=sm.families.Gamma(sm.families.links.Log()), var_weights=weights)
    theirs = model.fit(tol=1e-13, use_t=True)
    np.testing.assert_allclose(result.dispersion, theirs.scale, rtol=1e-8)
    np.testing.assert_allclose(result.standard_error, theirs.bse, rtol=1e-7)
    np.testing.assert_allclose(result.p_value, theirs.pvalues, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_negative_binomial_estimates_its_dispersion_as_statsmodels(rows):
    x, _, _, predictor = rows
    y = targets_of("negative_binomial", predictor + 1)
    solution = glm.fit(x, y, family="negative_binomial")
    assert int(solution.status) == Status.ok
    theirs = sm.NegativeBinomial(y, sm.add_constant(x)).fit(method="newton", disp=0, maxiter=200, gtol=1e-12)
    np.testing.assert_allclose(solution.params.intercept, theirs.params[0], rtol=1e-7)
    np.testing.assert_allclose(solution.params.coefficients, theirs.params[1:3], rtol=1e-6)
    np.testing.assert_allclose(solution.stats.parameter, theirs.params[3], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_categorical_is_statsmodels_and_with_a_penalty_scikit_learns(rows):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, _, _, predictor = rows
    y = targets_of("categorical", predictor)
    family = families.categorical(3)
    solution = glm.fit(x, y, family=family)
    result = glm.infer(solution, x, y, family=family)
    theirs = sm.MNLogit(y, sm.add_constant(x)).fit(method="newton", disp=0, gtol=1e-14)
    np.testing.assert_allclose(result.estimate, theirs.params.T, rtol=1e-9)
    np.testing.assert_allclose(result.standard_error, theirs.bse.T, rtol=1e-8)
    np.testing.assert_allclose(result.log_likelihood, theirs.llf, rtol=1e-12)
    assert int(solution.status) == Status.ok

    ridge = glm.fit(x, y, family=family, l2=0.5).params
    model = linear_model.LogisticRegression(C=2.0, tol=1e-12, max_iter=10_000, solver="newton-cg").fit(x, y)
    centred = ridge.coefficients - ridge.coefficients.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(centred.T, model.coef_, rtol=1e-6)
    np.testing.assert_allclose(glm.predict(ridge, x, family=family), model.predict_proba(x), rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_gaussian_is_linear_regression(rows):
    x, weights, _, predictor = rows
    y = targets_of("gaussian", predictor)
    options = {"weights": weights, "l2": np.array([0.3, 2.0])}
    ours, theirs = glm.fit(x, y, family="gaussian", **options), linear.fit(x, y, **options)
    np.testing.assert_allclose(ours.params.coefficients, theirs.params.coefficients, rtol=1e-12)
    np.testing.assert_allclose(ours.params.intercept, theirs.params.intercept, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_profile_ends_are_where_the_likelihood_ratio_says(rows):
    """Each end refitted with that coefficient held, by an offset."""
    x, _, _, predictor = rows
    y = targets_of("poisson", predictor)
    solution = glm.fit(x, y, family="poisson")
    ends = glm.profile(solution, x, y, family="poisson", confidence=0.9)
    quantile = 2.705543454095404  # chi-square, one degree of freedom, 0.9
    for end in ends[2]:
        held = sm.GLM(y, sm.add_constant(x[:, :1]), family=sm.families.Poisson(), offset=float(end) * x[:, 1])
        np.testing.assert_allclose(held.fit(tol=1e-14).deviance - solution.stats.deviance, quantile, rtol=1e-9)
    inference = glm.infer(solution, x, y, family="poisson")
    assert np.all((ends[:, 0] < inference.estimate) & (inference.estimate < ends[:, 1]))


# Separation -----------------------------------------------------------------------------------------------------------


def classes(*values):
    return np.array(values, np.float32)


LINE = np.arange(8, dtype=np.float32)[:, None]


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (classes(0, 0, 0, 0, 1, 1, 1, 1), Status.separated),
        (classes(0, 0, 0, 1, 0, 1, 1, 1), Status.ok),
        (classes(1, 1, 1, 1, 1, 1, 1, 1), Status.separated),
        (classes(0, 1, 1, 1, 1, 1, 1, 1), Status.separated),
    ],
)
def test_complete_separation_is_found_and_overlap_is_not_taken_for_it(y, expected):
    assert int(glm.fit(LINE, y, family="bernoulli").status) == expected


def test_quasi_complete_separation_is_found():
    """Two rows of the same x on both sides of the gap."""
    x = np.array([[0], [1], [2], [3], [3], [4], [5], [6]], np.float32)
    assert int(glm.fit(x, classes(0, 0, 0, 0, 1, 1, 1, 1), family="bernoulli").status) == Status.separated


def test_separation_of_counts_and_of_several_classes_is_found():
    x = np.repeat(np.eye(2, dtype=np.float32), 4, axis=0)[:, :1]
    assert int(glm.fit(x, classes(0, 0, 0, 0, 3, 1, 2, 5), family="poisson").status) == Status.separated
    family = families.categorical(3)
    assert int(glm.fit(LINE, np.array([0, 0, 1, 0, 1, 2, 2, 2]), family=family).status) == Status.separated
    assert int(glm.fit(LINE, np.array([0, 1, 2, 0, 1, 2, 0, 1]), family=family).status) == Status.ok


@pytest.mark.usefixtures("x64")
def test_firth_adds_half_to_each_cell_of_a_two_by_two_table():
    """The closed form, for a table with an empty cell, whose plain estimate is infinite."""
    x = np.repeat([0.0, 1.0], [5, 6])[:, None]
    y = np.array([0, 0, 0, 0, 1] + [1] * 6, float)
    solution = glm.fit(x, y, family="bernoulli", firth=True)
    assert int(solution.status) == Status.ok
    np.testing.assert_allclose(solution.params.intercept, np.log(1.5 / 4.5), rtol=1e-10)
    np.testing.assert_allclose(solution.params.coefficients[0], np.log(6.5 / 0.5) - np.log(1.5 / 4.5), rtol=1e-10)


# Purity ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_a_factor_that_serves_for_several_steps_leaves_no_digits_behind(monkeypatch):
    """A problem large enough for it, of columns far from zero and on unlike scales, beside Newton's method in NumPy."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    rng = np.random.default_rng(5)
    z = rng.normal(size=(33_000, newton.WIDE)) @ np.triu(rng.normal(size=(newton.WIDE, newton.WIDE)) / 4 + np.eye(32))
    x, weights = z * 10.0 ** (np.arange(32) % 5 - 2) + 30, rng.uniform(0.5, 2, len(z))
    assert x.size >= newton.LARGE
    offset, predictor = rng.normal(size=len(z)) / 5, z @ rng.normal(size=32) / 4 + 1
    y = (rng.uniform(size=len(z)) < 1 / (1 + np.exp(-predictor - offset))).astype(float)

    def fit(x, y):
        return glm.fit(x, y, family="bernoulli", weights=weights, offset=offset)

    design, best = np.column_stack([np.ones(len(z)), z]), np.zeros(33)
    for _ in range(12):
        mean = 1 / (1 + np.exp(-design @ best - offset))
        information = design.T @ ((weights * mean * (1 - mean))[:, None] * design)
        best = best + np.linalg.solve(information, design.T @ (weights * (y - mean)))
    ours = fit(x, y)
    assert int(ours.status) == Status.ok
    error = np.sqrt(np.diagonal(np.linalg.inv(information)))[1:]
    coefficients = ours.params.coefficients * 10.0 ** (np.arange(32) % 5 - 2)
    assert np.max(np.abs(coefficients - best[1:]) / error) < 1e-10
    np.testing.assert_allclose(coefficients, best[1:], rtol=1e-11, atol=1e-11 * error.max())
    assert int(ours.stats.num_steps) < 15

    copied = x.copy()
    copied[:, 20] = 3 * x[:, 4] - x[:, 7]
    found = fit(copied, y)
    assert int(found.status) == Status.rank_deficient
    assert int(found.stats.rank) == 32
    assert int(fit(x, (predictor > 1).astype(float)).status) == Status.separated


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", ["bernoulli", families.categorical(3)], ids=["probit", "categorical"])
def test_reused_factors_and_parts_of_rows_change_nothing(family, monkeypatch):
    """What large problems do on one device, with small ones: steps differ, results and gradients do not."""
    rng = np.random.default_rng(7)
    x, weights = rng.normal(size=(203, 4)) + np.array([0, 1, 10, 100]), rng.integers(0, 3, 203).astype(float)
    predictor = x @ [0.5, -1.0, 1.0, 0.0] - 9
    y = (rng.uniform(size=203) < 1 / (1 + np.exp(-predictor))).astype(float)
    if family != "bernoulli":
        y = np.eye(3)[np.argmax(predictor[:, None] * [0, 1, -1] + rng.gumbel(size=(203, 3)), axis=1)]
    x[11] = np.nan
    link = "probit" if family == "bernoulli" else None

    def run(padding):
        """With rows of padding, so that it is traced anew."""
        padded_x, padded_y = (np.concatenate([each, each[:padding]]) for each in (x, y))
        mask = (np.arange(203 + padding) < 203) & (np.arange(203 + padding) != 11)

        def value(l2, weights):
            weights = jnp.pad(weights, (0, padding))
            found = glm.fit(padded_x, padded_y, family=family, link=link, weights=weights, mask=mask, l2=l2)
            return jnp.sum(found.params.coefficients**2) + found.stats.deviance, found

        return jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))(0.5, weights)

    (value, plain), gradient = run(0)
    monkeypatch.setattr(newton, "LARGE", 1)
    monkeypatch.setattr(newton, "WIDE", 1)
    monkeypatch.setattr(row_parts, "SMALLEST", 1)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    (found_value, found), found_gradient = run(3)
    assert int(found.stats.num_steps) > int(plain.stats.num_steps)
    assert int(found.status) == int(plain.status) == Status.ok
    np.testing.assert_allclose(found_value, value, rtol=1e-12)
    np.testing.assert_allclose(found.params.coefficients, plain.params.coefficients, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(found_gradient, gradient, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_lanes_are_the_loop_and_bad_ones_leave_the_others_bit_identical(rows):
    x, _, _, predictor = rows
    y = targets_of("bernoulli", predictor)
    lanes = [(x, y)] * 6
    xs, ys = (np.array([lane[part] for lane in lanes]) for part in (0, 1))
    ys[5] = 1 - ys[5]
    fit = jax.jit(jax.vmap(lambda x, y: glm.fit(x, y, family="bernoulli")))
    healthy = fit(xs, ys)
    assert np.all(healthy.status == Status.ok)
    bad_x, bad_y = xs.copy(), ys.copy()
    bad_y[1] = x[:, 0] > 0
    bad_x[2, :, 1] = 2 * bad_x[2, :, 0]
    bad_x[3, 7, 0] = np.nan
    bad_y[4, 3] = 2.0
    mixed = fit(bad_x, bad_y)
    expected = [Status.ok, Status.separated, Status.rank_deficient, Status.nonfinite, Status.invalid_input, Status.ok]
    assert mixed.status.tolist() == expected
    for lane in (0, 5):
        jax.tree.map(lambda a, b, lane=lane: np.testing.assert_array_equal(a[lane], b[lane]), mixed, healthy)
    assert np.all(np.isnan(mixed.params.coefficients[3:5]))
    alone = glm.fit(xs[5], ys[5], family="bernoulli")
    np.testing.assert_allclose(healthy.params.coefficients[5], alone.params.coefficients, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_rows_that_do_not_count_are_as_good_as_removed(rows):
    x, weights, offset, predictor = rows
    y = targets_of("poisson", predictor)
    mask = np.arange(NUM_ROWS) % 4 != 1
    zeroed, spoiled_x, spoiled_y = weights.copy(), x.copy(), y.copy()
    spoiled_x[~mask], spoiled_y[~mask] = np.nan, -5
    zeroed[::8] = 0
    removed = mask & (zeroed > 0)
    ours = glm.fit(spoiled_x, spoiled_y, family="poisson", weights=zeroed, offset=offset, mask=mask)
    theirs = sm.GLM(
        y[removed],
        sm.add_constant(x[removed]),
        family=sm.families.Poisson(),
        freq_weights=weights[removed],
        offset=offset[removed],
    ).fit(tol=1e-14)
    np.testing.assert_allclose(ours.params.coefficients, theirs.params[1:], rtol=1e-10)
    np.testing.assert_allclose(ours.params.intercept, theirs.params[0], rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_gradients_are_finite_differences(name, rows):
    """By x, y, weights, offset and l2; of the negative binomial with its dispersion estimated."""
    x, weights, offset, predictor = rows
    y = targets_of(name, predictor + 1) + 0.5  # so that a step down is still a count
    arguments = (x, y, weights, offset, np.array([0.1, 0.4]))

    @jax.jit
    def objective(x, y, weights, offset, l2):
        solution = glm.fit(x, y, family=name, weights=weights, offset=offset, l2=l2)
        values = [solution.params.coefficients @ jnp.array([1.0, -2.0]), solution.params.intercept]
        return sum(values) + (0 if solution.stats.parameter is None else solution.stats.parameter)

    directions = [np.random.default_rng(i).normal(size=each.shape) for i, each in enumerate(arguments)]
    gradients = jax.jit(jax.grad(objective, range(5)))(*arguments)
    for index, direction in enumerate(directions):
        step = 1e-5

        def moved(by, index=index, direction=direction):
            return objective(*(each + by * direction if i == index else each for i, each in enumerate(arguments)))

        numerical = (8 * (moved(step) - moved(-step)) - (moved(2 * step) - moved(-2 * step))) / (12 * step)
        np.testing.assert_allclose(np.sum(gradients[index] * direction), numerical, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_rows_spread_over_devices_give_the_same(rows):
    x, _, _, predictor = rows
    y = targets_of("poisson", predictor)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
    spread = glm.fit(jax.device_put(x, sharding), jax.device_put(y, sharding), family="poisson")
    alone = glm.fit(x, y, family="poisson")
    np.testing.assert_allclose(spread.params.coefficients, alone.params.coefficients, rtol=1e-13)
    assert int(spread.status) == Status.ok


def test_float32_keeps_its_digits():
    """Columns far from zero and on unlike scales: as good as the float64 answer rounded."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(2000, 3)) * [1e-3, 1.0, 1e3] + [1.0, 100.0, -1e4]).astype(np.float32)
    mean = 1 / (1 + np.exp(-((x - x.mean(0)) / x.std(0)) @ [0.5, -1.0, 0.3]))
    y = (rng.uniform(size=2000) < mean).astype(np.float32)
    single = glm.fit(x, y, family="bernoulli")
    with jax.enable_x64(True):
        double = glm.fit(x.astype(np.float64), y.astype(np.float64), family="bernoulli")
    assert int(single.status) == Status.ok
    np.testing.assert_allclose(single.params.coefficients, double.params.coefficients, rtol=2e-5)


# Bad input ------------------------------------------------------------------------------------------------------------

X, Y = np.float32(np.arange(12).reshape(6, 2) % 5), np.float32([0, 1, 0, 1, 1, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "cauchy"}, "family: got 'cauchy'"),
        ({"family": "poisson", "y": Y - 1}, "y: 3 values that poisson does not admit, first -1 in row 0"),
        ({"y": 2 * Y}, "y: 3 values that bernoulli does not admit, first 2 in row 1"),
        ({"family": "gamma"}, "y: 3 values that gamma does not admit, first 0 in row 0"),
        ({"family": families.categorical(2), "y": np.array([0, 1, 2, 0, 1, 0])}, "y: 1 values that categorical"),
        ({"family": "binomial"}, "y: got shape (6,), binomial needs [n, 2]"),
        ({"y": Y[:5]}, "y: got 5 rows for the 6 of x"),
        ({"x": X[:, 0]}, "x: got shape (6,), needs [n, d]"),
        ({"x": X.astype("float16")}, "x: got dtype float16"),
        ({"x": np.where(X == 3, np.nan, X)}, "x: 2 values that are not finite in 2 rows, first NaN in row"),
        ({"x": None}, "x: got dtype object, needs numbers"),
        ({"x": np.array([["a", "b"]] * 6)}, "x: got dtype <U1, needs numbers"),
        ({"x": np.ma.masked_array(X)}, "x: got a masked array; pass x.filled(0)"),
        ({"y": np.ma.masked_array(Y)}, "y: got a masked array; pass y.filled(0)"),
        ({"y": jax.random.key(0)}, "y: got dtype key<fry>, needs numbers"),
        ({"offset": 1j * Y}, "offset: got dtype complex64, needs real numbers"),
        ({"weights": Y - 1}, "weights: 3 negative, first -1 in row 0"),
        ({"weights": 0 * Y}, "weights: 0 in every row"),
        ({"l2": -1.0}, "l2: got -1.0"),
        ({"firth": True, "family": "gamma", "y": Y + 1}, "firth: got gamma with link inverse"),
        ({"family": ["poisson"]}, "family: got ['poisson']"),
        ({"max_steps": 0}, "max_steps: got 0, needs an integer of at least 1"),
        ({"max_steps": None}, "max_steps: got None, needs an integer of at least 1"),
        ({"max_steps": 2.5}, "max_steps: got 2.5, needs an integer of at least 1"),
        ({"tolerance": -1.0}, "tolerance: got -1.0, needs a number of standard errors above 0"),
        ({"tolerance": "a"}, "tolerance: got 'a', needs a number of standard errors above 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments_are_named(arguments, message):
    given = {"x": X, "y": Y, "family": "bernoulli"} | arguments
    with pytest.raises(InputError) as caught:
        glm.fit(given.pop("x"), given.pop("y"), **given)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_what_glm_fit_did_not_return_is_named():
    solution = glm.fit(X, Y, family="bernoulli")
    with pytest.raises(InputError, match="solution: got LinearStats, needs what glm.fit returned"):
        glm.infer(linear.fit(X, Y), X, Y, family="bernoulli")
    with pytest.raises(InputError, match="solution: got GlmStats, needs what linear.fit returned"):
        linear.infer(solution, X, Y)
    with pytest.raises(InputError, match=r"params: got a Solution, needs its parameters: pass solution\.params"):
        glm.predict(solution, X, family="bernoulli")


@pytest.mark.parametrize("after", [glm.infer, glm.profile])
def test_other_columns_than_the_fits_are_named(after):
    solution = glm.fit(X, Y, family="bernoulli")
    with pytest.raises(InputError, match=r"x: got shape \(6, 1\), but the fit had 2 columns"):
        after(solution, X[:, :1], Y, family="bernoulli")


def test_too_few_steps_are_told(rows):
    x, _, _, predictor = rows
    solution = glm.fit(np.float32(x), np.float32(targets_of("poisson", predictor)), family="poisson", max_steps=1)
    assert int(solution.status) == Status.max_steps


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_counts_that_vary_less_than_poissons_have_no_dispersion(x64, dtype):
    """Whose likelihood has its maximum at 0; that of Poisson to the digits of the dtype."""
    x = np.random.default_rng(1).normal(size=(30, 2)).astype(dtype)
    y = (3 + np.arange(30) % 2).astype(dtype)
    found = {family: glm.fit(x, y, family=family) for family in ("negative_binomial", "poisson")}
    assert int(found["negative_binomial"].status) == Status.stalled
    binomial, poisson = (glm.infer(each, x, y, family=family).log_likelihood for family, each in found.items())
    np.testing.assert_allclose(binomial, poisson, rtol=100 * np.finfo(dtype).eps + 1e-7)


@pytest.mark.parametrize("shape", [(4, 1), (3,), (1,)])
def test_an_offset_of_another_shape_is_refused_in_predictions(shape):
    params = glm.LinearParams(jnp.array([1.0, 2.0]), jnp.array(0.0))
    with pytest.raises(InputError, match="offset: got shape"):
        glm.predict(params, np.ones((4, 2)), family="poisson", offset=np.zeros(shape))

"""Penalised regression: against glmnet, scikit-learn and optimality conditions; gradients, batches and bad input."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import families
from jaxmodels.core import InputError, Status, raise_if_failed
from jaxmodels.numerics import working_set
from jaxmodels.numerics.row_parts import centered_gram, column_sums, over_parts
from jaxmodels.regression import elastic_net

pytestmark = [pytest.mark.slow, pytest.mark.unoptimised]

N, D = 60, 8
GLMNET = [
    (name, mixing, standardize) for name in ("quickstart",) for mixing in ("0", "0.5", "1") for standardize in (0, 1)
]
GLMNET += [(name, mixing, 1) for name in ("binomial", "poisson") for mixing in ("0", "0.5", "1")]
FAMILY = {"quickstart": "gaussian", "binomial": "bernoulli", "poisson": "poisson"}
MEAN = {"gaussian": lambda t: t, "bernoulli": lambda t: 1 / (1 + np.exp(-t)), "poisson": np.exp}
INFORMATION = {"gaussian": np.ones_like, "bernoulli": lambda m: m * (1 - m), "poisson": lambda m: m}


@pytest.fixture
def data(x64):
    """x with columns that depend on each other and are far from 0; targets of every family; weights."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)) * np.arange(1, D + 1) + rng.normal(size=(N, 1)) * 2 + 5
    outputs = (x - x.mean(axis=0)) @ np.array([0.4, 0, -0.2, 0, 0, 0.1, 0, 0.02])
    targets = {
        "gaussian": outputs + rng.normal(size=N),
        "bernoulli": (rng.uniform(size=N) < 1 / (1 + np.exp(-outputs))).astype(float),
        "poisson": rng.poisson(np.exp(outputs / 2)).astype(float),
        "categorical": rng.integers(0, 3, N) * (outputs > -1),
    }
    return x, targets, rng.uniform(0.5, 2, N)


def violation(x, errors, coefficients, l1, l2, weights=None):
    """The largest breach of the optimality conditions of ``l1 |b| + l2 b^2 / 2``, and that of the intercept."""
    weights = np.full(len(x), 1 / len(x)) if weights is None else weights / weights.sum()
    slope = ((x.T * weights) @ errors).T + l2 * coefficients.T
    breach = np.where(coefficients.T != 0, abs(slope + l1 * np.sign(coefficients.T)), np.maximum(abs(slope) - l1, 0))
    return breach.max(), abs(weights @ errors).max()


# Against others ------------------------------------------------------------------------------------------------------


def read_glmnet(folder, name, mixing, standardize):
    values = np.genfromtxt(folder / f"{name}_data.csv", delimiter=",", skip_header=1)
    stem = f"{name}_alpha{mixing}_std{standardize}"
    coefficients = np.genfromtxt(folder / f"{stem}_coef.csv", delimiter=",", skip_header=1)[:, 1:]
    lambdas = [
        float(line.split(",")[0].strip('"')) for line in (folder / f"{stem}_path.csv").read_text().split("\n")[1:-1]
    ]
    # The first lambda of ridge is infinite in glmnet.
    first = 1 if mixing == "0" else 0
    return values[:, :-1], values[:, -1], coefficients[:, first:], np.array(lambdas)[first:]


def newton_on_the_support(family, design, y, start, l1, l2):
    """The minimum over intercept and coefficients, in NumPy: a coefficient that would turn its sign leaves the
    support, and of those that breach the conditions the worst enters."""
    found, l1, l2 = start.copy(), np.r_[0, np.full(len(start) - 1, l1)], np.r_[0, np.full(len(start) - 1, l2)]
    while True:
        step = np.full(len(found), np.inf)
        while abs(step).max() > 1e-12:
            mean, active = MEAN[family](design @ found), (found != 0) | (l1 == 0)
            slope = design.T @ (mean - y) / len(y) + l2 * found
            hessian = design.T @ (INFORMATION[family](mean)[:, None] * design) / len(y) + np.diag(l2)
            step = np.zeros(len(found))
            step[active] = -np.linalg.solve(hessian[active][:, active], (slope + l1 * np.sign(found))[active])
            turns = (l1 > 0) & (found * (found + step) < 0)
            reach = np.where(turns, -found / np.where(turns, step, 1), 1)
            found = np.where(turns & (reach <= reach.min()), 0, found + reach.min() * step)
        breach = np.where(found == 0, abs(slope) - l1, 0)
        if breach.max() <= 1e-12:
            return found
        found[breach.argmax()] = -1e-9 * np.sign(slope[breach.argmax()])


@pytest.mark.parametrize(("name", "mixing", "standardize"), GLMNET)
def test_path_equals_glmnet(x64, data_dir, name, mixing, standardize):
    """Where glmnet stops short of the minimum, by up to 2e-4 in a coefficient, a third program is the judge."""
    x, y, theirs, lambdas = read_glmnet(data_dir / "glm_reference", name, mixing, standardize)
    family, mixing = FAMILY[name], float(mixing)
    l1, l2 = lambdas * mixing, lambdas * (1 - mixing) / (y.std() if family == "gaussian" else 1)
    alphas = l1 + l2
    padded = np.pad(alphas, (0, 30 - len(alphas)), mode="edge")  # one shape, one compilation
    path = elastic_net.path(
        x, y, alphas=padded, l1_ratio=l1[0] / alphas[0], family=family, standardize=bool(standardize), tolerance=1e-14
    )
    assert np.all(np.asarray(path.status) == Status.ok)
    scale = x.std(axis=0) if standardize else np.ones(x.shape[1])
    design = np.column_stack([np.ones(len(x)), (x - x.mean(axis=0)) / scale])
    both = [np.column_stack([path.params.intercept, path.params.coefficients])[: len(alphas)], theirs.T]
    both = [np.column_stack([each[:, 0] + each[:, 1:] @ x.mean(axis=0), each[:, 1:] * scale]) for each in both]
    best = [newton_on_the_support(family, design, y, *each) for each in zip(both[1], l1, l2, strict=True)]
    errors = [abs(each - best).max() for each in both]
    assert errors[0] < 1e-9
    assert errors[0] < errors[1], "the data no longer show who stops early"
    if family == "gaussian":
        assert abs(both[0] - both[1]).max() < 1e-7

    def judged(coefficients, l1, l2):
        outputs, slopes = design @ coefficients, coefficients[1:]
        loss = families.get(family).deviance(jnp.asarray(outputs), jnp.asarray(y)).mean() / 2
        breach = violation(design[:, 1:], MEAN[family](outputs) - y, slopes, l1, l2)
        return float(loss) + l1 * abs(slopes).sum() + l2 * (slopes**2).sum() / 2, max(breach)

    ours, glmnets = (np.array([judged(*point) for point in zip(each, l1, l2, strict=True)]).T for each in both)
    assert np.all(ours[0] <= glmnets[0] * (1 + 1e-14)), "of the objectives ours is the lower one"
    assert max(ours[1]) < 1e-9 < max(glmnets[1]), "so is the breach of the conditions"


fit = functools.partial(elastic_net.fit, standardize=False)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_fit_equals_scikit_learn(data, nonnegative):
    from sklearn.linear_model import ElasticNet

    x, targets, weights = data
    y = targets["gaussian"]
    for alpha, l1_ratio in ((0.3, 1.0), (0.2, 0.5), (1.0, 0.01), (1e-3, 1.0)):
        ours = raise_if_failed(fit(x, y, alpha=alpha, l1_ratio=l1_ratio, weights=weights, nonnegative=nonnegative))
        theirs = ElasticNet(alpha=alpha, l1_ratio=l1_ratio, positive=nonnegative, tol=1e-14, max_iter=10**6)
        theirs.fit(x, y, sample_weight=weights)
        np.testing.assert_allclose(ours.params.coefficients, theirs.coef_, atol=1e-8)
        np.testing.assert_allclose(ours.params.intercept, theirs.intercept_, atol=1e-7)
        assert ours.stats.num_nonzero == np.count_nonzero(theirs.coef_)


@pytest.mark.parametrize("devices", [1, 8])
def test_sums_over_rows_in_parts(devices, x64, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(1003, 300)) + 5, rng.normal(size=(1003, 2))
    for power in (1, 2):
        found = column_sums(x, x[0], weights, power)
        np.testing.assert_allclose(found, ((x - x[0]) ** power).T @ weights, rtol=1e-10, atol=1e-10)
    found = centered_gram(x, x[0], weights[:, 0])
    np.testing.assert_allclose(found, (x - x[0]).T @ (weights[:, :1] * (x - x[0])), rtol=1e-10, atol=1e-10)
    lengths = []

    def with_rows(x, weights):
        lengths.append(len(x))
        return {"sum": x.sum(axis=0)}, (2 * x, weights[:, 0])

    sums, rows = over_parts(with_rows, x, weights)
    np.testing.assert_allclose(sums["sum"], x.sum(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(rows[0], 2 * x)
    np.testing.assert_array_equal(rows[1], weights[:, 0])
    assert (min(lengths) < 1003) == (devices == 1)


@pytest.mark.parametrize(("n", "d"), [(100, 150), (200, 150)])
def test_many_columns_equal_scikit_learn(x64, n, d):
    """More columns than a working set, some of them far from 0, with and without the Gram matrix."""
    from sklearn.linear_model import lasso_path

    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, d)) + rng.normal(size=(n, 1))
    y = x[:, :10] @ rng.normal(size=10) + rng.normal(size=n)
    x[:, ::3] += 1e5
    ours = elastic_net.path(x, y, num_alphas=20, standardize=False)
    assert np.all(np.asarray(ours.status) == Status.ok)
    alphas = np.asarray(ours.alphas)
    theirs = lasso_path(x - x.mean(axis=0), y - y.mean(), alphas=alphas, tol=1e-14, max_iter=10**6)[1]
    np.testing.assert_allclose(ours.params.coefficients, theirs.T, atol=1e-8)
    assert not np.any(ours.params.coefficients[0]), "the path starts where the first coefficient leaves 0"
    assert np.count_nonzero(ours.params.coefficients[1])
    assert np.count_nonzero(ours.params.coefficients[-1]) > working_set.SMALLEST
    alone = fit(x, y, alpha=alphas[-1])
    assert alone.stats.num_steps > 1, "one working set did for all"
    np.testing.assert_allclose(alone.params.coefficients, theirs.T[-1], atol=1e-8)


def test_categorical_satisfies_the_conditions_and_equals_scikit_learn(data):
    from sklearn.linear_model import LogisticRegression

    x, targets, _ = data
    y = targets["categorical"]
    rows = x - x.mean(axis=0)
    run = functools.partial(fit, x, y, family=families.categorical(3))
    for alpha, l1_ratio in ((0.05, 1.0), (0.1, 0.5), (0.1, 0.0)):
        solution = raise_if_failed(run(alpha=alpha, l1_ratio=l1_ratio))
        coefficients = np.asarray(solution.params.coefficients)
        outputs = np.asarray(solution.params.intercept) + x @ coefficients
        mean = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
        breach = violation(rows, mean - np.eye(3)[y], coefficients, alpha * l1_ratio, alpha * (1 - l1_ratio))
        assert max(breach) < 1e-8
    theirs = LogisticRegression(C=1 / (0.1 * N), tol=1e-10, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(coefficients.T, theirs.coef_, atol=1e-6)


def test_groups(data):
    x, targets, _ = data
    y, groups = targets["gaussian"], np.array([3, 3, 0, 0, 0, 7, 7, 7])
    rows = x - x.mean(axis=0)
    num_zero = 0
    for alpha in (0.05, 0.5, 1.5):
        found = raise_if_failed(fit(x, y, alpha=alpha, groups=groups))
        coefficients = np.asarray(found.params.coefficients)
        slope = rows.T @ (float(found.params.intercept) + x @ coefficients - y) / N
        for label in (0, 3, 7):
            own, l1 = coefficients[groups == label], alpha * np.sqrt((groups == label).sum())
            if own.any():
                np.testing.assert_allclose(slope[groups == label], -l1 * own / np.linalg.norm(own), atol=1e-9)
            else:
                num_zero += 1
                assert np.linalg.norm(slope[groups == label]) <= l1 * (1 + 1e-9)
    assert num_zero, "no group was left out, so that nothing was tested"


def test_penalty_weights_scale_the_columns(data):
    """The adaptive lasso is a lasso of scaled columns; a weight of 0 leaves its column unpenalised."""
    x, targets, _ = data
    y, factors = targets["gaussian"], np.linspace(0.5, 2, D)
    adaptive = fit(x, y, alpha=0.3, penalty_weights=factors).params.coefficients
    np.testing.assert_allclose(adaptive * factors, fit(x / factors, y, alpha=0.3).params.coefficients, atol=1e-9)
    free = raise_if_failed(fit(x, y, alpha=1e3, penalty_weights=np.r_[np.ones(D - 1), 0])).params.coefficients
    column = x[:, -1] - x[:, -1].mean()
    np.testing.assert_allclose(free, np.r_[np.zeros(D - 1), column @ y / (column @ column)], atol=1e-10)


def objective(family, params, x, y, alpha, l1_ratio):
    outputs, c = jnp.asarray(params.intercept + x @ params.coefficients), params.coefficients
    loss = families.get(family).deviance(outputs, jnp.asarray(y)).mean() / 2
    return loss + alpha * (l1_ratio * abs(c).sum() + (1 - l1_ratio) / 2 * (c**2).sum())


@pytest.mark.parametrize("family", ["gaussian", "bernoulli", "poisson"])
def test_the_gap_bounds_what_is_missing(data, family):
    x, targets, _ = data
    for l1_ratio in (1.0, 0.4):
        run = functools.partial(fit, x, targets[family], alpha=0.05, l1_ratio=l1_ratio, family=family)
        loose, tight = run(tolerance=0.3), run()
        values = [objective(family, each.params, x, targets[family], 0.05, l1_ratio) for each in (loose, tight)]
        assert 1e-9 < values[0] - values[1] <= loose.stats.duality_gap
        assert tight.stats.duality_gap <= 2e-12 * tight.stats.null_loss
    assert run(max_steps=1, tolerance=1e-15).status == Status.max_steps


# Rows ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gaussian", "bernoulli"])
def test_rows_that_do_not_count(data, family):
    x, targets, weights = data
    y, offset = targets[family], np.linspace(-1, 1, N)
    keep = np.arange(N) % 4 > 0
    run = functools.partial(elastic_net.fit, alpha=0.05, l1_ratio=0.9, family=family)
    removed = run(x[keep], y[keep], weights=weights[keep], offset=offset[keep]).params
    missing = np.where(keep[:, None], x, np.nan)
    masked = run(missing, y, weights=weights, offset=offset, mask=keep).params
    weighted = run(missing, y, weights=np.where(keep, weights, 0), offset=offset, mask=np.ones(N, bool)).params
    for params in (masked, weighted):
        np.testing.assert_allclose(params.coefficients, removed.coefficients, atol=1e-11)
        np.testing.assert_allclose(params.intercept, removed.intercept, atol=1e-11)


def test_offset_and_constant_column(data):
    x, targets, _ = data
    y = targets["gaussian"]
    constant = np.column_stack([x, np.full(N, 3.7)])
    ours = raise_if_failed(elastic_net.fit(constant, y + x[:, 0], alpha=0.1, offset=x[:, 0])).params
    plain = elastic_net.fit(x, y, alpha=0.1).params
    np.testing.assert_allclose(ours.coefficients, np.r_[plain.coefficients, 0], atol=1e-11)


def test_float32(data):
    x, targets, _ = data
    for family in ("gaussian", "bernoulli"):
        single = fit(x.astype("f4"), targets[family].astype("f4"), alpha=0.05, family=family)
        double = fit(x, targets[family], alpha=0.05, family=family)
        assert single.params.coefficients.dtype == jnp.float32
        assert single.status == Status.ok
        np.testing.assert_allclose(single.params.coefficients, double.params.coefficients, atol=1e-4)


# Transformations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "kept", "extra"),
    [
        ("gaussian", N, {}),
        ("gaussian", 6, {}),
        ("bernoulli", N, {}),
        ("gaussian", N, {"groups": (0, 0, 0, 1, 1, 2, 2, 2)}),
    ],
    ids=["gram", "rows", "bernoulli", "groups"],
)
def test_gradients_equal_finite_differences(data, family, kept, extra):
    x, targets, weights = data
    x, y, weights = x[:kept], targets[family][:kept], weights[:kept]
    if family == "bernoulli":
        y = 0.1 + 0.8 * y  # so that y may move

    def params(x, y, weights, alpha, l1_ratio, factors):
        return elastic_net.fit(
            x, y, alpha=alpha, l1_ratio=l1_ratio, family=family, weights=weights, penalty_weights=factors,
            tolerance=1e-15, **extra,
        ).params  # fmt: skip

    rng = np.random.default_rng(2)
    at = (x, y, weights, np.float64(0.1), np.float64(0.8), np.ones(D))
    along = tuple(rng.normal(size=np.shape(each)) * 0.1 for each in at)
    if extra:
        along = (*along[:-1], np.full(D, 0.1))  # one factor a group
    step = 1e-5
    both = jax.jit(lambda at: (*jax.jvp(params, at, along), backward(at)))

    def backward(at):
        return jax.grad(lambda *at: sum(each.sum() for each in params(*at)), argnums=range(6))(*at)

    ends = [both(tuple(a + sign * step * b for a, b in zip(at, along, strict=True)))[0] for sign in (1, -1)]
    expected = jax.tree.map(lambda a, b: (a - b) / (2 * step), *ends)
    _, found, gradient = both(at)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    assert np.count_nonzero(found[0]) > 0
    total = sum(np.sum(a * b) for a, b in zip(gradient, along, strict=True))
    np.testing.assert_allclose(total, sum(each.sum() for each in found), rtol=1e-8)


def test_gradient_of_the_path(data):
    x, targets, _ = data
    alphas = np.array([0.3, 0.1])

    def total(y):
        return elastic_net.path(x, y, alphas=alphas, tolerance=1e-15).params.coefficients[1].sum()

    y = targets["gaussian"]
    alone = jax.grad(lambda y: elastic_net.fit(x, y, alpha=0.1, tolerance=1e-15).params.coefficients.sum())(y)
    np.testing.assert_allclose(jax.grad(total)(y), alone, atol=1e-12)


@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_lanes_are_alone(data, family):
    """vmap equals a loop; lanes that fail, or take long, change no bit of the others."""
    x, targets, _ = data
    x, y = np.stack([x, x[::-1], x * 2]), np.stack([targets[family]] * 3)
    fit_one = functools.partial(elastic_net.fit, alpha=0.1, family=family)
    batched = jax.jit(jax.vmap(fit_one))
    together = batched(x, y)
    for lane in range(3):
        alone = fit_one(x[lane], y[lane]).params
        np.testing.assert_allclose(together.params.coefficients[lane], alone.coefficients, atol=1e-10)
    bad_x, bad_y = x.copy(), y.copy()
    bad_x[1, 3, 2] = np.nan
    bad_x[2] = bad_x[2, :, :1]  # columns are the same
    beside = batched(bad_x, bad_y)
    assert beside.status.tolist() == [Status.ok, Status.nonfinite, Status.ok]
    assert np.isnan(beside.params.coefficients[1]).all()
    assert np.isfinite(beside.params.coefficients[2]).all()
    for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(beside), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    if family == "poisson":
        bad_y[1], bad_y[2] = 0, -1
        assert batched(x, bad_y).status.tolist() == [Status.ok, Status.separated, Status.invalid_input]


def test_several_targets_are_fitted_one_by_one(data):
    x, targets, _ = data
    y = np.stack([targets["gaussian"], targets["gaussian"][::-1]], axis=1)
    together = fit(x, y, alpha=0.1)
    assert together.params.coefficients.shape == (D, 2)
    for target in range(2):
        alone = fit(x, y[:, target], alpha=0.1).params
        np.testing.assert_allclose(together.params.coefficients[:, target], alone.coefficients, atol=1e-11)
        np.testing.assert_allclose(together.params.intercept[target], alone.intercept, atol=1e-11)


# Cross-validation ----------------------------------------------------------------------------------------------------


def test_cross_validation_equals_a_loop(data):
    """100 alphas, 10 folds, 3 mixtures: one call."""
    x, targets, weights = data
    family, ratios = "gaussian", (1.0, 0.7, 0.3)
    y = targets[family]
    found = elastic_net.cross_validate(
        x, y, folds=10, key=jax.random.key(1), l1_ratios=ratios, family=family, weights=weights, min_ratio=0.02
    )
    assert found.fold_loss.shape == (10, 3, 100)
    assert np.all(np.asarray(found.status) == Status.ok)
    fold = np.asarray(jax.random.permutation(jax.random.key(1), np.arange(N) % 10))
    path = functools.partial(elastic_net.path, family=family)
    kept = np.where(fold != 4, weights, 0)
    by_hand = path(x, y, alphas=found.path.alphas[1], l1_ratio=0.7, weights=kept)
    left = fold == 4
    outputs = x[left] @ np.asarray(by_hand.params.coefficients).T + np.asarray(by_hand.params.intercept)
    deviance = np.stack([families.get(family).deviance(jnp.asarray(each), jnp.asarray(y[left])) for each in outputs.T])
    np.testing.assert_allclose(found.fold_loss[4, 1], deviance @ weights[left] / weights[left].sum(), rtol=1e-8)
    shares = np.array([weights[fold == each].sum() for each in range(10)]) / weights.sum()
    loss = np.tensordot(shares, found.fold_loss, 1)
    np.testing.assert_allclose(found.loss, loss, rtol=1e-12)
    error = np.sqrt(np.tensordot(shares, (np.asarray(found.fold_loss) - loss) ** 2, 1) / 9)
    np.testing.assert_allclose(found.standard_error, error, rtol=1e-10)
    row, column = np.unravel_index(np.argmin(loss), loss.shape)
    assert tuple(map(int, found.best.index)) == (row, column)
    np.testing.assert_array_equal(found.best.params.coefficients, found.path.params.coefficients[row, column])
    simplest = np.flatnonzero(loss[row] <= loss[row, column] + error[row, column])[0]
    assert found.one_standard_error.alpha == found.path.alphas[row, simplest] > found.best.alpha
    whole = path(x, y, alphas=found.path.alphas[row], l1_ratio=ratios[row], weights=weights)
    np.testing.assert_allclose(found.path.alphas[:, -1] / found.path.alphas[:, 0], 0.02, rtol=1e-12)
    np.testing.assert_allclose(found.best.params.coefficients, whole.params.coefficients[column], atol=1e-8)


# Inside, and bad input -----------------------------------------------------------------------------------------------


def test_columns_that_nearly_depend_on_each_other(data):
    """Sweeps alone would take a great many passes."""
    x, targets, _ = data
    x = x[:, :1] + 1e-2 * x
    solution = raise_if_failed(fit(x, targets["gaussian"], alpha=1e-3))
    coefficients = np.asarray(solution.params.coefficients)
    errors = float(solution.params.intercept) + x @ coefficients - targets["gaussian"]
    assert max(violation(x - x.mean(axis=0), errors, coefficients, 1e-3, 0)) < 1e-10
    assert solution.stats.num_steps < 30


BAD = [
    ({"alpha": -1.0}, "alpha: got -1.0, needs a finite number of at least 0"),
    ({"alpha": np.ones(2)}, "alpha: got shape (2,), needs one number; use elastic_net.path"),
    ({"l1_ratio": 1.5}, "l1_ratio: got 1.5, needs a number between 0 (ridge) and 1 (lasso)"),
    ({"family": "gamma"}, "family: got gamma with link inverse, needs one of gaussian"),
    ({"penalty_weights": np.ones(2)}, "penalty_weights: got shape (2,), needs one a column"),
    ({"penalty_weights": -np.ones(D)}, "penalty_weights: got values below 0"),
    ({"groups": np.zeros(3, int)}, "groups: got shape (3,)"),
    ({"groups": np.zeros(D, int), "penalty_weights": np.arange(1.0, D + 1)}, "penalty_weights: differ within a group"),
    ({"alpha": None}, "alpha: got None, needs a finite number of at least 0"),
    ({"l1_ratio": "1"}, "l1_ratio: got '1', needs a number between 0 (ridge) and 1 (lasso)"),
    ({"tolerance": 0.0}, "tolerance: got 0.0, needs a relative duality gap above 0"),
    ({"tolerance": "a"}, "tolerance: got 'a', needs a relative duality gap above 0"),
    ({"tolerance": 1}, "tolerance: got 1, a relative duality gap of 1 is that of zeros"),
    ({"x": np.ma.masked_array(np.ones((N, D)))}, "x: got a masked array"),
    ({"penalty_weights": np.ones(D) * 1j}, "penalty_weights: got dtype complex128, needs real numbers"),
    ({"max_steps": 0}, "max_steps: got 0, needs an integer of at least 1"),
    ({"max_steps": None}, "max_steps: got None, needs an integer of at least 1"),
    ({"weights": -np.ones(N)}, "weights: 60 negative"),
    ({"x": np.full((N, D), np.nan)}, "x: 480 values that are not finite"),
    ({"y": np.full(N, -1.0), "family": "poisson"}, "y: 60 values that poisson does not admit"),
    ({"y": np.full((N, 2), 2.0), "family": "bernoulli"}, "y: 60 values that bernoulli does not admit"),
    ({"y": np.full(N, 3), "family": families.categorical(3)}, "y: 60 values that categorical does not admit"),
    ({"y": np.ones(3)}, "y: got 3 rows for the 60 of x"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input_is_named(data, changes, message):
    x, targets, _ = data
    arguments = {"x": x, "y": targets["gaussian"], "alpha": 0.1} | changes
    with pytest.raises(InputError) as caught:
        elastic_net.fit(arguments.pop("x"), arguments.pop("y"), **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds: got 1, needs between 2 and the number of rows, 60"),
        ({"folds": 5, "key": None}, "key: got None, but folds are drawn at random"),
        ({"folds": 5, "key": 0}, "key: got 0, but folds are drawn at random"),
        ({"l1_ratios": "a"}, "l1_ratios: got dtype <U1, needs numbers"),
        ({"alphas": "a"}, "alphas: got dtype <U1, needs numbers"),
        ({"folds": np.full(N, 2)}, "folds: got labels [2], needs 0, 1, ..."),
        ({"l1_ratios": (0.5, 2.0)}, "l1_ratios: got (0.5, 2.0), needs numbers between"),
        ({"alphas": np.array([-1.0])}, "alphas: got values below 0"),
        ({"num_alphas": 0}, "num_alphas: got 0"),
        ({"min_ratio": 2}, "min_ratio: got 2"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input_of_cross_validation_is_named(data, options, message):
    x, targets, _ = data
    with pytest.raises(InputError) as caught:
        elastic_net.cross_validate(x, targets["gaussian"], **({"key": jax.random.key(0)} | options))
    assert message in str(caught.value)


@pytest.mark.parametrize("power", [-20, -18, 20])
def test_squares_that_float32_does_not_hold_are_named(power):
    """Once all coefficients were 0, and the status ok."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2)).astype("float32")
    y, unit = (x[:, 0] - x[:, 1]).astype("float32"), np.float32(10.0**power)
    with pytest.raises(InputError, match="y: values up to .*, whose squares float32 does not hold"):
        elastic_net.fit(x, y * unit, alpha=0.01)
    with pytest.raises(InputError, match="x: values up to .*, whose squares float32 does not hold"):
        elastic_net.path(x * np.array([1, unit]), y, num_alphas=3)
    traced = jax.jit(lambda y: elastic_net.fit(x, y, alpha=0.01))(y * unit)
    assert int(traced.status) == Status.nonfinite
    assert np.isnan(traced.params.coefficients).all()

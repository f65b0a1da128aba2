"""Preprocessing against scikit-learn's, on the training rows alone, and back again."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from jaxmodels.core import InputError
from jaxmodels.preprocess import encode, tabular

sklearn_preprocessing = pytest.importorskip("sklearn.preprocessing")
sklearn_impute = pytest.importorskip("sklearn.impute")

NUM_ROWS, NUM_TRAINING = 60, 45


@pytest.fixture
def rows(x64):
    """Five columns: normal, skew, constant, counts and far from zero; a sixth of the cells missing; a training mask."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_ROWS, 5))
    x[:, 1] = np.exp(2 * x[:, 1])
    x[:, 2] = 3.0
    x[:, 3] = rng.poisson(2, NUM_ROWS)
    x[:, 4] = 1e4 + x[:, 4]
    mask = np.zeros(NUM_ROWS, bool)
    mask[rng.permutation(NUM_ROWS)[:NUM_TRAINING]] = True
    missing = np.where(rng.uniform(size=x.shape) < 1 / 6, np.nan, x)
    return x, missing, mask


SCALERS = {
    "standard": (tabular.scale("standard"), sklearn_preprocessing.StandardScaler()),
    "min_max": (tabular.scale("min_max"), sklearn_preprocessing.MinMaxScaler()),
    "robust": (tabular.scale("robust"), sklearn_preprocessing.RobustScaler()),
    "power": (tabular.power(), sklearn_preprocessing.PowerTransformer()),
    "uniform": (tabular.quantile(num_quantiles=20), sklearn_preprocessing.QuantileTransformer(n_quantiles=20)),
    "normal": (
        tabular.quantile(num_quantiles=20, output="normal"),
        sklearn_preprocessing.QuantileTransformer(n_quantiles=20, output_distribution="normal"),
    ),
}


@pytest.mark.parametrize("name", SCALERS)
def test_scales_are_scikit_learns_of_the_training_rows(rows, name):
    """Missing cells stay missing; what the held-out rows hold makes no difference to the stats."""
    _, missing, mask = rows
    ours, theirs = SCALERS[name]
    columns = [0, 1, 3] if name == "power" else slice(None)  # far from zero both powers run into their bounds
    x = missing[:, columns]
    stats = jax.jit(ours.fit)(x, mask)
    spoiled = ours.fit(np.where(mask[:, None], x, 1e9), mask)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), spoiled, stats)
    expected = theirs.fit(x[mask]).transform(x)
    tolerance = 1e-5 if name in ("power", "normal") else 1e-10
    np.testing.assert_allclose(jax.jit(ours.apply)(stats, x), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["standard", "min_max", "robust", "power"])
def test_what_was_scaled_comes_back(rows, name):
    x, _, mask = rows
    ours, _ = SCALERS[name]
    x = x[:, [0, 1, 3]]
    stats = ours.fit(x, mask)
    np.testing.assert_allclose(ours.invert(stats, ours.apply(stats, x)), x, rtol=1e-8, atol=1e-10)


def test_quantiles_come_back_within_the_training_range(rows):
    x, _, _ = rows
    for output in ("uniform", "normal"):
        ranks = tabular.quantile(num_quantiles=NUM_ROWS, output=output)
        stats = ranks.fit(x[:, :2])
        inner = np.all((x[:, :2] > x[:, :2].min(0)) & (x[:, :2] < x[:, :2].max(0)), axis=1)
        back = ranks.invert(stats, ranks.apply(stats, x[:, :2]))
        np.testing.assert_allclose(back[inner], x[inner, :2], rtol=1e-6)


@pytest.mark.parametrize("strategy", tabular.STRATEGIES)
def test_imputation_is_scikit_learns(rows, strategy):
    _, missing, mask = rows
    ours = tabular.impute(strategy, fill_value=-1.0, indicator=True)
    theirs = sklearn_impute.SimpleImputer(strategy=strategy, fill_value=-1.0)
    filled = ours.apply(ours.fit(missing, mask), missing)
    np.testing.assert_allclose(filled[:, :5], theirs.fit(missing[mask]).transform(missing), rtol=1e-14)
    np.testing.assert_array_equal(filled[:, 5:], np.isnan(missing))
    np.testing.assert_array_equal(ours.invert(ours.fit(missing, mask), filled), missing)


def test_a_column_without_a_value_is_filled_and_scaled_to_zero(x64):
    x = np.array([[np.nan, 1.0], [np.nan, 2.0]])
    for strategy in tabular.STRATEGIES:
        both = tabular.chain(tabular.impute(strategy, fill_value=7.0), tabular.scale())
        np.testing.assert_array_equal(both.apply(both.fit(x), x)[:, 0], [0, 0])


def test_outliers_are_clipped_to_training_quantiles(rows):
    _, missing, mask = rows
    clipper = tabular.clip(0.1, 0.9)
    low, high = np.nanquantile(missing[mask], [0.1, 0.9], axis=0)
    np.testing.assert_allclose(clipper.apply(clipper.fit(missing, mask), missing), np.clip(missing, low, high))


def test_columns_that_say_nothing_are_found(rows):
    x, _, mask = rows
    table = np.concatenate([x, x[:, [1]], np.full((NUM_ROWS, 1), np.nan)], axis=1)
    assert jax.jit(tabular.informative)(table, mask).tolist() == [True, True, False, True, True, False, False]
    table[~mask, 2] = 5.0  # a constant of the training rows stays one
    assert not tabular.informative(table, mask)[2]


def test_preprocessing_maps_and_differentiates(rows):
    x, _, _ = rows
    stacked = np.stack([x[:, :2], 2 * x[:, :2]])
    both = tabular.chain(tabular.impute(), tabular.scale())
    stats = jax.vmap(both.fit)(stacked)
    alone = both.fit(stacked[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-12), stats, alone)
    slope = jax.grad(lambda x: both.apply(alone, x).sum())(stacked[1])
    np.testing.assert_allclose(slope, np.broadcast_to(1 / np.std(stacked[1], axis=0), slope.shape), rtol=1e-12)


# Categories ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cells():
    rng = np.random.default_rng(1)
    return rng.choice(["red", "green", "blue"], (40, 1)).astype(object), rng.choice(["s", "m", "l", "xl"], (40, 1))


def test_one_hot_is_scikit_learns_and_unknown_is_all_zeros(cells):
    columns = np.concatenate(cells, axis=1)
    names = [encode.vocabulary(column) for column in columns.T]
    held_out = np.array([["red", "xxl"], ["purple", "s"]], object)
    theirs = sklearn_preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(columns)
    ours = encode.one_hot(tuple(map(len, names)))
    for values in (columns, held_out):
        codes = np.stack([encode.codes(column, name) for column, name in zip(values.T, names, strict=True)], axis=1)
        encoded = jax.jit(ours.apply)((), codes)
        np.testing.assert_array_equal(encoded, theirs.transform(values))
        np.testing.assert_array_equal(ours.invert((), encoded), codes)
    dropped = encode.one_hot(tuple(map(len, names)), drop_first=True)
    assert dropped.apply((), codes).shape == (2, 2 + 3)


def test_rare_categories_beyond_the_most_are_unknown():
    values = ["a"] * 5 + ["b"] * 3 + ["c", None]
    assert encode.vocabulary(values, max_categories=2) == ("a", "b")
    assert encode.codes(values, ("a", "b"))[-2:].tolist() == [-1, -1]


def test_ordinal_is_scikit_learns(x64):
    x = np.array([[30.0, 1.0], [10.0, 1.0], [20.0, 5.0], [10.0, np.nan]])
    held_out = np.array([[10.0, 5.0], [25.0, np.nan]])
    ours = encode.ordinal(max_categories=3)
    theirs = sklearn_preprocessing.OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1
    ).fit(x)
    stats = jax.jit(ours.fit)(x)
    np.testing.assert_array_equal(ours.apply(stats, x), theirs.transform(x))
    np.testing.assert_array_equal(ours.apply(stats, held_out), theirs.transform(held_out))


@pytest.mark.slow
@pytest.mark.parametrize("smooth", [None, 5.0])
def test_target_encoding_is_scikit_learns_and_a_row_does_not_see_its_own_target(x64, smooth):
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 4, (50, 1)), rng.normal(size=50)
    theirs = sklearn_preprocessing.TargetEncoder(smooth="auto" if smooth is None else smooth, target_type="continuous")
    ours = encode.target((4,), smooth=smooth)
    stats = ours.fit(x, y)
    np.testing.assert_allclose(ours.apply(stats, x), theirs.fit(x, y).transform(x), rtol=1e-12)
    np.testing.assert_allclose(ours.apply(stats, np.array([[-1], [9]])), y.mean(), rtol=1e-12)
    folds = np.arange(50) % 5
    crossed = jax.jit(ours.cross_fit, static_argnums=3)(x, y, folds, 5)
    moved = y.copy()
    moved[7] += 100
    np.testing.assert_array_equal(
        ours.cross_fit(x, moved, folds, 5)[folds == folds[7]], ours.cross_fit(x, y, folds, 5)[folds == folds[7]]
    )
    for fold in range(5):
        alone = ours.apply(ours.fit(x[folds != fold], y[folds != fold]), x[folds == fold])
        np.testing.assert_allclose(crossed[folds == fold], alone, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tabular.impute("mode"), "strategy: 'mode' is none of mean, "),
        (lambda: tabular.scale("unit"), "scale: 'unit' is none of standard, "),
        (lambda: tabular.quantile(output="beta"), "output: 'beta' is none of uniform, normal"),
        (lambda: tabular.quantile(num_quantiles=1), "num_quantiles: needs 2 or more, got 1"),
        (lambda: tabular.clip(0.9, 0.1), "low, high: need 0 <= low < high <= 1, got 0.9 and 0.1"),
        (lambda: tabular.scale().fit(np.arange(3.0)), "x: needs floats [n, d], got "),
        (lambda: tabular.scale().fit(np.ones((3, 1), int)), "x: needs floats [n, d], got int"),
        (lambda: tabular.scale().fit(np.ones((3, 1)), np.ones(2, bool)), "mask: needs booleans (3,)"),
        (lambda: encode.one_hot((2, 3)).apply((), np.zeros((4, 1), int)), "x: needs codes [n, 2]"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message)

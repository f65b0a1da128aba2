"""Metrics against scikit-learn on a thousand random cases each, and against themselves."""

from __future__ import annotations

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import metrics
from jaxmodels.core import Batch, InputError
from jaxmodels.metrics.accumulate import Sum, add, total

pytestmark = [pytest.mark.slow, pytest.mark.unoptimised]
sklearn = pytest.importorskip("sklearn.metrics")

CASES, ROWS = 1000, 24
NAN = float("nan")


@pytest.fixture(autouse=True)
def _quick_and_quiet():
    """scikit-learn warns of what is undefined; what we define it to be is what is tested."""
    import sklearn as package

    with package.config_context(assume_finite=True, skip_parameter_validation=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@functools.cache
def cases(num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits [c, n, k], labels [c, n], weights [c, n]: ties, absent classes, one class, empty cases, padded garbage."""
    random = np.random.default_rng([seed, num_classes])
    logits = random.normal(size=(CASES, ROWS, num_classes)) * 2
    labels = random.integers(0, num_classes, (CASES, ROWS))
    weights = random.choice([0.0, 0.0, 1.0, 0.5, 2.0], size=(CASES, ROWS)) * random.uniform(0.5, 2, (CASES, ROWS))
    logits[100:300] = np.round(logits[100:300])  # many ties
    logits[300:320] = 1.0  # nothing but ties
    labels[320:400] = labels[320:400, :1]  # one class present
    weights[300:400] = np.ceil(2 * weights[300:400]) / 2  # whose sums are exact: 0 is 0 in any order
    labels[400:500] = np.minimum(labels[400:500], num_classes - 2)  # the last class absent
    weights[500:700] = weights[500:700] != 0  # a mask
    weights[700:800] = 1.0
    weights[800:810] = 0.0  # nothing there
    weights[810:830, 1:] = 0.0  # one row
    padded = weights == 0
    logits[padded] = np.where(random.random(padded.sum())[:, None] < 0.5, NAN, 1e30)
    labels[padded] = random.choice([-1, num_classes, 7, 2**31 - 1], padded.sum())
    return logits, labels, weights


def over_cases(function, *arrays):
    """One jitted, vmapped call for all cases."""
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(function))(*map(jnp.asarray, arrays)))


def reference(function, arrays, *, empty=NAN):
    """What ``function(logits, labels, weights)`` of the kept rows gives, case by case; ``empty`` where none is kept."""
    return np.array(
        [
            function(logits[w != 0], labels[w != 0], w[w != 0]) if (w != 0).any() else empty
            for logits, labels, w in zip(*arrays, strict=True)
        ]
    )


def agree(metric, expected, arrays):
    found = over_cases(lambda x, y, w: metrics.compute(metric, x, y, weights=w), *arrays)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


def predicted(logits):
    return logits.argmax(axis=1)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_accuracy(x64):
    def expected(x, y, w):
        return sklearn.accuracy_score(y, predicted(x), sample_weight=w)

    agree(metrics.accuracy(), reference(expected, cases(5)), cases(5))


def test_confusion_matrix(x64):
    def expected(x, y, w):
        return sklearn.confusion_matrix(y, predicted(x), labels=range(5), sample_weight=w)

    agree(metrics.confusion_matrix(5), reference(expected, cases(5), empty=np.zeros((5, 5))), cases(5))


def degenerate(arrays):
    """Cases of every kind, and all where 0 / 0 is met: for variants of what all cases have tested."""
    parts = (slice(0, 20), slice(295, 305), slice(315, 335), slice(395, 415), slice(500, 510), slice(800, 825))
    return [np.concatenate([each[part] for part in parts]) for each in arrays]


@pytest.mark.parametrize("zero_division", [0.0, 1.0, NAN])
@pytest.mark.parametrize("average", ["binary", "micro", "macro", "weighted", "none"])
def test_precision_recall_f1(x64, average, zero_division):
    num_classes = 2 if average == "binary" else 4
    every = zero_division == 0 and average in ("binary", "none")
    arrays = cases(num_classes) if every else degenerate(cases(num_classes))
    arguments = {"zero_division": zero_division, "average": None if average == "none" else average}
    if average != "binary":
        arguments["labels"] = range(num_classes)

    def score(x, y, w):
        return sklearn.precision_recall_fscore_support(y, predicted(x), sample_weight=w, **arguments)[:3]

    empty = np.full((3, num_classes) if average == "none" else 3, zero_division)
    expected = reference(score, arrays, empty=empty)
    for index, factory in enumerate((metrics.precision, metrics.recall, metrics.f1)):
        agree(factory(num_classes, average=average, zero_division=zero_division), expected[:, index], arrays)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_scores_of_the_confusion_matrix(x64, num_classes):
    def balanced(x, y, w):
        return sklearn.balanced_accuracy_score(y, predicted(x), sample_weight=w)

    def kappa(x, y, w, weights):
        return sklearn.cohen_kappa_score(y, predicted(x), labels=range(num_classes), weights=weights, sample_weight=w)

    def matthews(x, y, w):
        return sklearn.matthews_corrcoef(y, predicted(x), sample_weight=w)

    arrays = cases(num_classes) if num_classes == 5 else degenerate(cases(num_classes))
    agree(metrics.balanced_accuracy(num_classes), reference(balanced, arrays), arrays)
    agree(metrics.matthews_correlation(num_classes), reference(matthews, arrays), arrays)
    agree(metrics.cohen_kappa(num_classes), reference(functools.partial(kappa, weights=None), arrays), arrays)
    arrays = degenerate(cases(num_classes))
    for weighting in ("linear", "quadratic"):
        expected = reference(functools.partial(kappa, weights=weighting), arrays)
        agree(metrics.cohen_kappa(num_classes, weighting=weighting), expected, arrays)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_probabilities(x64, num_classes):
    def log_loss(x, y, w):
        return sklearn.log_loss(y, softmax(x), labels=range(num_classes), sample_weight=w)

    def brier(x, y, w):
        p = softmax(x)
        if num_classes == 2:
            return sklearn.brier_score_loss(y, p[:, 1], pos_label=1, labels=[0, 1], sample_weight=w)
        return sklearn.brier_score_loss(y, p, labels=range(num_classes), sample_weight=w)

    arrays = cases(num_classes) if num_classes == 5 else degenerate(cases(num_classes))
    agree(metrics.log_loss(), reference(log_loss, arrays), arrays)
    agree(metrics.brier(), reference(brier, arrays), arrays)


def test_top_k(x64):
    # scikit-learn ranks the last of equals first, we the first: mirrored classes make them the same.
    def expected(x, y, w):
        return sklearn.top_k_accuracy_score(4 - y, x[:, ::-1], k=3, labels=range(5), sample_weight=w)

    agree(metrics.top_k(3), reference(expected, cases(5)), cases(5))
    first, accuracy = over_cases(
        lambda x, y, w: [metrics.compute(metric, x, y, weights=w) for metric in (metrics.top_k(1), metrics.accuracy())],
        *cases(5),
    )
    np.testing.assert_array_equal(first, accuracy)
    with pytest.raises(InputError, match="top_k"):
        metrics.compute(metrics.top_k(6), jnp.zeros((2, 5)), jnp.zeros(2, int))


def test_calibration(x64):
    """Bins against scikit-learn's reliability curve of "the prediction is right"; the error against its definition."""
    from sklearn.calibration import calibration_curve

    logits, labels, weights = (each[500:700] for each in cases(5))
    found = over_cases(
        lambda x, y, w: metrics.compute(metrics.calibration(10), x, y, weights=w), logits, labels, weights
    )
    for index, (x, y, w) in enumerate(zip(logits, labels, weights, strict=True)):
        confidence, right = softmax(x[w != 0]).max(axis=1), predicted(x[w != 0]) == y[w != 0]
        accuracy, mean = calibration_curve(right, confidence, n_bins=10)
        case = jax.tree.map(lambda leaf, index=index: leaf[index], found)
        filled = case.weight > 0
        np.testing.assert_allclose(case.accuracy[filled], accuracy, atol=1e-12)
        np.testing.assert_allclose(case.confidence[filled], mean, atol=1e-12)
        expected = np.sum(abs(accuracy - mean) * case.weight[filled]) / right.size
        np.testing.assert_allclose(case.error, expected, atol=1e-12)
    nothing = metrics.compute(metrics.calibration(4), jnp.zeros((3, 2)), jnp.zeros(3, int), weights=jnp.zeros(3))
    assert jnp.isnan(nothing.error)
    assert nothing.weight.tolist() == [0] * 4


def binary_scores():
    logits, labels, weights = cases(2)
    return logits[:, :, 1], labels, weights


@pytest.mark.parametrize("name", ["roc_curve", "precision_recall_curve"])
def test_curves(x64, name):
    scores, labels, weights = binary_scores()
    found = over_cases(lambda s, y, w: getattr(metrics, name)(s, y, weights=w), scores, labels, weights)
    for index, (s, y, w) in enumerate(zip(scores, labels, weights, strict=True)):
        curve = metrics.trim(jax.tree.map(lambda leaf, index=index: leaf[index], found))
        kept = w != 0
        if not kept.any():
            assert curve.thresholds.tolist() == [np.inf]
            continue
        if name == "roc_curve":
            expected = sklearn.roc_curve(y[kept], s[kept], pos_label=1, sample_weight=w[kept], drop_intermediate=False)
        else:
            precision, recall, thresholds = sklearn.precision_recall_curve(
                y[kept], s[kept], pos_label=1, sample_weight=w[kept]
            )
            expected = precision[::-1], recall[::-1], np.append(np.inf, thresholds[::-1])
            if not (y[kept] == 1).any():
                assert np.isnan(curve.recall).all()
                expected = expected[0], curve.recall, expected[2]
        for ours, theirs in zip(curve, expected, strict=False):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)
        # What is padded repeats the end, so that areas and plots may take the curve as it is.
        for leaf in found[:3]:
            padding = leaf[index][int(found.num_points[index]) :]
            np.testing.assert_array_equal(padding, np.full_like(padding, leaf[index][int(found.num_points[index]) - 1]))


def test_binary_areas(x64):
    def auc(s, y, w):
        return sklearn.roc_auc_score(y, s[:, 1], sample_weight=w) if len(set(y)) == 2 else NAN

    def average_precision(s, y, w):
        return sklearn.average_precision_score(y, s[:, 1], sample_weight=w) if (y == 1).any() else NAN

    arrays = binary_scores()
    found = over_cases(lambda s, y, w: metrics.roc_auc(s, y, weights=w), *arrays)
    np.testing.assert_allclose(found, reference(auc, cases(2)), atol=1e-12)
    found = over_cases(lambda s, y, w: metrics.average_precision(s, y, weights=w), *arrays)
    np.testing.assert_allclose(found, reference(average_precision, cases(2)), atol=1e-12)


@pytest.mark.parametrize("name", ["roc_auc", "average_precision"])
def test_areas_of_one_against_the_rest(x64, name):
    """Against scikit-learn's binary area of every class; classes without one are left out of the means."""
    score = {"roc_auc": sklearn.roc_auc_score, "average_precision": sklearn.average_precision_score}[name]

    def expected(s, y, w):
        areas, support = np.full(3, NAN), np.zeros(3)
        for k in range(3):
            support[k] = w[y == k].sum()
            if (y == k).any() and ((y != k).any() or name == "average_precision"):
                areas[k] = score(y == k, s[:, k], sample_weight=w)
        defined = ~np.isnan(areas)
        means = [
            np.average(areas[defined], weights=v[defined]) if defined.any() else NAN for v in (np.ones(3), support)
        ]
        return np.append(areas, means)

    arrays = degenerate(cases(3))
    function = getattr(metrics, name)
    found = over_cases(
        lambda s, y, w: [function(s, y, weights=w, average=average) for average in ("none", "macro", "weighted")],
        *arrays,
    )
    np.testing.assert_allclose(np.column_stack(found), reference(expected, arrays, empty=np.full(5, NAN)), atol=1e-12)


def test_multiclass_auc_is_scikit_learns(x64):
    """Log-odds of logits rank as probabilities do, where all classes are present."""
    random = np.random.default_rng(1)
    logits, labels = random.normal(size=(200, 4)), np.tile(np.arange(4), 50)
    weights = random.uniform(0.1, 2, 200)
    for average in ("macro", "weighted"):
        found = metrics.roc_auc(metrics.log_odds(logits), labels, weights=weights, average=average)
        expected = sklearn.roc_auc_score(
            labels, softmax(logits), multi_class="ovr", average=average, sample_weight=weights
        )
        assert float(found) == pytest.approx(expected, abs=1e-12)


def test_areas_of_counts_are_exact_in_float32_and_blind_to_padding():
    random = np.random.default_rng(4)
    scores, labels = random.normal(size=3000).astype(np.float32), random.integers(0, 2, 3000)
    found = metrics.roc_auc(scores, labels)
    assert float(found) == pytest.approx(sklearn.roc_auc_score(labels, scores), abs=1e-7)
    average = metrics.average_precision(scores, labels)
    assert float(average) == pytest.approx(sklearn.average_precision_score(labels, scores), abs=2e-7)
    padded = np.append(scores, np.full(1096, NAN, np.float32)), np.append(labels, np.full(1096, -1))
    weights = np.append(np.ones(3000), np.zeros(1096))
    assert metrics.roc_auc(*padded, weights=weights) == found
    assert metrics.average_precision(*padded, weights=weights) == average


def test_log_odds_do_not_saturate():
    logits = jnp.array([[40.0, 0.0, 1.0], [50.0, 0.0, 1.0], [-3.0, 0.5, 2.0]])
    odds = np.asarray(metrics.log_odds(logits))
    probability = softmax(np.asarray(logits, np.float64))
    assert odds[1, 0] > odds[0, 0]
    np.testing.assert_allclose(odds[2], np.log(probability[2] / (1 - probability[2])), rtol=1e-5)
    assert float(metrics.roc_auc(odds[:2, 0], jnp.array([0, 1]))) == 1.0


def slow_delong(positive, negative):
    """DeLong's variance from its definition: every pair compared."""
    wins = np.sign(positive[:, None] - negative[None, :]) / 2 + 0.5
    return wins.mean(), wins.mean(axis=1).var(ddof=1) / len(positive) + wins.mean(axis=0).var(ddof=1) / len(negative)


def test_delong_is_its_definition(x64):
    from scipy.stats import norm

    scores, labels, weights = (each[500:800] for each in binary_scores())
    low, high = over_cases(
        lambda s, y, w: metrics.roc_auc_interval(s, y, weights=w, level=0.9), scores, labels, weights
    )
    tested = 0
    for index, (s, y, w) in enumerate(zip(scores, labels, weights, strict=True)):
        positive, negative = s[(w != 0) & (y == 1)], s[(w != 0) & (y == 0)]
        if min(len(positive), len(negative)) < 2:
            assert np.isnan(low[index])
            continue
        area, variance = slow_delong(positive, negative)
        half = norm.ppf(0.95) * np.sqrt(variance)
        np.testing.assert_allclose([low[index], high[index]], np.clip([area - half, area + half], 0, 1), atol=1e-12)
        tested += 1
    assert tested > 250


def test_delong_covers():
    """Of 600 samples from known normals, about 95 % of the intervals hold the true area."""
    from scipy.stats import norm

    random = np.random.default_rng(0)
    labels = np.tile([0, 1], 60)
    scores = random.normal(size=(600, 120)) + labels
    low, high = over_cases(lambda s: metrics.roc_auc_interval(s, labels), scores)
    truth = norm.cdf(1 / np.sqrt(2))
    assert 0.92 < np.mean((low <= truth) & (truth <= high)) < 0.975


REGRESSION = {
    "mean_squared_error": (metrics.mean_squared_error(), sklearn.mean_squared_error),
    "root_mean_squared_error": (metrics.root_mean_squared_error(), sklearn.root_mean_squared_error),
    "mean_absolute_error": (metrics.mean_absolute_error(), sklearn.mean_absolute_error),
    "mean_absolute_percentage_error": (
        metrics.mean_absolute_percentage_error(),
        sklearn.mean_absolute_percentage_error,
    ),
    "r2": (metrics.r2(), sklearn.r2_score),
    "explained_variance": (metrics.explained_variance(), sklearn.explained_variance_score),
    "pinball": (metrics.pinball(0.3), functools.partial(sklearn.mean_pinball_loss, alpha=0.3)),
}


@functools.cache
def regression_cases(num_outputs: int):
    random = np.random.default_rng(num_outputs)
    targets = random.normal(size=(CASES, ROWS, num_outputs)) + random.choice([0, 100], (CASES, 1, 1))
    outputs = targets + random.normal(size=targets.shape) * random.choice([0.1, 1, 10], (CASES, 1, 1))
    weights = cases(2)[2].copy()
    weights[810:830, 0] = 1.0
    weights[:50] = weights[:50] != 0
    targets[:50] = 0.5  # constant; a binary fraction, so that scikit-learn's own spread is 0 too
    outputs[:25] = 0.5
    outputs[50:60] = targets[50:60]
    targets[60:70, :3] = 0.0
    padded = weights == 0
    targets[padded], outputs[padded] = NAN, np.inf
    return outputs, targets, weights


@pytest.mark.parametrize("name", REGRESSION)
def test_regression(x64, name):
    metric, score = REGRESSION[name]
    outputs, targets, weights = regression_cases(1)
    found = over_cases(lambda p, y, w: metrics.compute(metric, p, y, weights=w), outputs, targets[:, :, 0], weights)
    kept = weights != 0
    expected = [
        score(y[k], p[k], sample_weight=w[k]) if k.any() else NAN
        for p, y, w, k in zip(outputs, targets, weights, kept, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["r2", "explained_variance", "root_mean_squared_error", "mean_squared_error"])
def test_regression_of_several_outputs(x64, name):
    factory = getattr(metrics, name)
    metric = factory() if name == "mean_squared_error" else factory(num_outputs=3)
    outputs, targets, weights = degenerate(regression_cases(3))
    found = over_cases(lambda p, y, w: metrics.compute(metric, p, y, weights=w), outputs, targets, weights)
    kept = weights != 0
    expected = [
        REGRESSION[name][1](y[k], p[k], sample_weight=w[k]) if k.any() else NAN
        for p, y, w, k in zip(outputs, targets, weights, kept, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


def test_constant_targets_have_no_spread_at_all():
    """0.1 is no binary fraction, and yet its mean is itself: 1 for no error, 0 for any, in every batch and merge."""
    targets, outputs = jnp.full(30, 0.1), jnp.full(30, 0.1).at[3].set(0.2)
    for metric in (metrics.r2(), metrics.explained_variance()):
        fill = jax.jit(lambda p, metric=metric: metric.update(metric.init(), p, Batch(None, targets)))
        perfect, wrong = fill(targets), fill(outputs)
        values = [metric.compute(acc).item() for acc in (perfect, wrong, metric.merge(perfect, wrong))]
        assert values == [1, 0, 0]


def test_spread_far_from_zero_keeps_its_digits():
    """In float32, around 10^4, the naive sum of squares has no digit of the variance left."""
    random = np.random.default_rng(0)
    targets = (random.normal(size=(64, 100)) + 1e4).astype(np.float32)
    outputs = (targets + 0.5 * random.normal(size=targets.shape)).astype(np.float32)
    acc = over_batches(metrics.r2(), outputs, targets, np.ones_like(targets))
    expected = sklearn.r2_score(targets.ravel().astype(np.float64), outputs.ravel().astype(np.float64))
    assert float(metrics.r2().compute(acc)) == pytest.approx(expected, rel=2e-6)


@functools.partial(jax.jit, static_argnums=0)
def over_batches(metric, outputs, targets, weights):
    """An accumulator carried by ``scan`` over [b, n, ...]."""

    def step(acc, batch):
        return metric.update(acc, batch[0], Batch(None, *batch[1:])), None

    return jax.lax.scan(step, metric.init(), (outputs, targets, weights))[0]


ALL = {
    "accuracy": metrics.accuracy(),
    "top_2": metrics.top_k(2),
    "log_loss": metrics.log_loss(),
    "brier": metrics.brier(),
    "calibration": metrics.calibration(),
    "confusion_matrix": metrics.confusion_matrix(4),
    "f1": metrics.f1(4),
    "precision": metrics.precision(4, average="none"),
    "recall": metrics.recall(4, average="weighted"),
    "balanced_accuracy": metrics.balanced_accuracy(4),
    "cohen_kappa": metrics.cohen_kappa(4),
    "matthews": metrics.matthews_correlation(4),
}
NUMBERS = {name: metric for name, (metric, _) in REGRESSION.items()}


def example(kind: str, rows: int = 200):
    random = np.random.default_rng(3)
    if kind == "classes":
        logits, labels = random.normal(size=(rows, 4)) * 2, random.integers(0, 4, rows)
    else:
        labels = random.normal(size=rows) * 3 + 5
        logits = labels + random.normal(size=rows)
    return jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32 if kind == "classes" else jnp.float32)


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_batches_merges_and_padding_change_nothing(kind):
    functions = ALL if kind == "classes" else NUMBERS
    outputs, targets = example(kind)
    weights = jnp.asarray(np.random.default_rng(0).uniform(0.5, 2, 200), jnp.float32)

    @jax.jit
    def in_parts(outputs, targets, weights):
        parts = [each.reshape(8, 25, *each.shape[1:]) for each in (outputs, targets, weights)]
        found = {}
        for name, metric in functions.items():
            apart = jax.vmap(lambda *part, metric=metric: metric.update(metric.init(), part[0], Batch(None, *part[1:])))
            accs = apart(*parts)
            merged = functools.reduce(metric.merge, [jax.tree.map(lambda a, i=i: a[i], accs) for i in range(8)])
            around_nothing = metric.merge(metric.init(), metric.merge(merged, metric.init()))
            found[name] = [metric.compute(acc) for acc in (merged, around_nothing)]
        return found

    @jax.jit
    def at_once(outputs, targets, weights):
        return {name: metrics.compute(each, outputs, targets, weights=weights) for name, each in functions.items()}

    whole = at_once(outputs, targets, weights)
    for name, values in in_parts(outputs, targets, weights).items():
        for value in values:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-6, atol=1e-6), value, whole[name])

    # Rows of weight 0 that hold NaN and impossible labels, to the last bit.
    garbage = jnp.full((56, *outputs.shape[1:]), jnp.nan), jnp.full(56, -9, targets.dtype), jnp.zeros(56)
    padded = at_once(*(jnp.concatenate(pair) for pair in zip((outputs, targets, weights), garbage, strict=True)))
    jax.tree.map(np.testing.assert_array_equal, padded, whole)


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_nan_shows(kind):
    outputs, targets = example(kind, rows=8)
    functions = ALL if kind == "classes" else NUMBERS
    found = jax.jit(lambda p, y: {name: metrics.compute(each, p, y) for name, each in functions.items()})(
        outputs.at[0].set(jnp.nan), targets
    )
    for name, value in found.items():
        assert any(np.isnan(leaf).any() for leaf in jax.tree.leaves(value)), name


@pytest.mark.parametrize("name", [*ALL, *NUMBERS])
def test_accumulators_keep_their_shape(name):
    """So that they can be carried through scan, whatever the dtypes of outputs and weights."""
    metric, kind = (ALL[name], "classes") if name in ALL else (NUMBERS[name], "numbers")
    outputs, targets = example(kind, rows=8)
    acc = metric.init()
    for weights in (None, jnp.ones(8, bool), jnp.ones(8, jnp.bfloat16)):
        after = jax.eval_shape(metric.update, acc, outputs.astype(jnp.bfloat16), Batch(None, targets, weights))
        assert jax.tree.map(lambda a: (a.shape, a.dtype), acc) == jax.tree.map(lambda a: (a.shape, a.dtype), after)


def test_counts_pass_the_end_of_float32():
    counts = metrics.confusion_matrix(2)
    acc = counts.update(counts.init(), jnp.ones(1 << 12), Batch(None, jnp.ones(1 << 12, int)))
    acc, _ = jax.jit(lambda acc: jax.lax.scan(lambda acc, _: (counts.merge(acc, acc), None), acc, length=13))(acc)
    one = counts.update(counts.init(), jnp.ones(1), Batch(None, jnp.ones(1, int)))
    for _ in range(3):
        acc = counts.merge(acc, one)
    assert int(acc.high[1, 1]) + int(acc.low[1, 1]) == (1 << 25) + 3


def test_sums_are_compensated():
    random = np.random.default_rng(0)
    values = (random.normal(size=10_001) * 10 ** random.uniform(-4, 4, 10_001)).astype(np.float32)
    pair = jax.jit(total)(values)
    exact = np.sum(values.astype(np.float64))
    assert abs(float(pair.high) + float(pair.low) - exact) < 1e-10 * np.abs(values).sum()
    assert total(jnp.zeros((0, 3))).value.tolist() == [0, 0, 0]
    infinite = add(total(jnp.array([jnp.inf])), total(jnp.array([1.0])))
    assert infinite.value == jnp.inf
    assert jnp.isnan(total(jnp.array([jnp.inf, -jnp.inf])).value)
    assert isinstance(pair, Sum)


def test_log_loss_of_an_impossible_label_is_infinite():
    logits = jnp.array([[0.0, -jnp.inf], [0.0, 0.0]])
    assert metrics.compute(metrics.log_loss(), logits, jnp.array([1, 0])) == jnp.inf
    # Where nothing of it is -inf * 0.
    assert float(metrics.compute(metrics.log_loss(), logits, jnp.array([0, 0]))) == pytest.approx(np.log(2) / 2)


@functools.partial(jax.jit, static_argnums=0)
def all_of(functions, outputs, targets):
    return [metrics.compute(metric, outputs, targets) for metric in functions]


def test_bfloat16_outputs_are_read_in_float32():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(500, 10)), jnp.bfloat16)
    labels = jnp.asarray(np.random.default_rng(1).integers(0, 10, 500))
    functions = (metrics.log_loss(), metrics.brier(), metrics.accuracy(), metrics.calibration())
    narrow, wide = (all_of(functions, form, labels) for form in (logits, logits.astype(jnp.float32)))
    jax.tree.map(np.testing.assert_array_equal, narrow, wide)


def test_binary_logit_forms_agree():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=50), jnp.float32)
    labels = jnp.asarray(np.random.default_rng(1).integers(0, 2, 50))
    functions = (metrics.accuracy(), metrics.log_loss(), metrics.f1(2, average="binary"), metrics.brier())
    values = all_of(functions, jnp.stack([jnp.zeros(50), logits], axis=1), labels)
    assert all_of(functions, logits, labels) == values
    assert all_of(functions, logits[:, None], labels.astype(float)[:, None]) == values


@pytest.mark.parametrize("label", [-1, 4, 0.5])
def test_a_label_that_is_no_class_shows(label):
    logits, labels = jnp.zeros((3, 4)), jnp.array([0, 1, label], jnp.float32)
    found = all_of(tuple(ALL.values()), logits, labels)
    for name, value in zip(ALL, found, strict=True):
        assert any(np.isnan(leaf).any() for leaf in jax.tree.leaves(value)), name
    assert np.isnan(metrics.roc_auc(logits, labels))
    assert np.isnan(metrics.roc_auc(logits[:, 0], jnp.array([0, 1, 5])))
    assert np.isnan(metrics.roc_auc(jnp.array([0, 1, jnp.nan]), jnp.array([0, 1, 1])))


def test_factories_are_cached():
    assert metrics.f1(3) is metrics.f1(num_classes=3, average="macro", zero_division=0.0)
    assert metrics.top_k() is metrics.top_k(5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.f1(3, average="binary"), "average"),
        (lambda: metrics.f1(3, average="mean"), "average"),
        (lambda: metrics.top_k(0), "k must"),
        (lambda: metrics.pinball(2), "quantile"),
        (lambda: metrics.calibration(0), "num_bins"),
        (lambda: metrics.confusion_matrix(1), "num_classes"),
        (lambda: metrics.cohen_kappa(2, weighting="cubic"), "weighting"),
        (lambda: metrics.r2(num_outputs=0), "num_outputs"),
        (lambda: metrics.compute(metrics.r2(), jnp.zeros((4, 2)), jnp.zeros((4, 2))), "num_outputs"),
        (lambda: metrics.compute(metrics.mean_squared_error(), jnp.zeros(4), jnp.zeros(5)), "one shape"),
        (lambda: metrics.compute(metrics.accuracy(), jnp.zeros((4, 2)), jnp.zeros((4, 2))), "targets"),
        (lambda: metrics.compute(metrics.accuracy(), jnp.zeros((4, 2, 2)), jnp.zeros(4)), "outputs"),
        (lambda: metrics.compute(metrics.f1(3), jnp.zeros((4, 2)), jnp.zeros(4)), "num_classes"),
        (lambda: metrics.compute(metrics.accuracy(), jnp.zeros(4), jnp.zeros(4), weights=jnp.ones(3)), "weights"),
        (lambda: metrics.roc_curve(jnp.zeros(0), jnp.zeros(0)), "scores"),
        (lambda: metrics.roc_auc(jnp.zeros((4, 2)), jnp.zeros(3)), "scores"),
        (lambda: metrics.roc_auc(jnp.zeros(4), jnp.zeros(4), average="micro"), "average"),
        (lambda: metrics.roc_auc_interval(jnp.zeros(4), jnp.zeros(4), level=95), "level"),
    ],
)
def test_wrong_arguments_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call()

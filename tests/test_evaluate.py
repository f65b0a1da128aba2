"""Evaluation over batches, gathered outputs and reports, against scikit-learn and whole arrays."""

from __future__ import annotations

import json
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import evaluate, metrics
from jaxmodels.core import Batch, InputError, Model

sklearn = pytest.importorskip("sklearn.metrics")


def linear(traces: list | None = None) -> Model:
    """A model that says when it is traced and refuses to train."""

    def apply(params, state, inputs, *, train=False, key=None, weights=None):
        assert not train
        if traces is not None:
            traces.append(inputs.shape)
        return inputs @ params, state

    return Model(lambda key, inputs: (jnp.zeros((3, 4)), {}), apply)


def data(rows: int = 53, num_classes: int = 4):
    random = np.random.default_rng(0)
    inputs = random.normal(size=(rows, 3)).astype(np.float32)
    params = random.normal(size=(3, num_classes)).astype(np.float32)
    labels = np.where(
        random.random(rows) < 0.6, (inputs @ params).argmax(axis=1), random.integers(0, num_classes, rows)
    )
    return inputs, jnp.asarray(params), labels.astype(np.int32)


def batches(inputs, targets, size: int = 16):
    """Of one shape; the last is padded with NaN and labels that are none."""
    for start in range(0, len(inputs), size):
        x, y = inputs[start : start + size], targets[start : start + size]
        short = size - len(x)
        yield Batch(
            np.concatenate([x, np.full((short, *x.shape[1:]), np.nan, x.dtype)]),
            np.concatenate([y, np.full((short, *y.shape[1:]), -7, y.dtype)]),
            np.concatenate([np.ones(len(x), np.float32), np.zeros(short, np.float32)]),
        )


def test_evaluate_is_the_metric_of_the_whole():
    inputs, params, labels = data()
    functions = {"accuracy": metrics.accuracy(), "loss": metrics.log_loss(), "counts": metrics.confusion_matrix(4)}
    found = evaluate.evaluate(linear(), params, {}, batches(inputs, labels), functions)
    logits = inputs @ np.asarray(params)
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(labels, logits.argmax(axis=1)))
    assert isinstance(found["accuracy"], float)
    assert found["loss"] == pytest.approx(float(metrics.compute(metrics.log_loss(), logits, labels)), rel=1e-6)
    np.testing.assert_array_equal(found["counts"], sklearn.confusion_matrix(labels, logits.argmax(axis=1)))
    assert isinstance(found["counts"], np.ndarray)


def test_evaluate_traces_once():
    inputs, params, labels = data()
    traces: list = []
    model = linear(traces)
    for _ in range(3):
        evaluate.evaluate(model, params, {}, batches(inputs, labels), {"accuracy": metrics.accuracy()})
    assert len(traces) == 1


def test_collect_drops_padding_and_keeps_the_order():
    inputs, params, labels = data()
    calls: list = []

    def predict(inputs):
        calls.append(inputs.shape)
        return inputs @ params

    found = evaluate.collect(predict, batches(inputs, labels))
    assert calls == [(16, 3)] * 4
    np.testing.assert_allclose(found.outputs, inputs @ np.asarray(params), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.targets, labels)
    assert found.weights.tolist() == [1] * 53
    unweighted = [batch._replace(weights=None) for batch in batches(inputs[:48], labels[:48])]
    np.testing.assert_array_equal(evaluate.collect(predict, unweighted).outputs, found.outputs[:48])


def test_no_batches():
    _, params, _ = data()
    for call in (
        lambda: evaluate.evaluate(linear(), params, {}, [], {"accuracy": metrics.accuracy()}),
        lambda: evaluate.collect(lambda inputs: inputs, iter([])),
    ):
        with pytest.raises(InputError, match="batches is empty"):
            call()


@pytest.fixture(scope="module")
def report():
    """Six classes, one of them without a row."""
    random = np.random.default_rng(2)
    labels = random.integers(0, 5, 300)
    logits = random.normal(size=(300, 6)) + 2 * np.eye(6)[labels]
    names = ["a", "b", "c", "d", "e", "never"]
    return evaluate.classification_report(logits, labels, classes=names), logits, labels


def test_classification_report_is_scikit_learns(report):
    found, logits, labels = report
    predicted = logits.argmax(axis=1)
    powers = np.exp(logits)
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    assert found["num_examples"] == 300
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(labels, predicted))
    assert found["loss"] == pytest.approx(sklearn.log_loss(labels, probabilities, labels=range(6)), rel=1e-5)
    assert found["top_5"] == pytest.approx(sklearn.top_k_accuracy_score(labels, logits, k=5, labels=range(6)))
    assert found["balanced_accuracy"] == pytest.approx(
        np.mean(sklearn.recall_score(labels, predicted, average=None, labels=range(5)))
    )
    assert found["cohen_kappa"] == pytest.approx(sklearn.cohen_kappa_score(labels, predicted), abs=1e-6)
    assert found["matthews_correlation"] == pytest.approx(sklearn.matthews_corrcoef(labels, predicted), abs=1e-6)
    assert found["brier"] == pytest.approx(sklearn.brier_score_loss(labels, probabilities, labels=range(6)), rel=1e-5)
    assert found["confusion_matrix"] == sklearn.confusion_matrix(labels, predicted, labels=range(6)).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sklearn.classification_report(
            labels, predicted, labels=range(6), target_names=found["classes"], output_dict=True, zero_division=0
        )
    for row in found["per_class"]:
        for ours, theirs in (
            ("precision", "precision"),
            ("recall", "recall"),
            ("f1", "f1-score"),
            ("support", "support"),
        ):
            assert row[ours] == pytest.approx(expected[row["class"]][theirs], abs=1e-6)
        if row["class"] != "never":
            k = found["classes"].index(row["class"])
            area = sklearn.roc_auc_score(labels == k, probabilities[:, k])
            assert row["roc_auc"] == pytest.approx(area, abs=1e-6)
            average = sklearn.average_precision_score(labels == k, probabilities[:, k])
            assert row["average_precision"] == pytest.approx(average, abs=1e-6)
    for average in ("macro", "weighted"):
        for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert found[average][ours] == pytest.approx(expected[f"{average} avg"][theirs], abs=1e-6)
    assert found["macro"]["roc_auc"] == found["roc_auc"]
    assert found["roc_auc"] == pytest.approx(np.mean([row["roc_auc"] for row in found["per_class"][:5]]))


def test_what_is_undefined_is_null_and_json_holds_all(report):
    found, _, _ = report
    never = found["per_class"][-1]
    assert (never["support"], never["roc_auc"], never["average_precision"]) == (0, None, None)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert isinstance(found["per_class"][0]["support"], int)


def test_binary_report():
    random = np.random.default_rng(5)
    labels = random.integers(0, 2, 400)
    logits = random.normal(size=400) + labels
    found = evaluate.classification_report(logits, labels, classes=["no", "yes"])
    pair = evaluate.classification_report(np.stack([0 * logits, logits], axis=1), labels, classes=["no", "yes"])
    assert found == pair
    assert "top_5" not in found
    tripled = evaluate.classification_report(
        logits, labels, classes=["no", "yes"], loss=lambda outputs, targets: targets * 3.0
    )
    assert tripled == found | {"loss": pytest.approx(3 * labels.mean())}
    assert [curve["class"] for curve in found["roc"]] == ["yes"]
    assert found["roc_auc"] == pytest.approx(sklearn.roc_auc_score(labels, logits), abs=1e-6)
    low, high = found["roc_auc_interval"]
    assert low < found["roc_auc"] < high
    interval = metrics.roc_auc_interval(logits, labels)
    assert (low, high) == pytest.approx((float(interval.low), float(interval.high)), abs=1e-6)
    # A thinned curve still encloses the area, and its ends are the ends.
    curve = found["roc"][0]
    assert len(curve["false_positive_rate"]) <= 200
    area = np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"])
    assert area == pytest.approx(found["roc_auc"], abs=0.01)
    assert (curve["false_positive_rate"][0], curve["true_positive_rate"][-1]) == (0, 1)
    assert curve["thresholds"][0] is None
    assert all(0 <= threshold <= 1 for threshold in curve["thresholds"][1:])
    bins = found["calibration"]["bins"]
    assert sum(each["weight"] for each in bins) == 400
    assert bins[0]["accuracy"] is None


def test_report_of_weights_is_the_report_of_repeated_rows_and_without_padding():
    random = np.random.default_rng(6)
    labels, logits = random.integers(0, 3, 60), random.normal(size=(60, 3))
    weights = random.choice([0, 1, 1, 2], 60)
    names = ["a", "b", "c"]
    found = evaluate.classification_report(logits, labels, classes=names, weights=weights)
    repeated = np.repeat(np.arange(60), weights)
    expected = evaluate.classification_report(logits[repeated], labels[repeated], classes=names)
    assert found["confusion_matrix"] == expected["confusion_matrix"]
    for name in ("accuracy", "loss", "roc_auc", "brier", "cohen_kappa"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)
    padded = evaluate.classification_report(
        np.concatenate([logits, np.full((9, 3), np.nan)]),
        np.concatenate([labels, np.full(9, -1)]),
        classes=names,
        weights=np.concatenate([weights, np.zeros(9)]),
    )
    assert padded == found


def test_wilson_interval_is_the_score_test_inverted():
    """Its ends are where the normal test of the share is exactly at its level; and statsmodels'."""
    for share, count in ((0.0, 12), (0.5, 7), (0.93, 400), (1.0, 3)):
        low, high = evaluate.wilson_interval(share, count)
        for end in {low, high} - {0.0, 1.0}:
            assert abs(share - end) / np.sqrt(end * (1 - end) / count) == pytest.approx(1.959963984540054)
        proportion = pytest.importorskip("statsmodels.stats.proportion")
        expected = proportion.proportion_confint(round(share * count, 8), count, method="wilson")
        assert (low, high) == pytest.approx(expected, abs=1e-12)


def test_regression_report_is_scikit_learns(x64):
    random = np.random.default_rng(7)
    targets = random.normal(size=(80, 2)) * [1, 50] + [3, -100]
    predictions = targets + random.normal(size=(80, 2))
    weights = random.choice([0.0, 1.0, 2.5], 80)
    found = evaluate.regression_report(predictions, targets, weights=weights, names=["mass", "charge"])
    arguments = {"y_true": targets, "y_pred": predictions, "sample_weight": weights}
    for ours, theirs in (
        ("r2", sklearn.r2_score),
        ("explained_variance", sklearn.explained_variance_score),
        ("mean_squared_error", sklearn.mean_squared_error),
        ("root_mean_squared_error", sklearn.root_mean_squared_error),
        ("mean_absolute_error", sklearn.mean_absolute_error),
        ("mean_absolute_percentage_error", sklearn.mean_absolute_percentage_error),
    ):
        assert found[ours] == pytest.approx(theirs(**arguments), rel=1e-12)
        each = theirs(**arguments, multioutput="raw_values")
        assert [row[ours] for row in found["per_output"]] == pytest.approx(each.tolist(), rel=1e-12)
    assert [row["output"] for row in found["per_output"]] == ["mass", "charge"]
    used = weights > 0
    assert found["num_examples"] == used.sum()
    assert found["largest_error"] == pytest.approx(abs(predictions - targets)[used].max())
    bias = np.average((predictions - targets).mean(axis=1), weights=weights)
    assert found["bias"] == pytest.approx(bias)
    json.dumps(found, allow_nan=False)


def test_regression_report_of_one_row():
    found = evaluate.regression_report(np.array([1.0]), np.array([[2.0]]))
    assert found["r2"] is None
    assert found["mean_absolute_error"] == 1
    assert "per_output" not in found


def test_most_confident_mistakes():
    random = np.random.default_rng(8)
    logits, labels = random.normal(size=(100, 5)) * 3, random.integers(0, 5, 100)
    powers = np.exp(logits)
    confidence = (powers / powers.sum(axis=1, keepdims=True)).max(axis=1)
    wrong = np.flatnonzero(logits.argmax(axis=1) != labels)
    expected = wrong[np.argsort(-confidence[wrong])]
    np.testing.assert_array_equal(evaluate.most_confident_mistakes(logits, labels, count=7), expected[:7])
    np.testing.assert_array_equal(evaluate.most_confident_mistakes(logits, labels, count=1000), expected)
    assert evaluate.most_confident_mistakes(logits, logits.argmax(axis=1), count=3).size == 0
    # Probabilities of both round to 1; the larger logit is still the surer.
    assert evaluate.most_confident_mistakes(np.array([50.0, 90.0]), np.array([0, 0]), count=1).tolist() == [1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ["a", "b"]}, "classes has 2"),
        ({"labels": np.array([0, 1, 3])}, "labels must be class numbers"),
        ({"labels": np.array([0, 1])}, "labels must have shape"),
        ({"logits": np.full((3, 3), np.nan)}, "logits has NaN in 3"),
        ({"weights": np.zeros(3)}, "weight above 0"),
        ({"weights": np.array([1, -1, 1])}, "weights must be finite"),
        ({"weights": np.ones(2)}, "weights must have shape"),
    ],
)
def test_wrong_arguments_of_a_report_are_named(change, words):
    arguments = {"logits": np.zeros((3, 3)), "labels": np.array([0, 1, 2]), "classes": ["a", "b", "c"]} | change
    with pytest.raises(InputError, match=words):
        evaluate.classification_report(arguments.pop("logits"), arguments.pop("labels"), **arguments)


def test_wrong_arguments_of_the_regression_report_are_named():
    with pytest.raises(InputError, match="one shape"):
        evaluate.regression_report(np.zeros(3), np.zeros(4))
    with pytest.raises(InputError, match="names has 1"):
        evaluate.regression_report(np.zeros((3, 2)), np.zeros((3, 2)), names=["a"])
    with pytest.raises(InputError, match="targets must be"):
        evaluate.regression_report(np.zeros((3, 2, 2)), np.zeros((3, 2, 2)))
    with pytest.raises(InputError, match="count"):
        evaluate.most_confident_mistakes(np.zeros(2), np.zeros(2), count=-1)

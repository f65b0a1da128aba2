"""Losses against scikit-learn, torch-free closed forms, and their own promises on wrong targets."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from jaxmodels import losses
from jaxmodels.core import InputError

LOGITS = jnp.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 4.0, 1.0]])
LABELS = jnp.array([0, 2, 1])

POINTWISE = {
    "squared_error": losses.squared_error,
    "absolute_error": losses.absolute_error,
    "log_cosh": losses.log_cosh,
    "quantile": functools.partial(losses.quantile, level=0.9),
    "poisson": losses.poisson,
    "hinge": losses.hinge,
    "sigmoid_cross_entropy": losses.sigmoid_cross_entropy,
    "smoothed": functools.partial(losses.sigmoid_cross_entropy, label_smoothing=0.1),
    "focal": functools.partial(losses.focal, alpha=0.25),
}


def test_cross_entropy_equals_scikit_learn():
    ours = losses.softmax_cross_entropy(LOGITS, LABELS).mean()
    np.testing.assert_allclose(ours, log_loss(LABELS, jax.nn.softmax(LOGITS)), rtol=1e-6)


def test_probabilities_and_indices_agree():
    one_hot = jax.nn.one_hot(LABELS, 3)
    for smoothing in (0.0, 0.1):
        np.testing.assert_allclose(
            losses.softmax_cross_entropy(LOGITS, LABELS, label_smoothing=smoothing),
            losses.softmax_cross_entropy(LOGITS, one_hot, label_smoothing=smoothing),
            rtol=1e-6,
        )


def test_label_smoothing_spreads_over_all_classes():
    log_p = jax.nn.log_softmax(LOGITS)
    expected = -(0.9 * log_p[jnp.arange(3), LABELS] + 0.1 * log_p.mean(axis=1))
    np.testing.assert_allclose(losses.softmax_cross_entropy(LOGITS, LABELS, label_smoothing=0.1), expected, rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 3, 100])
def test_a_label_out_of_range_is_never_plausible(label):
    values = losses.softmax_cross_entropy(LOGITS, LABELS.at[1].set(label))
    np.testing.assert_array_equal(jnp.isnan(values), [False, True, False])


def test_sigmoid_cross_entropy_is_the_two_class_softmax():
    logit, label = jnp.array([-3.0, 0.0, 50.0]), jnp.array([1, 0, 0])
    two = jnp.stack([jnp.zeros(3), logit], axis=1)
    np.testing.assert_allclose(
        losses.sigmoid_cross_entropy(logit, label), losses.softmax_cross_entropy(two, label), rtol=1e-6
    )


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_losses_equal_their_reference(name):
    """The formula in float64; outputs far out too."""
    outputs = np.array([-30.0, -1.5, -0.2, 0.0, 0.7, 2.0, 9.0])
    targets = np.array([0, 1, 1, 0, 1, 0, 1])
    p = np.where(targets == 1, outputs, -outputs)
    log_p, smooth = -np.logaddexp(0, -p), 0.9 * targets + 0.05
    expected = {
        "squared_error": (outputs - targets) ** 2,
        "absolute_error": np.abs(outputs - targets),
        "log_cosh": np.logaddexp(outputs - targets, targets - outputs) - np.log(2),
        "quantile": np.where(targets > outputs, 0.9, 0.1) * np.abs(targets - outputs),
        "poisson": np.exp(outputs) - targets * outputs,
        "hinge": np.maximum(0, 1 - p),
        "sigmoid_cross_entropy": -log_p,
        "smoothed": (1 - smooth) * np.logaddexp(0, outputs) + smooth * np.logaddexp(0, -outputs),
        "focal": -np.where(targets == 1, 0.25, 0.75) * (1 - np.exp(log_p)) ** 2 * log_p,
    }[name]
    np.testing.assert_allclose(POINTWISE[name](jnp.array(outputs), jnp.array(targets)), expected, rtol=1e-5, atol=1e-6)


def test_losses_equal_torch():
    torch = pytest.importorskip("torch")
    outputs, targets = np.array([-1.5, 0.2, 3.0], np.float32), np.array([0.5, 2.0, 4.0], np.float32)
    both = torch.tensor(outputs), torch.tensor(targets)
    theirs = torch.nn.functional
    np.testing.assert_allclose(losses.huber(outputs, targets, delta=0.7), theirs.huber_loss(*both, "none", 0.7), 1e-6)
    np.testing.assert_allclose(losses.poisson(outputs, targets), theirs.poisson_nll_loss(*both, reduction="none"), 1e-6)
    log_variance = jnp.array([-1.0, 0.0, 2.0])
    expected = theirs.gaussian_nll_loss(*both, torch.tensor(np.exp(log_variance)), full=True, reduction="none")
    np.testing.assert_allclose(losses.gaussian(jnp.stack([outputs, log_variance], 1), targets), expected, rtol=1e-6)
    weights = jnp.array([1.0, 2.0, 5.0])
    expected = theirs.cross_entropy(
        torch.tensor(np.array(LOGITS)),
        torch.tensor(np.array(LABELS)).long(),
        torch.tensor(np.array(weights)),
        reduction="none",
    )
    loss = losses.class_weighted(losses.softmax_cross_entropy, weights)
    np.testing.assert_allclose(loss(LOGITS, LABELS), expected, rtol=1e-6)
    assert jnp.isnan(loss(LOGITS, LABELS.at[0].set(-1))[0])


def test_balanced_weights_equal_scikit_learn():
    labels = np.array([0, 1, 1, 3, 3, 3])
    expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    ours = losses.balanced_class_weights(jnp.asarray(labels), num_classes=4)
    np.testing.assert_allclose(ours[jnp.array([0, 1, 3])] * 4 / 3, expected, rtol=1e-6)
    assert ours[2] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.quantile(jnp.ones(1), jnp.ones(1), level=1.0), r"level: needs a share in \(0, 1\)"),
        (lambda: losses.gaussian(jnp.ones((3, 3)), jnp.ones(3)), r"outputs: gaussian needs \[n, 2, ...\]"),
        (lambda: losses.class_weighted(losses.hinge, jnp.ones(2))(jnp.ones(2), jnp.ones(2)), "need integers"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_losses_are_averaged_over_the_outputs_of_an_example():
    outputs, targets = jnp.array([[1.0, 3.0]]), jnp.zeros((1, 2))
    np.testing.assert_allclose(losses.squared_error(outputs, targets), [5.0])
    np.testing.assert_allclose(losses.huber(outputs, targets), [(0.5 + 2.5) / 2])


def test_half_precision_is_computed_in_float32():
    logits = LOGITS.astype(jnp.bfloat16)
    values = losses.softmax_cross_entropy(logits, LABELS)
    assert values.dtype == jnp.float32
    np.testing.assert_array_equal(values, losses.softmax_cross_entropy(logits.astype(jnp.float32), LABELS))


@pytest.mark.parametrize("loss", [*POINTWISE.values(), losses.huber])
def test_shapes_that_would_broadcast_are_refused(loss):
    with pytest.raises(InputError, match=r"targets: .*\(3, 1\).*\(3,\)"):
        loss(jnp.ones((3, 1)), jnp.ones(3))


def test_float_class_indices_are_refused():
    with pytest.raises(InputError, match="targets: class indices must be integers"):
        losses.softmax_cross_entropy(LOGITS, LABELS.astype(jnp.float32))

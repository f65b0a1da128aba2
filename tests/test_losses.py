"""Losses against scikit-learn, torch-free closed forms, and their own promises on wrong targets."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from jaxmodels import losses
from jaxmodels.core import InputError

LOGITS = jnp.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 4.0, 1.0]])
LABELS = jnp.array([0, 2, 1])


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


def test_losses_are_averaged_over_the_outputs_of_an_example():
    outputs, targets = jnp.array([[1.0, 3.0]]), jnp.zeros((1, 2))
    np.testing.assert_allclose(losses.squared_error(outputs, targets), [5.0])
    np.testing.assert_allclose(losses.huber(outputs, targets), [(0.5 + 2.5) / 2])


def test_half_precision_is_computed_in_float32():
    logits = LOGITS.astype(jnp.bfloat16)
    values = losses.softmax_cross_entropy(logits, LABELS)
    assert values.dtype == jnp.float32
    np.testing.assert_array_equal(values, losses.softmax_cross_entropy(logits.astype(jnp.float32), LABELS))


@pytest.mark.parametrize("loss", [losses.squared_error, losses.huber, losses.sigmoid_cross_entropy])
def test_shapes_that_would_broadcast_are_refused(loss):
    with pytest.raises(InputError, match=r"targets: .*\(3, 1\).*\(3,\)"):
        loss(jnp.ones((3, 1)), jnp.ones(3))


def test_float_class_indices_are_refused():
    with pytest.raises(InputError, match="targets: class indices must be integers"):
        losses.softmax_cross_entropy(LOGITS, LABELS.astype(jnp.float32))

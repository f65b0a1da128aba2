"""Transfer learning: what is frozen stays frozen, costs nothing, and thaws to the same function."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels import losses, mlp, resnet, train, transfer
from jaxmodels.core import Batch, InputError, chain

IMAGES = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
BATCH = Batch(IMAGES, jnp.array([0, 1, 1, 0]))
BACKBONE = resnet.resnet18(num_classes=0, stem="small")


@pytest.fixture(scope="module")
def pretrained():
    params, state = BACKBONE.init(jax.random.key(1), IMAGES)
    moved = jax.tree.map(lambda leaf: leaf + 0.3, state)
    return jax.tree.map(lambda leaf: leaf + 0.01, params), moved


@pytest.fixture(scope="module")
def frozen(pretrained):
    return chain(transfer.freeze(transfer.given(BACKBONE, *pretrained)), transfer.head("dense", num_classes=2))


def trained(model, **options):
    trainer = train.trainer(
        model, loss=losses.softmax_cross_entropy, optimizer=optax.adamw(0.01, weight_decay=0.5, **options)
    )
    state = trainer.init(jax.random.key(0), BATCH)
    for _ in range(3):
        state, _ = trainer.step(state, BATCH)
    return state


def test_a_frozen_backbone_is_neither_trained_nor_decayed_nor_remembered(frozen, pretrained):
    state = trained(frozen)
    chex.assert_trees_all_equal(state.state[0], {"params": pretrained[0], "state": pretrained[1]})
    memory = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))
    assert memory <= 2 * sum(leaf.size for leaf in jax.tree.leaves(state.params)) + 2
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) < 200_000


def test_no_gradient_of_a_frozen_backbone_is_computed(frozen):
    """The backward pass of 18 layers would show as many more convolutions."""
    params, state = frozen.init(jax.random.key(0), IMAGES)

    def loss(params):
        return losses.softmax_cross_entropy(frozen.apply(params, state, IMAGES, train=True)[0], BATCH.targets).sum()

    text = str(jax.make_jaxpr(jax.grad(loss))(params))
    forward = str(jax.make_jaxpr(lambda: BACKBONE.apply(*BACKBONE.init(jax.random.key(0), IMAGES), IMAGES))())
    assert text.count("conv_general_dilated") == forward.count("conv_general_dilated")


def test_a_frozen_backbone_runs_on_its_running_averages(frozen, pretrained):
    features, _ = BACKBONE.apply(*pretrained, IMAGES)
    params, state = frozen.init(jax.random.key(0), IMAGES)
    outputs, _ = frozen.apply(params, state, IMAGES, train=True)
    np.testing.assert_allclose(outputs, mlp.apply(params[1], features), atol=1e-5)


@pytest.mark.slow
def test_unfreezing_keeps_the_function_and_frees_the_parameters(frozen, pretrained):
    state = trained(frozen)
    params, carried = transfer.unfreeze(state.params, state.state)
    whole = chain(BACKBONE, transfer.head("dense", num_classes=2))
    np.testing.assert_allclose(
        whole.apply(params, carried, IMAGES)[0], frozen.apply(state.params, state.state, IMAGES)[0], atol=1e-6
    )
    moved = trained(transfer.given(whole, params, carried))
    assert not np.allclose(moved.params[0]["stem"]["kernel"], pretrained[0]["stem"]["kernel"])


def test_given_values_survive_a_donating_step(pretrained):
    before = jax.tree.map(np.array, pretrained)
    trained(chain(transfer.given(BACKBONE, *pretrained), transfer.head("linear", num_classes=2)))
    chex.assert_trees_all_equal(before, jax.tree.map(np.array, pretrained))


def test_folding_reaches_through_the_combinators(frozen):
    state = trained(frozen)
    predict = resnet.inference(frozen, state.params, state.state)
    expected, _ = frozen.apply(state.params, state.state, IMAGES)
    np.testing.assert_allclose(predict(IMAGES), expected, atol=1e-4)
    np.testing.assert_allclose(
        resnet.inference(frozen, state.params, state.state, fast=False)(IMAGES), expected, atol=1e-5
    )


def test_standardised_features_have_mean_0_and_deviation_1():
    features = np.random.default_rng(0).normal(3, 5, (100, 4)).astype(np.float32)
    features[:, 2] = 7
    outputs, _ = (model := transfer.standardize(*transfer.moments(features))).apply(
        *model.init(jax.random.key(0), features), features
    )
    np.testing.assert_allclose(outputs.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(outputs.std(axis=0), [1, 1, 0, 1], atol=1e-5)


def test_a_linear_head_starts_at_zero():
    params, _ = transfer.head("linear", num_classes=3).init(jax.random.key(0), jnp.ones((1, 5)))
    assert not any(leaf.any() for leaf in jax.tree.leaves(params))


def test_an_unknown_head_is_named():
    with pytest.raises(InputError, match="head: 'conv' is none of linear, dense"):
        transfer.head("conv", num_classes=2)

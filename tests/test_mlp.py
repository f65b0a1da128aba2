"""The perceptron against torch, autodiff, and its own promises."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import mlp
from jaxmodels.core import InputError

SIZES = (3, 5, 4, 2)


@pytest.fixture
def inputs():
    return jax.random.normal(jax.random.key(1), (6, 3))


@pytest.mark.parametrize("activation", mlp.ACTIVATIONS)
@pytest.mark.usefixtures("x64")
def test_backward_equals_autodiff(activation):
    params = mlp.init(jax.random.key(0), SIZES, dtype=jnp.float64)
    inputs = jax.random.normal(jax.random.key(1), (6, 3), jnp.float64)
    activations = mlp.forward(params, inputs, activation=activation)
    output_gradient = jax.random.normal(jax.random.key(2), (6, 2), jnp.float64)
    ours = mlp.backward(params, activations, output_gradient, activation=activation)
    _, pullback = jax.vjp(lambda params: mlp.apply(params, inputs, activation=activation), params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), ours, pullback(output_gradient)[0]
    )


def test_outputs_and_gradients_equal_torch(inputs):
    torch = pytest.importorskip("torch")
    params = mlp.init(jax.random.key(0), SIZES)
    layers = [torch.nn.Linear(m, k) for m, k in zip(SIZES[:-1], SIZES[1:], strict=True)]
    for layer, ours in zip(layers, params, strict=True):
        layer.weight.data = torch.tensor(np.array(ours["kernel"]).T)
        layer.bias.data = torch.tensor(np.array(ours["bias"]))
    theirs = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    outputs = theirs(torch.tensor(np.array(inputs)))
    (outputs**2).sum().backward()
    np.testing.assert_allclose(mlp.apply(params, inputs), outputs.detach().numpy(), atol=1e-6)
    gradients = jax.grad(lambda params: jnp.sum(mlp.apply(params, inputs) ** 2))(params)
    for layer, ours in zip(layers, gradients, strict=True):
        assert layer.weight.grad is not None
        np.testing.assert_allclose(ours["kernel"], layer.weight.grad.numpy().T, atol=1e-4)


def test_initial_variance_is_two_over_fan_in():
    (layer,) = mlp.init(jax.random.key(0), (400, 300))
    np.testing.assert_allclose(layer["kernel"].var(), 2 / 400, rtol=0.02)
    assert not layer["bias"].any()


def test_model_is_apply(inputs):
    model = mlp.model(hidden_sizes=SIZES[1:-1], num_outputs=2)
    params, state = model.init(jax.random.key(0), inputs)
    np.testing.assert_array_equal(model.apply(params, state, inputs)[0], mlp.apply(params, inputs))


def test_dropout_acts_in_training_alone(inputs):
    model = mlp.model(hidden_sizes=(50,), num_outputs=2, dropout=0.5)
    params, state = model.init(jax.random.key(0), inputs)
    apply = jax.jit(model.apply, static_argnames="train")
    one, two = (apply(params, state, inputs, train=True, key=jax.random.key(seed))[0] for seed in (0, 1))
    assert not jnp.allclose(one, two)
    np.testing.assert_array_equal(one, apply(params, state, inputs, train=True, key=jax.random.key(0))[0])
    np.testing.assert_allclose(apply(params, state, inputs)[0], mlp.apply(params, inputs), rtol=1e-6)


def test_dropout_keeps_the_mean():
    kept, _ = mlp.dropout(0.3).apply((), {}, jnp.ones((1, 100_000)), train=True, key=jax.random.key(0))
    np.testing.assert_allclose(kept.mean(), 1, atol=0.01)


def test_dropout_without_a_key_is_an_error_while_tracing(inputs):
    model = mlp.model(hidden_sizes=(4,), dropout=0.5)
    params, state = model.init(jax.random.key(0), inputs)
    with pytest.raises(ValueError, match=r"key: dropout needs one"):
        jax.eval_shape(lambda: model.apply(params, state, inputs, train=True))


def test_an_ensemble_is_a_vmap(inputs):
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(lambda key: mlp.apply(mlp.init(key, SIZES), inputs))(keys)
    apart = jnp.stack([mlp.apply(mlp.init(key, SIZES), inputs) for key in keys])
    np.testing.assert_allclose(together, apart, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mlp.init(jax.random.key(0), (3,)), "sizes: needs two or more"),
        (lambda: mlp.init(jax.random.key(0), (3, 0)), "sizes: needs two or more"),
        (lambda: mlp.model(activation="relo"), "activation: 'relo' is none of relu"),
        (lambda: mlp.model(dropout=1.0), r"dropout: needs a share in \[0, 1\)"),
        (lambda: mlp.model().init(jax.random.key(0), jnp.ones((2, 3, 3))), r"inputs: .*\(2, 3, 3\)"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()

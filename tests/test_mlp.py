"""The perceptron against torch, autodiff, and its own promises."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from jaxmodels import embeddings, mlp
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


@pytest.mark.parametrize(
    ("initializer", "variance"),
    [
        ("he_normal", 2 / 400),
        ("he_uniform", 2 / 400),
        ("glorot_normal", 2 / 700),
        ("glorot_uniform", 2 / 700),
        ("lecun_normal", 1 / 400),
        ("lecun_uniform", 1 / 400),
        ("orthogonal", 1 / 400),
        ("zeros", 0),
    ],
)
def test_initializers_have_the_variance_of_their_paper(initializer, variance):
    (layer,) = mlp.init(jax.random.key(0), (400, 300), initializer=initializer)
    np.testing.assert_allclose(layer["kernel"].var(), variance, rtol=0.02)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_norms_and_residuals_equal_torch(inputs, norm):
    """Outputs of a training step and of inference after it, and the gradient through the norm; two rows are padding."""
    torch = pytest.importorskip("torch")
    model = mlp.model(hidden_sizes=(4, 4), num_outputs=2, norm=norm, residual=True, activation="tanh")
    params, state = model.init(jax.random.key(0), inputs)
    weights = jnp.array([1.0, 1, 1, 1, 0, 0])
    theirs = [torch.nn.Linear(m, k) for m, k in ((3, 4), (4, 4), (4, 2))]
    for layer, ours in zip(theirs, params, strict=True):
        layer.weight.data = torch.tensor(np.array(ours["kernel"]).T)
        layer.bias.data = torch.tensor(np.array(ours["bias"]))
    norms = [torch.nn.LayerNorm(4) if norm == "layer" else torch.nn.BatchNorm1d(4) for _ in range(2)]

    def network(x):
        first = torch.tanh(norms[0](theirs[0](x)))
        return theirs[2](first + torch.tanh(norms[1](theirs[1](first))))

    def sum_of_squares(params):
        outputs, carried = model.apply(params, state, inputs, train=True, weights=weights)
        return jnp.sum(outputs[:4] ** 2), (outputs, carried)

    gradients, (outputs, carried) = jax.grad(sum_of_squares, has_aux=True)(params)
    expected = network(torch.tensor(np.array(inputs[:4])))
    (expected**2).sum().backward()
    np.testing.assert_allclose(outputs[:4], expected.detach().numpy(), atol=1e-5)
    assert theirs[0].weight.grad is not None
    np.testing.assert_allclose(gradients[0]["kernel"], theirs[0].weight.grad.numpy().T, atol=1e-4)
    if norm == "batch":
        np.testing.assert_allclose(carried["batch_stats"][1]["mean"], norms[1].running_mean.numpy(), atol=1e-6)
        # torch's running variance divides by n - 1, ours by n
        ours = (carried["batch_stats"][1]["variance"] - 0.9) * 4 / 3 + 0.9
        np.testing.assert_allclose(ours, norms[1].running_var.numpy(), atol=1e-6)
    unchanged = model.apply(params, carried, inputs)[1]
    jax.tree.map(np.testing.assert_array_equal, unchanged, carried)


@pytest.mark.usefixtures("x64")
def test_gradient_is_the_finite_difference():
    """Through every option at once; tanh, because relu has no derivative at 0."""
    model = mlp.model(hidden_sizes=(4, 4), num_outputs=2, norm="batch", residual=True, activation="tanh", dropout=0.2)
    inputs = jax.random.normal(jax.random.key(1), (6, 3), jnp.float64)
    params, state = model.init(jax.random.key(0), inputs)

    @jax.jit
    def objective(params):
        return jnp.sum(model.apply(params, state, inputs, train=True, key=jax.random.key(3))[0] ** 2)

    jax.test_util.check_grads(objective, (params,), order=1, modes=["rev"], rtol=1e-6, atol=1e-6)


def test_embeddings_are_the_product_with_one_hot_columns():
    model = embeddings.embeddings((3, 2), sizes=(2, 1))
    numbers, codes = jnp.ones((4, 1)), jnp.array([[0, 1], [2, 0], [3, 0], [-1, 5]])
    params, state = model.init(jax.random.key(0), (numbers, codes))
    apply = jax.jit(lambda params: model.apply(params, state, (numbers, codes))[0])
    one_hot = [np.eye(4)[[0, 2, 3, 3]], np.eye(3)[[1, 0, 0, 2]]]
    expected = [one @ table for one, table in zip(one_hot, params, strict=True)]
    np.testing.assert_allclose(apply(params), np.concatenate([numbers, *expected], axis=1), rtol=1e-6)
    gradients = jax.grad(lambda params: apply(params).sum())(params)
    np.testing.assert_allclose(gradients[0], np.repeat(one_hot[0].sum(0)[:, None], 2, axis=1))


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
        (lambda: mlp.model(initializer="he"), "initializer: 'he' is none of he_normal"),
        (lambda: mlp.model(norm="group"), "norm: 'group' is none of none, layer, batch"),
        (lambda: embeddings.embeddings((3, 2), sizes=(1,)), "sizes: needs one of at least 1 a column"),
        (
            lambda: embeddings.embeddings((3,)).init(jax.random.key(0), (jnp.ones((2, 1)), jnp.ones((2, 1)))),
            r"inputs: codes must be integers \[n, 1\], got float32 \(2, 1\)",
        ),
        (lambda: mlp.model(dropout=1.0), r"dropout: needs a share in \[0, 1\)"),
        (lambda: mlp.model().init(jax.random.key(0), jnp.ones((2, 3, 3))), r"inputs: .*\(2, 3, 3\)"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()

"""Wrapped networks against the unwrapped, and linen modules against themselves."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels import losses, mlp, train, wrap
from jaxmodels.core import Batch, InputError

X = jax.random.normal(jax.random.key(1), (32, 3))
BATCH = Batch(X, X @ jnp.array([1.0, -2.0, 0.5]))
MODEL = mlp.model(hidden_sizes=(16, 16), num_outputs=0, dropout=0.1, norm="batch")


def step_of(model):
    trainer = train.trainer(model, loss=losses.squared_error, optimizer=optax.sgd(0.1))
    return trainer.step(trainer.init(jax.random.key(0), BATCH), BATCH)


def test_bfloat16_computes_and_float32_keeps():
    plain, _ = step_of(MODEL)
    half, info = step_of(wrap.in_dtype(MODEL, "bfloat16"))
    assert jax.tree.map(lambda leaf: leaf.dtype, plain[:4]) == jax.tree.map(lambda leaf: leaf.dtype, half[:4])
    assert info.loss.dtype == jnp.float32
    assert "bf16" in str(jax.make_jaxpr(wrap.in_dtype(MODEL, "bfloat16").apply)(half.params, half.state, X))
    pairs = zip(*map(jax.tree.leaves, (plain.params, half.params)), strict=True)
    differences = [float(abs(a - b).max()) for a, b in pairs]
    assert 0 < max(differences) < 0.02


def test_rematerialised_gradients_are_the_same_and_keep_less():
    params, state = MODEL.init(jax.random.key(0), X)

    def pullback(model):
        def total(params):
            return model.apply(params, state, X, train=True, key=jax.random.key(2), weights=jnp.ones(32))[0].sum()

        return jax.vjp(total, params)[1]

    plain, less = pullback(MODEL), pullback(wrap.rematerialise(MODEL))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain(1.0), less(1.0))
    held = [sum(leaf.nbytes for leaf in jax.tree.leaves(each) if hasattr(leaf, "nbytes")) for each in (plain, less)]
    assert held[1] < 0.6 * held[0]


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(8)(x))
        return nn.Dense(1)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))[:, 0]


def test_a_linen_module_trains_with_its_state_and_dropout():
    model = wrap.from_linen(Net())
    trainer = train.trainer(model, loss=losses.squared_error, optimizer=optax.adam(0.05))
    state = trainer.init(jax.random.key(0), BATCH)
    first = np.array(state.state["batch_stats"]["BatchNorm_0"]["mean"])
    for _ in range(100):
        state, _ = trainer.step(state, BATCH)
    assert abs(state.state["batch_stats"]["BatchNorm_0"]["mean"] - first).max() > 0
    variables = {"params": state.params, **state.state}
    outputs, unchanged = model.apply(state.params, state.state, X)
    np.testing.assert_array_equal(outputs, Net().apply(variables, X, train=False))
    assert unchanged is state.state
    assert jnp.mean((outputs - BATCH.targets) ** 2) < 0.3 * BATCH.targets.var()


def test_a_type_that_is_not_floating_is_refused():
    with pytest.raises(InputError, match="dtype: needs a floating-point type, got 'int32'"):
        wrap.in_dtype(MODEL, "int32")

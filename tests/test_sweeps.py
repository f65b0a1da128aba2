"""Sweeps: every lane is the training it stands for, a diverging one disturbs no other, ensembles average."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels import epochs, losses, mlp, sweeps, train
from jaxmodels.core import Batch, InputError

X = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
EXAMPLES = Batch(X, (X[:, 0] * X[:, 1]).astype(np.float32))
MODEL = mlp.model(hidden_sizes=(8,), num_outputs=0, dropout=0.2)
GRID = {"learning_rate": [0.01, 1e30], "weight_decay": [0.0, 0.1, 0.5]}


def make_trainer(learning_rate=0.01, weight_decay=0.0):
    optimizer = optax.adamw(learning_rate, weight_decay=weight_decay)
    return train.trainer(MODEL, loss=losses.squared_error, optimizer=optimizer)


def validation(params, state):
    return jnp.mean((MODEL.apply(params, state, X)[0] - EXAMPLES.targets) ** 2)


@pytest.fixture(scope="module")
def sweep():
    return sweeps.fit(make_trainer, GRID, EXAMPLES, seeds=[4, 7], batch_size=8, num_epochs=3, validation=validation)


def test_every_lane_is_its_own_training(sweep):
    trainer = make_trainer(0.01, 0.5)
    alone = epochs.fit(
        trainer, trainer.init(jax.random.key(7), EXAMPLES), EXAMPLES, batch_size=8, num_epochs=3, seed=7, loop="scan"
    )
    np.testing.assert_allclose(sweep.losses[1, 0, 2], alone.losses, rtol=1e-4)
    jax.tree.map(
        lambda lanes, one: np.testing.assert_allclose(lanes[1, 0, 2], one, rtol=1e-3, atol=1e-5),
        sweep.params,
        alone.state.params,
    )
    last = validation(alone.state.params, {})
    np.testing.assert_allclose(sweep.validation[1, 0, 2, -1], last, rtol=1e-4)


def test_a_diverging_lane_says_so_and_disturbs_no_other(sweep):
    assert sweep.status.shape == (2, 2, 3)
    np.testing.assert_array_equal(sweep.status[:, 0], 0)
    assert (sweep.status[:, 1] == 2).all()
    assert jnp.isfinite(sweep.losses[:, 0]).all()


def test_an_ensemble_is_the_mean_of_its_members(sweep):
    params = jax.tree.map(lambda leaf: leaf[:, 0, 0], sweep.params)
    members = [MODEL.apply(jax.tree.map(lambda leaf, i=i: leaf[i], params), {}, X)[0] for i in (0, 1)]
    np.testing.assert_allclose(sweeps.ensemble(MODEL).apply(params, {}, X)[0], np.mean(members, axis=0), rtol=1e-5)
    each, _ = sweeps.ensemble(MODEL, reduce="none").apply(params, {}, X, train=True, key=jax.random.key(0))
    assert each.shape == (2, 50)


def test_a_mixture_is_the_mean_of_probabilities():
    model = mlp.model(num_outputs=3)
    params = jax.vmap(lambda key: mlp.init(key, (3, 3)))(jax.random.split(jax.random.key(0), 4))
    logits, _ = sweeps.ensemble(model, reduce="none").apply(params, {}, X)
    mixed, _ = sweeps.ensemble(model, reduce="mixture").apply(params, {}, X)
    np.testing.assert_allclose(jax.nn.softmax(mixed), jax.nn.softmax(logits).mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: sweeps.fit(make_trainer, {"weight_decay": []}, EXAMPLES, seeds=[0], batch_size=8, num_epochs=1),
            "weight_decay: needs one value",
        ),
        (
            lambda: sweeps.fit(make_trainer, {}, EXAMPLES, seeds=[], batch_size=8, num_epochs=1),
            "seeds: needs one value",
        ),
        (lambda: sweeps.fit(make_trainer, {}, EXAMPLES, seeds=[0], batch_size=0, num_epochs=1), "batch_size: needs"),
        (lambda: sweeps.ensemble(MODEL, reduce="median"), "reduce: 'median' is none of none, mean, mixture"),
        (lambda: sweeps.ensemble(MODEL).init(jax.random.key(0), X), "ensemble: its members are trained apart"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()

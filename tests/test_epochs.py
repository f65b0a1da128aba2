"""Whole epochs: step loop = scan = a loop of one's own, early stopping, and what is left of a run that diverges."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels import data, epochs, losses, mlp, optimizers, train
from jaxmodels.core import Batch, InputError

X = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
Y = (X @ [1.0, -2.0, 0.5] + 0.3).astype(np.float32)
EXAMPLES = Batch(X, Y)
MODEL = mlp.model(hidden_sizes=(8,), num_outputs=0, dropout=0.2)
TRAINER = train.trainer(
    MODEL,
    loss=losses.squared_error,
    optimizer=optimizers.optimizer("adamw", 0.01, weight_decay=0.1, clip=1.0, accumulate=2, ema=0.9),
)


def fit(**options):
    options = {"batch_size": 8, "num_epochs": 4, "seed": 3, **options}
    return epochs.fit(TRAINER, TRAINER.init(jax.random.key(1), EXAMPLES), EXAMPLES, **options)


def arrays(state):
    return jax.tree.map(np.array, state[:4])


def test_every_loop_gives_the_same_numbers():
    """Bit for bit: by steps, by scan, measured, run again, and stepped by hand over the batches of ``data``."""
    fits = {loop: fit(loop=loop) for loop in epochs.LOOPS}
    again = fit(loop="scan")
    state = TRAINER.init(jax.random.key(1), EXAMPLES)
    for epoch in range(4):
        for batch in data.array_batches(X, Y, batch_size=8, seed=3, epoch=epoch):
            state, _ = TRAINER.step(state, batch)
    for other in (fits["scan"], fits["auto"], again):
        chex.assert_trees_all_equal(arrays(fits["step"].state), arrays(other.state))
        np.testing.assert_array_equal(fits["step"].losses, other.losses)
    chex.assert_trees_all_close(arrays(fits["step"].state), arrays(state), rtol=1e-5, atol=1e-7)
    assert [fits[loop].loop for loop in ("step", "scan")] == ["step", "scan"]


def test_the_faster_loop_is_kept():
    runner = epochs._Runner(TRAINER, "auto", 10, None)
    chosen = []
    for seconds in ({}, {"step": 2.0, "compile": 1.0}, {"step": 2.0, "scan": 1.0}, {"step": 1.0, "scan": 2.0}):
        runner.seconds = seconds
        chosen.append(runner._choose())
    assert chosen == ["step", "scan", "scan", "step"]
    runner.seconds = {"step": 0.01, "compile": 1.0}
    assert runner._choose() == "step"  # ten epochs of 10 ms do not pay for compiling the scan


def test_weights_and_a_padded_batch():
    """Rows of weight 0 change nothing, whatever they hold."""
    padded = Batch(
        np.concatenate([X, np.full((14, 3), np.nan, np.float32)]),
        np.r_[Y, np.full(14, np.nan, np.float32)],
        np.r_[np.ones(50, np.float32), np.zeros(14, np.float32)],
    )
    trainer = train.trainer(mlp.model(num_outputs=0), loss=losses.squared_error, optimizer=optax.sgd(0.1))
    one = epochs.fit(
        trainer, trainer.init(jax.random.key(1), EXAMPLES), EXAMPLES, batch_size=64, num_epochs=3, loop="scan"
    )
    two = epochs.fit(trainer, trainer.init(jax.random.key(1), padded), padded, batch_size=64, num_epochs=3, loop="scan")
    np.testing.assert_allclose(one.losses, two.losses, rtol=1e-5)


def test_early_stopping_returns_the_best_state():
    values = iter([3.0, 1.0, 2.0, 1.5, 0.1])
    seen = []
    trained = fit(
        num_epochs=5,
        loop="step",
        patience=2,
        validation=lambda params, state: next(values),
        on_epoch=lambda progress, state: seen.append(arrays(state)),
    )
    assert trained.epoch == 2
    np.testing.assert_array_equal(trained.validation, [3.0, 1.0, 2.0, 1.5])
    chex.assert_trees_all_equal(arrays(trained.state), seen[1])


@pytest.mark.parametrize("loop", ["step", "scan"])
def test_divergence_names_the_step_and_hands_back_the_last_good_state(loop):
    poisoned = jnp.asarray(Y).at[data.order(50, seed=3, epoch=0)[20]].set(jnp.nan)  # in the third batch
    trainer = train.trainer(mlp.model(num_outputs=0), loss=losses.squared_error, optimizer=optax.sgd(0.01))
    before = trainer.init(jax.random.key(1), EXAMPLES)
    expected = arrays(before)
    with pytest.raises(train.DivergenceError, match=r"step 3: loss nan.*lower the learning rate") as caught:
        epochs.fit(trainer, before, Batch(X, poisoned), batch_size=8, num_epochs=2, seed=3, loop=loop)
    assert caught.value.step == 3
    assert caught.value.state is not None
    chex.assert_trees_all_equal(arrays(caught.value.state), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: needs at least 1, got 0"),
        ({"num_epochs": 0}, "num_epochs: needs at least 1, got 0"),
        ({"patience": 3}, "patience: 3 epochs .* Pass validation"),
        ({"loop": "while"}, "loop: 'while' is none of auto, step, scan"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(InputError, match=message):
        fit(**options)


def test_arrays_of_two_lengths_are_refused():
    with pytest.raises(InputError, match=r"examples: .*\(50, 3\), \(49,\)"):
        epochs.fit(TRAINER, None, Batch(X, Y[:49]), batch_size=8, num_epochs=1)  # pyright: ignore

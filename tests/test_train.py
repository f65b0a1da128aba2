"""The step and the loop: against hand-written steps, over padding, through interruptions, and when a loss diverges."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jaxmodels import data, losses, mlp, train
from jaxmodels.core import Batch, InputError, Model

X = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
Y = (X @ [1.0, -2.0, 0.5] + 0.3).astype(np.float32)
MODEL = mlp.model(hidden_sizes=(8,), num_outputs=0, dropout=0.2)
BATCH = Batch(jnp.asarray(X), jnp.asarray(Y))


def make(*, loss=losses.squared_error, optimizer=None, augment=None, donate=True) -> train.Trainer:
    return train.trainer(MODEL, loss=loss, optimizer=optimizer or optax.adam(0.01), augment=augment, donate=donate)


def batches(epoch: int, step: int):
    return data.array_batches(X, Y, batch_size=8, seed=3, epoch=epoch, step=step)


def run(trainer, state, seen, **options):
    on_step = lambda progress: seen.append(progress.loss)  # noqa: E731
    return train.fit(trainer, state, batches, num_epochs=3, steps_per_epoch=7, on_step=on_step, **options)


def test_step_is_the_hand_written_one():
    trainer, optimizer = make(), optax.adam(0.01)
    state = trainer.init(jax.random.key(0), BATCH)
    params, opt_state = jax.tree.map(jnp.copy, state.params), optimizer.init(state.params)
    for step in range(5):
        key = jax.random.split(jax.random.fold_in(jax.random.key(0), step))[1]

        def objective(params, key=key):
            return jnp.mean((MODEL.apply(params, {}, BATCH.inputs, train=True, key=key)[0] - BATCH.targets) ** 2)

        value, gradients = jax.value_and_grad(objective)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        state, info = trainer.step(state, BATCH)
        np.testing.assert_allclose(info.loss, value, rtol=1e-5)
        np.testing.assert_allclose(info.gradient_norm, optax.tree.norm(gradients), rtol=1e-5)
    chex.assert_trees_all_close(state.params, params, rtol=1e-4, atol=1e-6)


def test_padding_changes_nothing_not_even_when_it_is_nan():
    plain = train.trainer(mlp.model(num_outputs=0), loss=losses.squared_error, optimizer=optax.sgd(0.1))
    padded = Batch(
        jnp.concatenate([BATCH.inputs, jnp.full((3, 3), 7.0)]),
        jnp.concatenate([BATCH.targets, jnp.full(3, jnp.nan)]),
        jnp.concatenate([jnp.ones(50), jnp.zeros(3)]),
    )
    one, info = plain.step(plain.init(jax.random.key(0), BATCH), BATCH)
    two, info_padded = plain.step(plain.init(jax.random.key(0), BATCH), padded)
    assert info_padded.weight == 50
    np.testing.assert_allclose(info.loss, info_padded.loss, rtol=1e-6)
    chex.assert_trees_all_close(one.params, two.params, rtol=1e-5)


def test_weights_are_repetitions():
    plain = train.trainer(mlp.model(num_outputs=0), loss=losses.squared_error, optimizer=optax.sgd(0.1))
    weights = jnp.arange(50) % 3
    repeated = Batch(*(jnp.repeat(each, weights, axis=0, total_repeat_length=49) for each in BATCH[:2]))
    one, _ = plain.step(plain.init(jax.random.key(0), BATCH), BATCH._replace(weights=weights))
    two, _ = plain.step(plain.init(jax.random.key(0), BATCH), repeated)
    chex.assert_trees_all_close(one.params, two.params, rtol=1e-5)


def test_a_batch_of_padding_alone_moves_nothing():
    plain = train.trainer(mlp.model(num_outputs=0), loss=losses.squared_error, optimizer=optax.sgd(0.1))
    state = plain.init(jax.random.key(0), BATCH)
    before = jax.tree.map(np.array, state.params)
    state, info = plain.step(state, BATCH._replace(weights=jnp.zeros(50)))
    chex.assert_trees_all_equal(before, jax.tree.map(np.array, state.params))
    assert info.loss == 0


def test_an_interrupted_run_repeats_bit_for_bit():
    trainer, whole, parts, saved = make(), [], [], []
    last = run(trainer, trainer.init(jax.random.key(1), BATCH), whole)
    kept = []
    state = trainer.init(jax.random.key(1), BATCH)
    for stop in (4, 11, 100):  # in mid-epoch, twice
        state = run(
            trainer,
            state,
            parts,
            save=lambda state: saved.append(int(state.step)),
            should_stop=lambda stop=stop: len(parts) + 1 >= stop,
        )
        kept.append(int(state.step))
    assert parts == whole
    assert len(whole) == 21
    assert saved == kept
    chex.assert_trees_all_equal(jax.tree.map(np.array, last[:4]), jax.tree.map(np.array, state[:4]))


def test_the_epoch_mean_counts_steps_before_an_interruption():
    trainer, epochs, seen = make(), [], []
    run(trainer, trainer.init(jax.random.key(1), BATCH), [], on_epoch=lambda progress, _: epochs.append(progress.loss))
    state = trainer.init(jax.random.key(1), BATCH)
    stop = lambda: len(seen) >= 2  # noqa: E731
    state = train.fit(trainer, state, batches, num_epochs=3, steps_per_epoch=7, on_step=seen.append, should_stop=stop)
    resumed = []
    run(trainer, state, [], earlier=seen, on_epoch=lambda progress, _: resumed.append(progress.loss))
    assert resumed == epochs


def test_every_save_follows_the_values_of_its_step():
    trainer, seen, saved = make(), [], []
    run(
        trainer,
        trainer.init(jax.random.key(1), BATCH),
        seen,
        save=lambda s: saved.append((int(s.step), len(seen))),
        save_seconds=0,
    )
    assert [step for step, _ in saved][:21] == list(range(1, 22))
    assert all(step == count for step, count in saved)


def test_one_trace_over_a_whole_run():
    chex.clear_trace_counter()
    apply = chex.assert_max_traces(MODEL.apply, n=2)  # the step, and init's shapes
    trainer = train.trainer(Model(MODEL.init, apply), loss=losses.squared_error, optimizer=optax.adam(0.01))
    run(trainer, trainer.init(jax.random.key(1), BATCH), [])


def test_the_generator_belongs_to_its_caller():
    trainer = make()
    steps = train.iterate(trainer, trainer.init(jax.random.key(0), BATCH), [BATCH] * 100)
    state, _ = next(steps)
    state, info = next(steps)
    assert int(state.step) == 2
    assert info.status == 0


def test_augmentation_runs_in_the_step_with_a_key_of_its_own():
    noise = lambda key, batch: batch._replace(inputs=batch.inputs + jax.random.normal(key, batch.inputs.shape))  # noqa: E731
    trainer = make(augment=noise)
    values = []
    for _ in range(2):
        state, info = trainer.step(trainer.init(jax.random.key(0), BATCH), BATCH)
        values += [float(info.loss), float(trainer.step(state, BATCH)[1].loss)]
    assert values[:2] == values[2:]
    assert values[0] != float(make().step(make().init(jax.random.key(0), BATCH), BATCH)[1].loss)


def test_a_vmapped_step_is_a_loop_of_steps():
    trainer = make(donate=False)
    states = jax.vmap(lambda key: trainer.init(key, BATCH))(jax.random.split(jax.random.key(0), 3))
    together, info = jax.vmap(trainer.step, in_axes=(0, None))(states, BATCH)
    for lane in range(3):
        alone, lone_info = trainer.step(jax.tree.map(lambda leaf, lane=lane: leaf[lane], states), BATCH)
        np.testing.assert_allclose(info.loss[lane], lone_info.loss, rtol=1e-5)
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, lane=lane: leaf[lane], together.params), alone.params, rtol=1e-3, atol=1e-6
        )


def test_a_diverging_loss_names_its_step_and_is_never_saved():
    trainer = make(optimizer=optax.sgd(1e30))
    saved = []
    with pytest.raises(train.DivergenceError, match=r"step [23]: loss .*lower the learning rate"):
        run(
            trainer,
            trainer.init(jax.random.key(0), BATCH),
            [],
            save=lambda state: saved.append(all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))),
            save_seconds=0,
        )
    assert all(saved)


def test_a_loss_of_the_wrong_shape_is_named():
    trainer = make(loss=lambda outputs, targets: (outputs - targets).mean(keepdims=True))
    with pytest.raises(InputError, match=r"loss: must give one value an example, \(50,\), got \(1,\)"):
        trainer.step(trainer.init(jax.random.key(0), BATCH), BATCH._replace(weights=jnp.ones(50)))


def test_a_wrong_count_of_steps_is_named():
    trainer = make()
    with pytest.raises(InputError, match="steps_per_epoch: 5, but epoch 0 ended at step 7"):
        train.fit(trainer, trainer.init(jax.random.key(0), BATCH), batches, num_epochs=1, steps_per_epoch=5)


@pytest.mark.parametrize("name", ["linear", "perceptron"])
def test_the_same_step_trains_to_the_closed_form(name):
    model = mlp.model(num_outputs=0) if name == "linear" else mlp.model(hidden_sizes=(32,), num_outputs=0)
    trainer = train.trainer(model, loss=losses.squared_error, optimizer=optax.adam(0.03))
    state = trainer.init(jax.random.key(0), BATCH)
    for _ in range(400):
        state, info = trainer.step(state, BATCH)
    assert info.loss < 1e-3
    if name == "linear":
        exact = np.linalg.lstsq(np.c_[X, np.ones(50)], Y, rcond=None)[0]
        np.testing.assert_allclose(np.ravel(state.params[0]["kernel"]), exact[:3], atol=1e-2)


def test_soft_targets_with_smoothing():
    loss = functools.partial(losses.softmax_cross_entropy, label_smoothing=0.1)
    trainer = train.trainer(mlp.model(num_outputs=2), loss=loss, optimizer=optax.sgd(0.1))
    batch = Batch(BATCH.inputs, jax.nn.one_hot((BATCH.targets > 0).astype(int), 2))
    assert jnp.isfinite(trainer.step(trainer.init(jax.random.key(0), batch), batch)[1].loss)


def test_gradient_descent_is_the_plain_rule():
    matrix, target = jnp.array([[2.0, 0.5], [0.5, 1.0]]), jnp.array([1.0, -1.0])
    objective = lambda x: x @ matrix @ x / 2 - target @ x  # noqa: E731
    params, values = train.gradient_descent(objective, jnp.zeros(2), learning_rate=0.4, num_steps=200)
    np.testing.assert_allclose(params, np.linalg.solve(matrix, target), rtol=1e-5)
    assert (jnp.diff(values) <= 1e-6).all()


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.lbfgs(),
        optax.polyak_sgd(),
        optax.chain(optax.adam(0.05), optax.contrib.reduce_on_plateau()),
        optax.contrib.muon(0.05),
        optax.contrib.schedule_free_sgd(0.1),
    ],
    ids=["lbfgs", "polyak_sgd", "reduce_on_plateau", "muon", "schedule_free_sgd"],
)
def test_optimizers_that_ask_for_more_than_a_gradient(optimizer):
    trainer = train.trainer(mlp.model(num_outputs=0), loss=losses.squared_error, optimizer=optimizer)
    state = trainer.init(jax.random.key(0), BATCH)
    state, first = trainer.step(state, BATCH)
    for _ in range(30):
        state, info = trainer.step(state, BATCH)
    assert info.loss < 0.2 * first.loss

"""Many trainings of one architecture in one program: seeds x learning rates x weight decays, deep ensembles.

    state[s, a, b] = train(key(seed_s), optimizer(learning_rate_a, weight_decay_b))

Every lane has the numbers that ``epochs.fit`` gives alone, to rounding: its own initial parameters, its own order of
the rows, its own dropout. A lane that diverges says so in its status and disturbs no other. Seeds alone make a deep
ensemble (Lakshminarayanan et al. 2017), which ``ensemble`` turns into one model.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.core import Batch, InputError, Model, PyTree, TrainState, cached_factory
from jaxmodels.epochs import num_examples, plan, take
from jaxmodels.train import Trainer

REDUCTIONS = ("none", "mean", "mixture")


class Sweep(NamedTuple):
    """Results as arrays whose leading axes are the seeds and then each hyperparameter, in the order given."""

    params: PyTree
    """``[seeds, ..., *shape]``."""
    state: PyTree
    """``[seeds, ..., *shape]``."""
    losses: jax.Array
    """``[seeds, ..., epochs]``: weighted mean training losses."""
    validation: jax.Array
    """``[seeds, ..., epochs]``: values of ``validation``; ``[seeds, ..., 0]`` where there is none."""
    status: jax.Array
    """int32 ``[seeds, ...]``: ``Status.nonfinite`` for a lane whose loss or gradient ever was."""


def fit(
    make_trainer: Callable[..., Trainer],
    hyperparameters: Mapping[str, Sequence[float]],
    examples: Batch,
    *,
    seeds: Sequence[int],
    batch_size: int,
    num_epochs: int,
    validation: Callable[[PyTree, PyTree], Any] | None = None,
) -> Sweep:
    """Train every combination of seeds and hyperparameters at once.

    Args:
      make_trainer: ``(**hyperparameters) -> Trainer``; the values are traced numbers, so that anything an optimizer
        computes with may be swept, and nothing that decides shapes.
      hyperparameters: ``{name: values}``; ``{}`` for an ensemble of seeds.
      examples: all rows, as in ``epochs.fit``.
      seeds: of the initial parameters, the order of the rows and the steps' keys.
      batch_size, num_epochs: as in ``epochs.fit``.
      validation: ``(params, state) -> []``, after each epoch.

    >>> import optax
    >>> from jaxmodels import losses, mlp, train
    >>> x = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
    >>> def make_trainer(learning_rate):
    ...     return train.trainer(
    ...         mlp.model(num_outputs=0), loss=losses.squared_error, optimizer=optax.sgd(learning_rate)
    ...     )
    >>> rates = {"learning_rate": [0.01, 0.5]}
    >>> sweep = fit(make_trainer, rates, Batch(x, 3 * x[:, 0] + 1), seeds=range(3), batch_size=10, num_epochs=10)
    >>> sweep.losses.shape, bool((sweep.losses[:, 1, -1] < 1e-3).all())
    ((3, 2, 10), True)
    """
    count = num_examples(examples)
    for name, values in {"seeds": seeds, **hyperparameters}.items():
        if len(values) == 0:
            raise InputError(f"{name}: needs one value or more, got none")
    for name, value in (("batch_size", batch_size), ("num_epochs", num_epochs)):
        if value < 1:
            raise InputError(f"{name}: needs at least 1, got {value}")
    examples = jax.device_put(examples)
    grid = jnp.array(list(itertools.product(*hyperparameters.values())), jnp.float32)
    start, epoch = _programs(make_trainer, tuple(hyperparameters), validation)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    states, rows_of = start(keys, grid, examples), functools.partial(_plans, count, batch_size, seeds)
    history = []
    for index in range(num_epochs):
        rows, real = rows_of(index)
        states, told = epoch(states, grid, examples, rows, real)
        history.append(told)
    shape = (len(seeds), *map(len, hyperparameters.values()))
    params, state = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[2:]), (states.params, states.state))
    losses, values, status = (
        jnp.stack(each, axis=-1).reshape(*shape, num_epochs) for each in zip(*history, strict=True)
    )
    return Sweep(params, state, losses, values if validation else values[..., :0], status.max(axis=-1))


def _plans(count: int, batch_size: int, seeds: Sequence[int], epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows ``[seeds, steps, batch_size]``, and which of them are real, the same for all seeds."""
    plans = [plan(count, batch_size=batch_size, seed=seed, epoch=epoch) for seed in seeds]
    return np.stack([each.rows for each in plans]), plans[0].real


def _programs(make_trainer: Callable[..., Trainer], names: tuple[str, ...], validation: Callable | None):
    """``start`` and ``epoch`` over lanes ``[seeds, combinations]``."""

    def trainer_of(values) -> Trainer:
        return make_trainer(**dict(zip(names, values, strict=True)))

    def start(key, values, examples) -> TrainState:
        return trainer_of(values).init(key, take(examples, jnp.zeros(1, jnp.int32), jnp.ones(1)))

    def epoch(state, values, examples, rows, real):
        step: Any = trainer_of(values).step
        state, infos = jax.lax.scan(
            lambda state, chosen: step.__wrapped__(state, take(examples, *chosen)), state, (rows, real)
        )
        loss = (infos.loss * infos.weight).sum() / infos.weight.sum()
        value = jnp.nan if validation is None else validation(state.params, state.state)
        return state, (loss, jnp.asarray(value, jnp.float32), infos.status.max())

    def over_lanes(function, seed_axes, lane_axes):
        return jax.vmap(jax.vmap(function, in_axes=lane_axes), in_axes=seed_axes)

    starts = over_lanes(start, (0, None, None), (None, 0, None))
    epochs = over_lanes(epoch, (0, None, None, 0, None), (0, 0, None, None, None))
    return jax.jit(starts), jax.jit(epochs, donate_argnums=(0,))


@cached_factory
def ensemble(model: Model, *, reduce: str = "mean") -> Model:
    """One model out of members whose parameters and state are stacked ``[members, ...]``, as ``fit`` leaves them.

    Args:
      reduce: "mean" of the outputs; "mixture", logits of the mean of the members' probabilities, by softmax over the
        last axis; or "none": outputs ``[members, n, ...]``, whose spread says how far the members agree.

    >>> from jaxmodels.core import Model
    >>> scale = Model(lambda key, inputs: (2.0, {}), lambda params, state, inputs, **_: (params * inputs, state))
    >>> ensemble(scale).apply(jnp.array([1.0, 3.0]), {}, jnp.ones(2))[0].tolist()
    [2.0, 2.0]
    """
    if reduce not in REDUCTIONS:
        raise InputError(f"reduce: {reduce!r} is none of {', '.join(REDUCTIONS)}")

    def apply(params, state, inputs, *, train=False, key=None, weights=None):
        members = jax.tree.leaves(params)[0].shape[0]
        keys = None if key is None else jax.random.split(key, members)
        one = functools.partial(model.apply, train=train, weights=weights)
        outputs, state = jax.vmap(lambda p, s, k: one(p, s, inputs, key=k))(params, state, keys)
        if reduce == "mean":
            outputs = outputs.mean(axis=0)
        if reduce == "mixture":
            outputs = jax.nn.logsumexp(jax.nn.log_softmax(outputs), axis=0) - jnp.log(members)
        return outputs, state

    return Model(_no_init, apply)


def _no_init(key, inputs):
    raise InputError("ensemble: its members are trained apart; give it their stacked params and state")

"""Perceptrons of tables: a few that differ by their seeds and by the rows that tell them when to stop, averaged."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmodels import epochs, mlp, split, sweeps, train
from jaxmodels.core import Batch, Model, PyTree
from jaxmodels.predictor.options import Options
from jaxmodels.predictor.task import Fitted, Task

VALIDATION = 0.15
"""Share of the rows by which a member knows when to stop."""
PATIENCE = 20
WEIGHT_DECAY = 1e-3
FEWEST_STEPS, BATCH_SIZES = 64, (32, 256)
"""An epoch has so many steps at least where the bounds of the batch size admit it."""


def model(task: Task, options: Options) -> Model:
    """One member."""
    return mlp.model(hidden_sizes=options.hidden_sizes, num_outputs=task.num_outputs, activation="relu")


def fit(x: np.ndarray, y: np.ndarray, training: np.ndarray, task: Task, options: Options) -> Fitted:
    x, y = x[training], y[training]
    level = np.array([y.mean(), y.std() or 1.0] if task.classes is None else [0, 1], np.float32)
    targets = ((y - level[0]) / level[1]).astype(np.float32) if task.classes is None else y.astype(np.int32)
    examples = Batch(x.astype(np.float32), targets)
    optimizer = optax.adamw(options.learning_rate, weight_decay=WEIGHT_DECAY)
    network = model(task, options)
    trainer = train.trainer(network, loss=task.loss, optimizer=optimizer)

    def member(number):
        return _member(trainer, network, task.loss, examples, options, options.seed + number)

    members = [member(number) for number in range(options.members)]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(member.state.params for member in members))
    remark = f"{len(members)} networks, after {', '.join(str(member.epoch) for member in members)} epochs"
    return Fitted({"members": params, "level": level}, None, remark)


def _member(
    trainer: train.Trainer, network: Model, loss: Any, examples: Batch, options: Options, seed: int
) -> epochs.Trained:
    rows = split.split(len(examples.targets), validation=VALIDATION, test=0.0, seed=seed)
    training, validated = _at(examples, rows.training), _at(examples, rows.validation)

    @jax.jit
    def validation(params, state):
        outputs, _ = network.apply(params, state, validated.inputs)
        return jnp.mean(loss(outputs, validated.targets))

    size = 2 ** round(np.log2(len(rows.training) / FEWEST_STEPS))
    return epochs.fit(
        trainer,
        trainer.init(jax.random.key(seed), training),
        training,
        batch_size=min(int(np.clip(size, *BATCH_SIZES)), len(rows.training)),
        num_epochs=options.epochs,
        seed=seed,
        validation=validation,
        patience=PATIENCE,
    )


def _at(examples: Batch, rows: np.ndarray) -> Batch:
    return Batch(examples.inputs[rows], examples.targets[rows])


def shapes(num_inputs: int, task: Task, options: Options) -> PyTree:
    rows = jax.ShapeDtypeStruct((1, num_inputs), jnp.float32)
    keys = jax.random.split(jax.random.key(0), options.members)
    params, _ = jax.eval_shape(jax.vmap(model(task, options).init, in_axes=(0, None)), keys, rows)
    return {"members": params, "level": jax.ShapeDtypeStruct((2,), jnp.float32)}


def outputs(params: PyTree, x: np.ndarray, task: Task, options: Options) -> Any:
    average = sweeps.ensemble(model(task, options))
    found, _ = average.apply(params["members"], {}, jnp.asarray(x, jnp.float32))
    return found * params["level"][1] + params["level"][0]

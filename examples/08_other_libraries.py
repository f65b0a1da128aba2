"""Networks of four libraries in one training loop: jaxmodels, Flax linen, Flax NNX and Equinox.

A ``Model`` is two functions, ``init`` and ``apply``; a dozen lines make any network one. Prints the held-out accuracy
of each on scikit-learn's breast cancer data, and how long an epoch took; seconds on two CPU cores.

    python examples/08_other_libraries.py [epochs]
"""

import sys

import equinox as eqx
import flax.linen
import flax.nnx as nnx
import jax
import numpy as np
import optax
from sklearn.datasets import load_breast_cancer

from jaxmodels import data, epochs, losses, mlp, train, wrap
from jaxmodels.core import Batch, Model

NUM_EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 30
HIDDEN, LEARNING_RATE, BATCH_SIZE = 32, 3e-3, 64


def from_equinox(make) -> Model:
    """``make(key)`` gives a module for one example: its arrays are trained, the rest stays where it is."""
    _, static = eqx.partition(make(jax.random.key(0)), eqx.is_inexact_array)

    def apply(params, state, inputs, *, train=False, key=None, weights=None):
        return jax.vmap(eqx.combine(params, static))(inputs), state

    return Model(lambda key, inputs: (eqx.filter(make(key), eqx.is_inexact_array), {}), apply)


def from_nnx(make) -> Model:
    """``make(rngs)`` gives a module: ``nnx.Param`` is trained, all other variables are state."""
    graph, *_ = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param, ...)

    def init(key, inputs):
        _, params, state = nnx.split(make(nnx.Rngs(params=key)), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(state)

    def apply(params, state, inputs, *, train=False, key=None, weights=None):
        module = nnx.merge(graph, nnx.State(params), nnx.State(state))
        return module(inputs), state

    return Model(init, apply)


linen_layers = [flax.linen.Dense(HIDDEN), flax.linen.relu, flax.linen.Dense(2)]
models = {
    "jaxmodels": mlp.model(hidden_sizes=(HIDDEN,), num_outputs=2),
    "linen": wrap.from_linen(flax.linen.Sequential(linen_layers)),
    "nnx": from_nnx(
        lambda rngs: nnx.Sequential(nnx.Linear(30, HIDDEN, rngs=rngs), nnx.relu, nnx.Linear(HIDDEN, 2, rngs=rngs))
    ),
    "equinox": from_equinox(lambda key: eqx.nn.MLP(30, 2, HIDDEN, depth=1, key=key)),
}

bunch = load_breast_cancer()
inputs = ((bunch.data - bunch.data.mean(axis=0)) / bunch.data.std(axis=0)).astype(np.float32)
labels = bunch.target.astype(np.int32)
rows = data.order(len(labels), seed=0, epoch=0)
held_out, training = rows[:114], Batch(inputs[rows[114:]], labels[rows[114:]])

for name, model in models.items():
    trainer = train.trainer(model, loss=losses.softmax_cross_entropy, optimizer=optax.adam(LEARNING_RATE))
    state = trainer.init(jax.random.key(0), training)
    seconds = []
    trained = epochs.fit(
        trainer,
        state,
        training,
        batch_size=BATCH_SIZE,
        num_epochs=NUM_EPOCHS,
        on_epoch=lambda progress, state, seconds=seconds: seconds.append(progress.seconds),
    )
    outputs, _ = model.apply(trained.state.params, trained.state.state, inputs[held_out])
    accuracy = np.mean(np.argmax(outputs, axis=1) == labels[held_out])
    print(f"{name}: held-out accuracy {accuracy:.3f}, {1000 * min(seconds):.1f} ms an epoch")

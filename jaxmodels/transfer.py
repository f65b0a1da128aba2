"""Transfer learning: a pretrained backbone, frozen or not, under a new head.

    backbone = given(backbone, params, state)
    model    = chain(freeze(backbone), head)     # first the head alone
    model    = chain(backbone, head)             # then everything, from `unfreeze(params, state)`

A frozen network runs on its running averages and its parameters live in ``state``, so no gradient of it is computed,
no optimizer holds memory for it and no weight decay touches it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmodels.core import InputError, Model, PyTree, cached_factory, chain, fold_model, stateless
from jaxmodels.networks import mlp

HEADS = ("linear", "dense")


def given(model: Model, params: PyTree, state: PyTree) -> Model:
    """``model`` whose ``init`` returns copies of these values, published weights for instance.

    >>> scale = Model(lambda key, inputs: (0.0, {}), lambda params, state, inputs, **_: (params * inputs, state))
    >>> given(scale, 2.0, {}).init(jax.random.key(0), jnp.ones(3))[0].item()
    2.0
    """

    def init(key, inputs):
        # Copies, because a training step donates what it is given.
        return jax.tree.map(jnp.array, (params, state))

    return model._replace(init=init)


@cached_factory
def freeze(model: Model) -> Model:
    """``model`` with nothing to train: its parameters move into ``state``, it runs with ``train=False``.

    >>> scale = Model(lambda key, inputs: (2.0, {}), lambda params, state, inputs, **_: (params * inputs, state))
    >>> freeze(scale).init(jax.random.key(0), jnp.ones(3))
    ((), {'params': 2.0, 'state': {}})
    """

    def init(key, inputs):
        params, state = model.init(key, inputs)
        return (), {"params": params, "state": state}

    def apply(params, state, inputs, *, train=False, key=None, weights=None):
        outputs, _ = model.apply(state["params"], state["state"], inputs, train=False)
        return jax.lax.stop_gradient(outputs), state

    def fold(params, state):
        return fold_model(model, state["params"], state["state"])

    return Model(init, apply, fold)


def unfreeze(params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    """From the values of ``chain(freeze(backbone), head)`` to those of ``chain(backbone, head)``.

    >>> unfreeze(((), "head"), ({"params": "backbone", "state": "averages"}, {}))
    (('backbone', 'head'), ('averages', {}))
    """
    return (state[0]["params"], *params[1:]), (state[0]["state"], *state[1:])


def standardize(mean: Float[Array, " d"], scale: Float[Array, " d"]) -> Model:
    """``(inputs - mean) / scale``, whose two constants are carried in ``state`` and not trained.

    >>> model = standardize(jnp.array([1.0]), jnp.array([2.0]))
    >>> params, state = model.init(jax.random.key(0), jnp.ones((1, 1)))
    >>> model.apply(params, state, jnp.array([[5.0]]))[0].tolist()
    [[2.0]]
    """

    def init(key, inputs):
        return (), {"mean": jnp.array(mean), "scale": jnp.array(scale)}

    def apply(params, state, inputs, *, train=False, key=None, weights=None):
        return (inputs - state["mean"]) / state["scale"], state

    return Model(init, apply)


def moments(features: Float[np.ndarray, "n d"]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column, 1 where a column is constant.

    >>> mean, scale = moments(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> mean.tolist(), scale.tolist()
    ([2.0, 5.0], [1.0, 1.0])
    """
    wide = features.astype(np.float64)
    scale = wide.std(axis=0)
    return wide.mean(axis=0).astype(features.dtype), np.where(scale > 0, scale, 1).astype(features.dtype)


@cached_factory
def head(kind: str, *, num_classes: int, hidden_size: int = 256, dropout: float = 0.0) -> Model:
    """What stands on the backbone: features ``[n, d]`` to logits ``[n, num_classes]``.

    Args:
      kind: "linear": dropout, Dense; or "dense": Dense(``hidden_size``), relu, dropout, Dense.
      num_classes: logits an example.

    >>> params, _ = head("dense", num_classes=2).init(jax.random.key(0), jnp.ones((1, 8)))
    >>> [layer["kernel"].shape for layer in params]
    [(8, 256), (256, 2)]
    """
    if kind == "linear":
        return chain(mlp.dropout(dropout), _from_zero(mlp.model(num_outputs=num_classes)))
    if kind == "dense":
        return mlp.model(hidden_sizes=(hidden_size,), num_outputs=num_classes, dropout=dropout)
    raise InputError(f"head: {kind!r} is none of {', '.join(HEADS)}")


def _from_zero(model: Model) -> Model:
    """A linear head's loss is convex: drawn weights would be noise to unlearn."""

    def init(key, inputs):
        params, state = model.init(key, inputs)
        return jax.tree.map(jnp.zeros_like, params), state

    return model._replace(init=init)


@cached_factory
def flatten() -> Model:
    """``[n, ...]`` to ``[n, d]``.

    >>> flatten().apply((), {}, jnp.ones((2, 7, 7, 8)))[0].shape
    (2, 392)
    """
    return stateless(lambda inputs: inputs.reshape(inputs.shape[0], -1))

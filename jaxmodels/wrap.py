"""Model -> Model: what changes how a network is computed, not what it is; and Flax's linen modules as ``Model``s.

half = wrap.in_dtype(wrap.rematerialise(model), "bfloat16")
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels.core import InputError, Model, PyTree, cached_factory

_PRODUCTS = ("dot_general", "conv_general_dilated")


@cached_factory
def in_dtype(model: Model, dtype: str) -> Model:
    """``model`` computed in another floating-point type, "bfloat16" say; outputs are float32 at least.

    Parameters, gradients, the optimizer's state and running averages keep their own type, which is what mixed
    precision means (Micikevicius et al. 2018). bfloat16 has float32's range, so that no loss is scaled.

    >>> seen = Model(lambda key, inputs: ((), {}), lambda params, state, inputs, **_: (inputs, state))
    >>> in_dtype(seen, "bfloat16").apply((), {}, jnp.array([1.001]))[0]
    Array([1.], dtype=float32)
    """
    if not jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
        raise InputError(f"dtype: needs a floating-point type, got {dtype!r}; use 'bfloat16' or 'float32'")

    def apply(params, state, inputs, **options):
        outputs, carried = model.apply(_cast(params, dtype), state, _cast(inputs, dtype), **options)
        carried = jax.tree.map(lambda new, old: jnp.asarray(new, jnp.asarray(old).dtype), carried, state)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), outputs), carried

    return Model(model.init, apply)


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    def cast(leaf):
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


@cached_factory
def rematerialise(model: Model) -> Model:
    """``model`` whose backward pass keeps matrix products and convolutions alone, and computes the rest again.

    Activations, norms and dropout masks cost memory and hardly any time. Same outputs, same gradients.

    Source: Chen et al. (2016), Training deep nets with sublinear memory cost.
    """

    def apply(params, state, inputs, *, train=False, key=None, weights=None):
        run = jax.checkpoint(functools.partial(model.apply, train=train), policy=_keeps_products)
        return run(params, state, inputs, key=key, weights=weights)

    return model._replace(apply=apply)


def _keeps_products(primitive, *_, **__) -> bool:
    return primitive.name in _PRODUCTS


def from_linen(module: Any) -> Model:
    """A ``flax.linen`` module as a ``Model``: collection ``"params"`` is trained, all others are state.

    A ``__call__`` with an argument ``train``, ``training`` or ``deterministic`` is told which it is; the streams of
    random numbers are "params" and "dropout". Keep the result: a second one of the same module is compiled again.

    >>> import flax.linen
    >>> model = from_linen(flax.linen.Dense(3))
    >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
    >>> model.apply(params, state, jnp.ones((2, 4)))[0].shape, state
    ((2, 3), {})
    """
    asked = inspect.signature(type(module).__call__).parameters

    def mode(train):
        modes = {"train": train, "training": train, "deterministic": not train}
        return {name: value for name, value in modes.items() if name in asked}

    def init(key, inputs):
        variables = dict(module.lazy_init({"params": key}, inputs, **mode(False)))
        return variables.pop("params", {}), variables

    def apply(params, state, inputs, *, train=False, key=None, weights=None):
        variables = {"params": params, **state}
        if not train:
            return module.apply(variables, inputs, **mode(False)), state
        rngs = {} if key is None else {"dropout": key}
        outputs, carried = module.apply(variables, inputs, rngs=rngs, mutable=list(state), **mode(True))
        return outputs, dict(carried)

    return Model(init, apply)

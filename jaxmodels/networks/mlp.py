"""The multilayer perceptron: ``h_0 = x``, ``h_l = activation(h_{l-1} W_l + b_l)``, the last layer without activation.

``params`` is a tuple with one ``{"kernel": [m, k], "bias": [k]}`` a layer. ``init`` and ``apply`` are the network
in its plainest form, ``forward`` and ``backward`` its algorithm written out, ``model`` the same as a ``Model``
with normalisation, residual connections and dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.core import InputError, Model, cached_factory

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda inputs: inputs,
}

INITIALIZERS: dict[str, Callable[..., Array]] = {
    "he_normal": jax.nn.initializers.he_normal(),
    "he_uniform": jax.nn.initializers.he_uniform(),
    "glorot_normal": jax.nn.initializers.glorot_normal(),
    "glorot_uniform": jax.nn.initializers.glorot_uniform(),
    "lecun_normal": jax.nn.initializers.lecun_normal(),
    "lecun_uniform": jax.nn.initializers.lecun_uniform(),
    "orthogonal": jax.nn.initializers.orthogonal(),
    "zeros": jax.nn.initializers.zeros,
}
"""``(key, [m, k], dtype) -> kernel``: variance 2 / m (he), 2 / (m + k) (glorot), 1 / m (lecun), or orthonormal."""

NORMS = ("none", "layer", "batch")
EPSILON, MOMENTUM = 1e-5, 0.9
"""Added to a variance; the share of the old running average that batch normalisation keeps each step."""

Params = tuple[dict[str, Array], ...]


def init(key: Array, sizes: Sequence[int], *, initializer: str = "he_normal", dtype: Any = jnp.float32) -> Params:
    """Draw the parameters of layers ``sizes[0] -> sizes[1] -> ...``; biases are zero.

    Args:
      sizes: units of each layer, inputs first.
      initializer: of the kernels, one of ``INITIALIZERS``; default: normal with variance 2 / fan_in (He et al. 2015).

    >>> [layer["kernel"].shape for layer in init(jax.random.key(0), (3, 8, 1))]
    [(3, 8), (8, 1)]
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise InputError(f"sizes: needs two or more positive sizes, inputs first, got {tuple(sizes)}")
    kernel = _named("initializer", initializer, INITIALIZERS)
    keys = jax.random.split(key, len(sizes) - 1)
    return tuple(
        {"kernel": kernel(layer_key, (fan_in, fan_out), dtype), "bias": jnp.zeros(fan_out, dtype)}
        for layer_key, fan_in, fan_out in zip(keys, sizes[:-1], sizes[1:], strict=True)
    )


def apply(params: Params, inputs: Float[Array, "n d"], *, activation: str = "relu") -> Float[Array, "n k"]:
    """The outputs (logits, predictions) of the network.

    >>> layer = {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}
    >>> apply((layer,), jnp.array([[1.0, 2.0]])).tolist()
    [[3.0]]
    """
    return forward(params, inputs, activation=activation)[-1]


def forward(params: Params, inputs: Float[Array, "n d"], *, activation: str = "relu") -> tuple[Array, ...]:
    """Forward propagation, keeping the activations: ``(h_0 = inputs, h_1, ..., h_L = outputs)``."""
    function = _activation(activation)
    activations = [inputs]
    for layer in params[:-1]:
        activations.append(function(activations[-1] @ layer["kernel"] + layer["bias"]))
    last = params[-1]
    return (*activations, activations[-1] @ last["kernel"] + last["bias"])


def backward(
    params: Params, activations: Sequence[Array], output_gradient: Float[Array, "n k"], *, activation: str = "relu"
) -> Params:
    """Backward propagation: the gradient of a loss with respect to ``params``, given that to the outputs.

    With ``g_L = dloss/dh_L`` and ``z_l = h_{l-1} W_l + b_l``, from the last layer to the first
    (Rumelhart, Hinton and Williams 1986):

        dloss/dW_l = h_{l-1}' g_l,    dloss/db_l = sum_i g_l,    g_{l-1} = (g_l W_l') * activation'(z_{l-1})

    Args:
      activations: what ``forward`` returned.
      output_gradient: ``[n, k]``.

    >>> params = init(jax.random.key(0), (2, 4, 1))
    >>> x = jnp.array([[1.0, 2.0], [3.0, -1.0]])
    >>> activations = forward(params, x)
    >>> ours = backward(params, activations, 2 * activations[-1])
    >>> theirs = jax.grad(lambda p: jnp.sum(apply(p, x) ** 2))(params)
    >>> all(bool(jnp.allclose(a, b)) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)))
    True
    """
    function = _activation(activation)
    gradient, gradients = output_gradient, []
    for index in reversed(range(len(params))):
        below = activations[index]
        gradients.append({"kernel": below.T @ gradient, "bias": gradient.sum(axis=0)})
        if index > 0:
            layer = params[index - 1]
            before = activations[index - 1] @ layer["kernel"] + layer["bias"]
            gradient = jax.vjp(function, before)[1](gradient @ params[index]["kernel"].T)[0]
    return tuple(reversed(gradients))


@cached_factory
def model(
    *,
    hidden_sizes: tuple[int, ...] = (),
    num_outputs: int = 1,
    activation: str = "relu",
    dropout: float = 0.0,
    norm: str = "none",
    residual: bool = False,
    initializer: str = "he_normal",
) -> Model:
    """The network as a ``Model``; ``hidden_sizes=()`` is a linear model.

        h_l = [h_{l-1} +] dropout(activation(norm(h_{l-1} W_l) + b_l))

    Args:
      hidden_sizes: units of the hidden layers.
      num_outputs: 0 gives outputs ``[n]`` (one number an example), ``k`` gives ``[n, k]``.
      activation: one of ``ACTIVATIONS``.
      dropout: the share of hidden units dropped in training, in [0, 1).
      norm: "none"; "layer", over the units of an example (Ba et al. 2016); or "batch", over the examples
        (Ioffe and Szegedy 2015), whose running averages are ``state["batch_stats"]``. Both have a trained ``"scale"``.
      residual: a hidden layer as wide as the one before it adds its input to its output (He et al. 2016).
      initializer: one of ``INITIALIZERS``.

    >>> network = model(hidden_sizes=(16,), num_outputs=3)
    >>> params, state = network.init(jax.random.key(0), jnp.ones((5, 4)))
    >>> network.apply(params, state, jnp.ones((5, 4)))[0].shape
    (5, 3)
    """
    function = _activation(activation)
    _check_rate(dropout)
    _named("initializer", initializer, INITIALIZERS)
    if norm not in NORMS:
        raise InputError(f"norm: {norm!r} is none of {', '.join(NORMS)}")

    def init_model(key, inputs):
        if len(inputs.shape) != 2:
            raise InputError(f"inputs: a perceptron needs [n, d], got {inputs.shape}; flatten them with reshape(n, -1)")
        sizes = (inputs.shape[1], *hidden_sizes, max(num_outputs, 1))
        params = init(key, sizes, initializer=initializer, dtype=inputs.dtype)
        if norm != "none":
            hidden = tuple({**layer, "scale": jnp.ones_like(layer["bias"])} for layer in params[:-1])
            params = (*hidden, params[-1])
        averages = tuple(_first_averages(layer["bias"]) for layer in params[:-1])
        return params, {"batch_stats": averages} if norm == "batch" else {}

    def apply_model(params, state, inputs, *, train=False, key=None, weights=None):
        averages = list(state.get("batch_stats", ()))
        for index, layer in enumerate(params[:-1]):
            before = inputs @ layer["kernel"]
            if norm == "layer":
                before = _standardised(before, *_moments(before, axis=1)) * layer["scale"]
            if norm == "batch":
                moments, averages[index] = _batch_moments(before, averages[index], weights, train)
                before = _standardised(before, *moments) * layer["scale"]
            hidden = function(before + layer["bias"])
            if train and dropout:
                hidden = _drop(key, index, hidden, dropout)
            inputs = inputs + hidden if residual and hidden.shape == inputs.shape else hidden
        outputs = inputs @ params[-1]["kernel"] + params[-1]["bias"]
        state = {"batch_stats": tuple(averages)} if norm == "batch" else state
        return (outputs if num_outputs else outputs[:, 0]), state

    return Model(init_model, apply_model)


def _first_averages(like: Array) -> dict[str, Array]:
    wide = jnp.promote_types(like.dtype, jnp.float32)
    return {"mean": jnp.zeros(like.shape, wide), "variance": jnp.ones(like.shape, wide)}


def _batch_moments(inputs: Array, averages: dict[str, Array], weights: Array | None, train: bool):
    """The moments to normalise by, and the running averages after this batch; padding is in neither."""
    if not train:
        return (averages["mean"], averages["variance"]), averages
    kept = jnp.ones(inputs.shape[0]) if weights is None else weights > 0
    mean, variance = _moments(inputs, axis=0, kept=kept[:, None])
    carried = {
        "mean": MOMENTUM * averages["mean"] + (1 - MOMENTUM) * mean[0],
        "variance": MOMENTUM * averages["variance"] + (1 - MOMENTUM) * variance[0],
    }
    return (mean, variance), carried


def _moments(inputs: Array, *, axis: int, kept: Array | float = 1.0) -> tuple[Array, Array]:
    """Mean and variance along an axis, in float32 at least, of the rows that are kept."""
    wide = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
    kept = jnp.broadcast_to(kept, wide.shape).astype(wide.dtype)
    count = jnp.maximum(kept.sum(axis, keepdims=True), 1)
    mean = (wide * kept).sum(axis, keepdims=True) / count
    return mean, (kept * (wide - mean) ** 2).sum(axis, keepdims=True) / count


def _standardised(inputs: Array, mean: Array, variance: Array) -> Array:
    return ((inputs - mean) * jax.lax.rsqrt(variance + EPSILON)).astype(inputs.dtype)


@cached_factory
def dropout(rate: float) -> Model:
    """Dropout by itself: in training each input is 0 with probability ``rate``, the rest scaled up (Srivastava 2014).

    >>> outputs, _ = dropout(0.5).apply((), {}, jnp.ones((1, 1000)), train=True, key=jax.random.key(0))
    >>> sorted(set(outputs[0].tolist()))
    [0.0, 2.0]
    """

    _check_rate(rate)

    def apply(params, state, inputs, *, train=False, key=None, weights=None):
        return (_drop(key, 0, inputs, rate) if train and rate else inputs), state

    return Model(lambda key, inputs: ((), {}), apply)


def _check_rate(rate: float) -> None:
    if not 0 <= rate < 1:
        raise InputError(f"dropout: needs a share in [0, 1), got {rate}")


def _drop(key: Array | None, index: int, inputs: Array, rate: float) -> Array:
    if key is None:
        raise InputError("key: dropout needs one when train=True; pass key=jax.random.key(seed)")
    kept = jax.random.bernoulli(jax.random.fold_in(key, index), 1 - rate, inputs.shape)
    return jnp.where(kept, inputs / (1 - rate), 0)


def _activation(name: str) -> Callable[[Array], Array]:
    return _named("activation", name, ACTIVATIONS)


def _named(argument: str, name: str, table: dict[str, Callable[..., Array]]) -> Callable[..., Array]:
    if name not in table:
        raise InputError(f"{argument}: {name!r} is none of {', '.join(table)}")
    return table[name]
